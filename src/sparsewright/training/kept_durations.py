"""Stages that an override of the recipe's duration does not reach."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from sparsewright.training.duration import Share
from sparsewright.training.recipe import Recipe


def warn_of_kept_durations(recipe: Recipe, overrides: Sequence[str]) -> None:
    """Warns where ``overrides`` set the duration of the whole recipe, and stages keep durations of their own.

    Args:
        recipe: as it was loaded with them.
        overrides: ``key=value`` each, as for ``load_recipe``.

    Warns:
        UserWarning: the stages that keep theirs, and how to set them, unless the overrides give those as well.
    """
    values = {key.strip(): value for key, _, value in (text.partition("=") for text in overrides)}
    if "duration" not in values or "stages" in values:
        return
    kept = [
        index
        for index, stage in enumerate(recipe.stages)
        if stage.duration is not None
        and not isinstance(stage.duration, Share)
        and not {f"stages.{index}", f"stages.{index}.duration"} & values.keys()
    ]
    if not kept:
        return
    stages = recipe.resolved_stages()
    named = ", ".join(f"{stages[index].name} ({stages[index].duration})" for index in kept)
    keys = ", ".join(f"stages.{index}.duration=..." for index in kept)
    warnings.warn(
        f"duration={values['duration']} does not reach stages with a duration of their own, which they keep: {named}; "
        f"set it with {keys}",
        stacklevel=2,
    )
