"""The records of runs that are in the folder of a sweep: are they whole, and of this sweep?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from sparsewright.sweep.plan import Cell, Sweep
from sparsewright.training.errors import RecipeError
from sparsewright.training.folder import (
    ANOTHER_FOLDER,
    RECIPE,
    SETTINGS,
    SUMMARY,
    RunFolderError,
    read_settings,
    read_summary,
)
from sparsewright.training.recipe_files import load_recipe, parse_yaml

_NUMBERS = ("epochs", "steps", "sparsity", "train_seconds")


def read_finished(cell: Cell) -> dict[str, Any]:
    """The summary of a finished run, whose recipe and settings are whole too.

    Raises:
        ValueError: one of these files is missing, damaged or of another run; says what to do.
    """
    try:
        summary = read_summary(cell.folder)
    except RunFolderError:
        summary = {}
    # A network that was not evaluated has the accuracy None.
    accuracy = 0 if summary.get("test_accuracy", "") is None else summary.get("test_accuracy")
    if not all(_is_finite(value) for value in (accuracy, *map(summary.get, _NUMBERS))):
        raise ValueError(f"{SUMMARY} is damaged; delete it, and the same command finishes the run again")
    try:
        read_settings(cell.folder)
    except (OSError, RunFolderError) as error:
        raise _damaged(SETTINGS) from error
    try:
        there = load_recipe(str(cell.folder / RECIPE))
    except RecipeError as error:
        raise _damaged(RECIPE) from error
    if there.digest() != cell.recipe.digest():
        raise _damaged(RECIPE)
    return summary


def check_root(sweep: Sweep) -> None:
    """Refuses a folder for the runs of ``sweep`` that is of something else.

    Raises:
        RunFolderError: it is a file, a run, a pruning-plasticity study, or has runs of another recipe in it.
    """
    root = sweep.root
    if root.exists() and not root.is_dir():
        raise RunFolderError(f"{root} is a file and not a folder", ANOTHER_FOLDER)
    if (root / RECIPE).exists():
        raise RunFolderError(f"{root} is the folder of one run", ANOTHER_FOLDER)
    if any(root.glob(f"seed-*/base/{RECIPE}")):
        raise RunFolderError(f"{root} holds a pruning-plasticity study", ANOTHER_FOLDER)
    names = {cell.recipe.name for cell in sweep.cells}
    planned = {cell.folder for cell in sweep.cells}
    for file in sorted(root.glob(f"*/{RECIPE}")):
        if file.parent not in planned and (name := _recipe_name(file)) not in {None, *names}:
            raise RunFolderError(
                f"{root} holds runs of the recipe {name}, such as {file.parent.name}, and this sweep is of "
                f"{', '.join(sorted(names))}",
                ANOTHER_FOLDER,
            )


def _damaged(name: str) -> ValueError:
    return ValueError(
        f"{name} is missing, damaged or of another run; delete the folder, and the same command trains the run anew"
    )


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _recipe_name(file: Path) -> str | None:
    """What a recipe in a run folder is called; None where it cannot be read."""
    try:
        content = parse_yaml(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content.get("name") if isinstance(content, dict) else None
