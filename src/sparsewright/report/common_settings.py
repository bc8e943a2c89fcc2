"""The settings that all runs of a comparison share and that their recipes do not have of their own."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sparsewright.report.compared_run import ComparedRun
from sparsewright.report.configuration import recipe_settings
from sparsewright.report.settings_apart import settings_apart
from sparsewright.training.errors import RecipeError
from sparsewright.training.recipe import Recipe
from sparsewright.training.recipe_files import list_recipes, load_recipe


def common_settings(runs: Sequence[ComparedRun]) -> dict[str, str]:
    """Key -> value as text, such as duration -> 10ep; nothing of recipes that are not shipped, or no longer so."""
    chosen = {(run.recipe.name, run.recipe.method.name): run.recipe for run in runs}
    own = {key: _own(recipe) for key, recipe in chosen.items()}
    changes = [_changes(run.recipe, own[run.recipe.name, run.recipe.method.name]) for run in runs]
    common = {
        key: value for key, value in changes[0].items() if all(change.get(key) == value for change in changes[1:])
    }
    # What is set for whichever method is an option of the one at hand too.
    twice = {key.replace("method_defaults.", "method.", 1) for key in common if key.startswith("method_defaults.")}
    return {key: value for key, value in common.items() if key not in twice}


def _changes(recipe: Recipe, own: Recipe | None) -> dict[str, str]:
    return {} if own is None else settings_apart([recipe_settings(recipe), recipe_settings(own)])[0]


def _own(recipe: Recipe) -> Recipe | None:
    """The recipe of that name as it is shipped, with the same method and sparsity."""
    if recipe.name not in {info.name for info in list_recipes()}:
        return None
    sparsity = [] if recipe.sparsity is None else [f"sparsity={json.dumps(recipe.sparsity)}"]
    try:
        return load_recipe(recipe.name, [f"method={recipe.method.name}", *sparsity])
    except RecipeError:
        return None
