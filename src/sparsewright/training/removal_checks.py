"""Whether a network can lose what a recipe asks for, told before anything is trained."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

import sparsewright as sw
from sparsewright.structured import plan_removal
from sparsewright.training.auto_duration import method_steps, methods_with_own_length
from sparsewright.training.method_options import with_granularity
from sparsewright.training.recipe import Recipe, Stage
from sparsewright.training.stage_errors import named_stage


def check_removals(recipe: Recipe, model: nn.Module, example_input: Tensor, steps_per_epoch: int) -> None:
    """Tries what the stages of ``recipe`` will remove on copies of the network, as it is at the start.

    Args:
        recipe: the recipe.
        model: its network; it is left as it is.
        example_input: images, samples first, on its device.
        steps_per_epoch: to convert durations.

    Raises:
        ValueError, TypeError: ratios that do not fit the layers, a stage too short for its method, an option that is
            not allowed, or a network that cannot be made smaller; the message names the stage.
        ModuleNotFoundError: there is a shrink stage, and torch-pruning is not installed.
    """
    groups: sw.PrunedGroups | None = None
    for stage in recipe.resolved_stages():
        if stage.needs_sparsity and stage.method.name in with_granularity():
            groups = _try_method(recipe, stage, model, steps_per_epoch)
        elif stage.kind == "shrink" and groups is not None:
            _try_shrinking(stage, model, example_input, groups)


def _try_method(recipe: Recipe, stage: Stage, model: nn.Module, steps_per_epoch: int) -> sw.PrunedGroups | None:
    trial = copy.deepcopy(model)
    options = recipe.method_options_in_steps(stage, steps_per_epoch)
    total = max(recipe.stage_steps(stage, steps_per_epoch), 1)
    with named_stage(stage), warnings.catch_warnings():
        # They come again when the stage begins.
        warnings.simplefilter("ignore")
        _check_length(stage, total, options)
        optimizer = torch.optim.SGD(trial.parameters(), lr=0.0)
        sparsifier = sw.create(
            stage.method.name, trial, optimizer, sparsity=stage.sparsity, total_steps=total, **options
        )
    sparsifier.detach()
    return getattr(sparsifier, "pruned_groups", None)


def _check_length(stage: Stage, total: int, options: Mapping[str, Any]) -> None:
    if stage.method.name not in methods_with_own_length():
        return
    needed = method_steps(stage.method.name, options)
    if total < needed:
        raise ValueError(
            f"duration {stage.duration} has {total} optimizer steps, and with these options {needed} may be needed; "
            "use duration auto, or change reg_step, reg_interval, reg_limit or stabilize_steps"
        )


def _try_shrinking(stage: Stage, model: nn.Module, example_input: Tensor, groups: sw.PrunedGroups) -> None:
    with named_stage(stage):
        plan_removal(model, example_input, groups)
