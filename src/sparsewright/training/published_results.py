"""Published numbers that a recipe names, to stand beside our own."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field


class Published(BaseModel):
    """One accuracy from the literature.

    Attributes:
        accuracy: test accuracy in per cent; 1 and less is refused as a fraction.
        source: where it stands.
        method: the method it was reached with; None for any that the recipe is run with.
        sparsity: likewise.
        changed: settings of ours that differ from the recipe's, besides method and sparsity.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    accuracy: float = Field(gt=1, le=100)
    source: str = Field(min_length=1)
    method: str | None = None
    sparsity: float | None = Field(default=None, ge=0, lt=1)
    changed: tuple[str, ...] = ()


def find_published(numbers: Iterable[Published], method: str, sparsity: float | None) -> Published | None:
    """The first of ``numbers`` for a method at a sparsity (None for a dense network); None where there is none."""
    for number in numbers:
        same_sparsity = sparsity is not None and number.sparsity is not None and abs(number.sparsity - sparsity) < 1e-9
        if number.method in (None, method) and (number.sparsity is None or same_sparsity):
            return number
    return None
