"""``sparsewright ticket``: how it reads its sparsity, and what it prints."""

from __future__ import annotations

from collections.abc import Sequence

from sparsewright.checks import check_sparsity
from sparsewright.cli import tables
from sparsewright.training import TicketResult, TicketStage
from sparsewright.training.recipe_files import parse_yaml

_COLUMNS = ("stage", "sparsity", "kept weights", "before pruning", "accuracy", "run", "folder")


def take_sparsity(overrides: Sequence[str], option: float | None) -> tuple[list[str], float | None]:
    """The other overrides, and the sparsity: ``sparsity=S`` means the ticket's, which a dense recipe would refuse.

    Raises:
        ValueError, TypeError: it is given twice, or is no sparsity.
    """
    given = [text for text in overrides if text.partition("=")[0].strip() == "sparsity" and "=" in text]
    if not given:
        return list(overrides), option
    if option is not None or len(given) > 1:
        ways = [*given, *([] if option is None else [f"--sparsity {option}"])]
        raise ValueError(f"the sparsity is given more than once: {' and '.join(ways)}")
    return [text for text in overrides if text not in given], check_sparsity(parse_yaml(given[0].partition("=")[2]))


def print_ticket(result: TicketResult) -> None:
    """One line per stage, the ticket last."""
    tables.print_table(_COLUMNS, [_cells(stage) for stage in result.stages], right=_COLUMNS[1:5])


def _cells(stage: TicketStage) -> list[str]:
    before = stage.test_accuracy_before_pruning
    return [
        stage.name,
        tables.percent(stage.sparsity),
        f"{stage.kept_weights:,}",
        f"{before:.2f} %" if before is not None else "",
        f"{stage.test_accuracy:.2f} %",
        "reused" if stage.reused else "new",
        str(stage.folder),
    ]
