"""``sparsewright plasticity``: how it reads its lists, and what it prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparsewright.cli import tables
from sparsewright.plasticity import PlasticityCell, PlasticityMoment, PlasticityResult, Spread
from sparsewright.plasticity.layout import RECORD


def listed(text: str, option: str) -> list[str]:
    """The entries of a list written with commas.

    Raises:
        ValueError: an entry is missing.
    """
    entries = [entry.strip() for entry in text.split(",")]
    if not all(entries):
        raise ValueError(f"{option} is a list with commas between its entries, and one is missing in {text!r}")
    return entries


def listed_numbers(text: str, option: str) -> list[float]:
    """The numbers of a list written with commas.

    Raises:
        ValueError: an entry is missing or no number.
    """
    entries = listed(text, option)
    try:
        return [float(entry) for entry in entries]
    except ValueError as error:
        raise ValueError(f"{option} is a list of numbers such as 0.5,0.9, got {text!r}") from error


def listed_whole(text: str, option: str) -> list[int]:
    """The whole numbers of a list written with commas.

    Raises:
        ValueError: an entry is missing or no whole number.
    """
    entries = listed(text, option)
    try:
        return [int(entry) for entry in entries]
    except ValueError as error:
        raise ValueError(f"{option} is a list of whole numbers such as 0,1,2, got {text!r}") from error


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
    print(f"\nheat maps {page}\nnumbers   {result.folder / RECORD}")


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
    return [rule, moment_label(moment), f"{moment.learning_rate:.3g}", twin, *map(_change, cells)]


def _change(cell: PlasticityCell) -> str:
    return _signed(cell.change) if cell.change is not None else "diverged"


def _signed(change: Spread) -> str:
    deviation = f" ± {change.deviation:.2f}" if change.deviation is not None else ""
    return f"{change.mean:+.2f}{deviation}"


def _averages(result: PlasticityResult, levels: Sequence[float]) -> list[list[str]]:
    def cells(rule: str, rate: float) -> list[str]:
        changes = [result.mean_change(rule, rate, level) for level in levels]
        return [f"{change:+.2f}" if change is not None else "diverged" for change in changes]

    return [[rule, f"{rate:g}", *cells(rule, rate)] for rule in result.rules for rate in result.rates]
