"""The recipes of the stages of a ticket experiment, taken out of one recipe."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from sparsewright.checks import join_names
from sparsewright.ratios import Ratios
from sparsewright.training.errors import RecipeError
from sparsewright.training.method_options import DENSE, options_in_force
from sparsewright.training.recipe import Recipe, Stage

GSM = "gsm"
MAGNITUDE = "magnitude"
ITERATIVE = "iterative"
FINDS = (GSM, MAGNITUDE, ITERATIVE)

_TRAINING = {"duration", "optimizer", "schedule", "label_smoothing", "gradient_clip"}


def base_stage(recipe: Recipe) -> Stage:
    """The stage that trains the dense network.

    Raises:
        RecipeError: there is not exactly one before the first stage that makes the network sparse.
    """
    stages = recipe.resolved_stages()
    first_sparse = next((index for index, stage in enumerate(stages) if stage.needs_sparsity), len(stages))
    dense = [stage for stage in stages[:first_sparse] if stage.kind == "train"]
    if len(dense) == 1:
        return dense[0]
    if dense:
        raise RecipeError(
            f"recipe {recipe.name}: a ticket needs one dense train stage before the first that makes the network "
            f"sparse, and there are {len(dense)}: {join_names(stage.name for stage in dense)}"
        )
    first = stages[min(first_sparse, len(stages) - 1)]
    raise RecipeError(
        f"recipe {recipe.name}: a ticket starts from a dense network, and no stage trains one before stage "
        f"{first.name} (method {first.method.name}); {method_of_ticket()}"
    )


def method_of_ticket() -> str:
    """The end of a sentence about a method where a ticket needs dense training."""
    return f"its base must stay of method {DENSE}, and find (--find) chooses how it is found: {', '.join(FINDS)}"


def method_stage(recipe: Recipe, method: str) -> Stage | None:
    """The first stage that makes the network sparse by ``method``; None without one."""
    return next((stage for stage in recipe.resolved_stages() if _makes_sparse_by(stage, method)), None)


def recipe_sparsity(recipe: Recipe, method: str) -> Ratios | None:
    """The sparsity that the recipe gives to ``method``, or else to its first sparse stage; None without one."""
    sparse = [stage for stage in recipe.resolved_stages() if stage.needs_sparsity]
    by_method = [stage for stage in sparse if _makes_sparse_by(stage, method)]
    return next((stage.sparsity for stage in [*by_method, *sparse]), None)


def base_recipe(recipe: Recipe) -> Recipe:
    """Dense training alone; equal settings give an equal digest, from however many stages they were taken."""
    return _train_recipe(recipe, base_stage(recipe), {})


def gsm_recipe(recipe: Recipe, sparsity: float) -> Recipe:
    """GSM alone, with the settings of the recipe's own stage of it, or else those of the dense stage.

    Warns:
        UserWarning: the recipe has no stage of GSM.
    """
    stage = method_stage(recipe, GSM)
    if stage is None:
        warnings.warn(
            f"recipe {recipe.name} has no stage of method gsm, which takes the settings of the dense stage then; its "
            "paper trains it with a momentum of 0.98 or more and a smaller learning rate than the dense network",
            stacklevel=2,
        )
    return _train_recipe(recipe, stage or base_stage(recipe), {"method": _method(recipe, GSM), "sparsity": sparsity})


def prune_recipe(recipe: Recipe, sparsity: float) -> Recipe:
    """Pruning by magnitude in one shot, with the options of the recipe's own stage of it, or else over all layers.

    The network is evaluated before and after it.
    """
    prune = {"kind": "prune", "method": _method(recipe, MAGNITUDE), "sparsity": sparsity}
    duration = str(base_stage(recipe).duration)
    return _validated(recipe, {"duration": duration, "stages": [{"kind": "evaluate"}, prune]})


def warn_of_unused_stages(recipe: Recipe) -> None:
    """Warns of stages that have no part in any ticket experiment."""
    used = (base_stage(recipe), method_stage(recipe, GSM), method_stage(recipe, MAGNITUDE))
    unused = [stage.name for stage in recipe.resolved_stages() if not any(stage is other for other in used)]
    if unused:
        warnings.warn(
            f"recipe {recipe.name} has stages without a part in the search for a ticket, which are not run: "
            f"{join_names(unused)}",
            stacklevel=2,
        )


def _makes_sparse_by(stage: Stage, method: str) -> bool:
    return stage.needs_sparsity and stage.method.name == method


def _method(recipe: Recipe, method: str) -> dict[str, Any]:
    stage = method_stage(recipe, method)
    own = stage.method.options if stage is not None else {}
    return {"name": method, **options_in_force(method, recipe.method_defaults, own)}


def _train_recipe(recipe: Recipe, stage: Stage, changes: Mapping[str, Any]) -> Recipe:
    training = stage.model_dump(mode="json", include=_TRAINING)
    return _validated(recipe, {**training, "stages": [{"kind": "train"}], **changes})


def _validated(recipe: Recipe, tree: Mapping[str, Any]) -> Recipe:
    # Only what the stage uses: a setting without effect on it must not change its digest.
    shared = recipe.model_dump(mode="json", include={"data", "model", "log_rank_every"})
    return Recipe.model_validate({"name": recipe.name, **shared, **tree})
