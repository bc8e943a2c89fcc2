"""Errors of the library about a stage of a recipe, with the stage's name."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsewright.training.recipe import Stage


@contextmanager
def named_stage(stage: Stage) -> Generator[None, None, None]:
    """Puts the name of ``stage``, and its method if it has a use, in front of a ValueError or TypeError."""
    try:
        yield
    except (ValueError, TypeError) as error:
        method = f", method {stage.method.name}" if stage.needs_sparsity else ""
        raise type(error)(f"stage {stage.name}{method}: {error}") from error
