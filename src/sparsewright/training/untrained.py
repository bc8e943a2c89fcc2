"""Stages of GReg that meet an untrained network, told before anything is trained."""

from __future__ import annotations

import warnings

from sparsewright.training.auto_duration import methods_with_own_length
from sparsewright.training.recipe import Recipe


class UntrainedWarning(UserWarning):
    """A stage of GReg that starts from random weights."""


def warn_of_untrained(recipe: Recipe, *, trained: bool) -> None:
    """Warns of the first stage of GReg where nothing has trained the network before it.

    Args:
        recipe: the recipe; a network with weights in its name (``@``) counts as trained.
        trained: whether the run starts from the weights of a file.

    Warns:
        UntrainedWarning: with how to get a trained network.
    """
    if trained or "@" in recipe.model.name:
        return
    first = next((stage for stage in recipe.resolved_stages() if stage.kind == "train"), None)
    if first is not None and first.method.name in methods_with_own_length():
        warnings.warn(
            f"stage {first.name}: {first.method.name} is made for a trained network, and here it starts from random "
            "weights, among which it chooses what to remove; put a stage with method dense before it, or start from "
            "the weights of a run (--weights)",
            UntrainedWarning,
            stacklevel=2,
        )
