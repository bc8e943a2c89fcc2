"""``sparsewright plasticity``: how it reads its recipe, and what it prints."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from sparsewright.cli import tables
from sparsewright.plasticity import PlasticityMoment, PlasticityResult, Spread
from sparsewright.plasticity.layout import RECORD
from sparsewright.sweep.grid import split_values
from sparsewright.training import RecipeError, load_recipe
from sparsewright.training.recipe import Recipe


def dense_recipe(name: str, overrides: Sequence[str]) -> Recipe:
    """The recipe of the base, with an error that says where several values belong.

    Raises:
        RecipeError: as for ``load_recipe``.
    """
    keys = {key.strip(): value for key, _, value in (text.partition("=") for text in overrides)}
    if "seed" in keys:
        raise RecipeError(f"the seeds of a study are an option, --seed {keys['seed'].strip() or '0'}")
    try:
        return load_recipe(name, overrides)
    except RecipeError as error:
        several = [key for key, value in keys.items() if len(split_values(value)) > 1]
        if not several:
            raise
        raise RecipeError(f"{error}; a study takes one value of {several[0]}, and sweep takes several") from error


def print_study(result: PlasticityResult, page: Path) -> None:
    """What was done, one table of the changes, one by learning rate, and where the files are."""
    tables.print_pairs(_pairs(result))
    print("\nAccuracy against the unpruned twin after training on, in percentage points")
    columns = ["rule", "moment", "learning rate", "twin", *(f"prune {rate:g}" for rate in result.rates)]
    rows = [_row(result, rule, moment) for rule in result.rules for moment in result.moments]
    tables.print_table(columns, rows, right=columns[1:])
    print("\nThe same, averaged over the moments with one learning rate")
    levels = result.learning_rates()
    columns = ["rule", "rate", *(f"at {level:.3g}" for level in levels)]
    tables.print_table(columns, _averages(result, levels), right=columns[1:])
    print(f"\nheat maps {page}\nnumbers   {result.folder / RECORD}, both of all that the folder has")


def moment_label(moment: PlasticityMoment) -> str:
    """A moment for people, such as epoch 6 (20 %)."""
    return f"epoch {moment.epoch} ({100 * moment.share:.0f} %)"


def _pairs(result: PlasticityResult) -> dict[str, str]:
    return {
        "recipe": result.recipe,
        "base": f"{result.epochs} epochs, dense",
        "trained on": f"{result.horizon} at the learning rate of the moment",
        "seeds": ", ".join(str(seed) for seed in result.seeds),
        "accuracy": f"on {result.evaluated_on} data",
    }


def _row(result: PlasticityResult, rule: str, moment: PlasticityMoment) -> list[str]:
    twin = f"{moment.twin_accuracy.mean:.2f} %" if moment.twin_accuracy is not None else "diverged"
    cells = [result.cell(moment.epoch, rule, rate) for rate in result.rates]
    return [rule, moment_label(moment), f"{moment.learning_rate:.3g}", twin, *(_signed(cell.change) for cell in cells)]


def _signed(change: Spread | None) -> str:
    if change is None:
        return "diverged"
    deviation = f" ± {change.deviation:.2f}" if change.deviation is not None else ""
    return f"{change.mean:+.2f}{deviation}"


def _averages(result: PlasticityResult, levels: Sequence[float]) -> list[list[str]]:
    rows = []
    for rule, rate in product(result.rules, result.rates):
        means = result.mean_changes(rule, rate)
        rows.append([rule, f"{rate:g}", *(_signed(means[level]) for level in levels)])
    return rows
