"""Which runs have the same settings, and what those of the same recipe and method do not share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsewright.report.compared_run import ComparedRun
from sparsewright.report.settings_apart import settings_apart
from sparsewright.training.method_options import default_options, options_in_force
from sparsewright.training.recipe import WITHOUT_EFFECT, Recipe


def settings_key(run: ComparedRun) -> tuple[Any, ...]:
    """The same for runs of the same settings: all that decides numbers but the seed and the files they start from."""
    start = run.start
    precision = run.settings.precision if run.settings is not None else None
    return run.recipe.digest(), precision, start.weights is None, start.masks is None, start.step


def configurations(runs: Sequence[ComparedRun]) -> list[dict[str, str]]:
    """For each of some runs of the same recipe and method, the settings besides seed and target that not all share.

    The files that runs start from count only where others do not tell two of them apart: each seed, and each target,
    usually has its own.
    """
    keys = [settings_key(run) for run in runs]
    with_files = len(set(keys)) < len(keys)
    return settings_apart([_settings(run, with_files) for run in runs])


def recipe_settings(recipe: Recipe) -> dict[str, Any]:
    """All settings of a recipe that decide numbers, the target aside; of its method with those that it leaves out."""
    tree = _without_target(
        {key: value for key, value in recipe.resolved().items() if key not in WITHOUT_EFFECT}, recipe
    )
    in_force = options_in_force(recipe.method.name, recipe.method_defaults, recipe.method.options)
    # With the defaults, so that an option that only one of two runs sets has a value in both.
    return tree | {"method": {"name": recipe.method.name, **default_options(recipe.method.name), **in_force}}


def _settings(run: ComparedRun, with_files: bool) -> dict[str, Any]:
    tree, start = recipe_settings(run.recipe), run.start
    if run.settings is not None:
        tree["precision"] = run.settings.precision
    weights, masks = start.weights, start.masks
    if not with_files:
        weights, masks = "fresh" if weights is None else "given", "none" if masks is None else "given"
    return tree | {"weights": weights, "masks": masks, "step": start.step}


def _without_target(tree: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """A recipe's settings without the sparsity that its last sparse stage has, or inherits."""
    sparse = [index for index, stage in enumerate(recipe.resolved_stages()) if stage.needs_sparsity]
    stages = [dict(stage) for stage in tree["stages"]]
    own = stages[sparse[-1]].pop("sparsity", None) if sparse else None
    inherited = {"sparsity"} if sparse and own is None else set()
    return {key: value for key, value in tree.items() if key not in inherited} | {"stages": stages}
