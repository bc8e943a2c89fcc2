"""``sparsewright ticket``: how it reads its sparsity, and what it prints."""

from __future__ import annotations

from collections.abc import Sequence

from sparsewright.checks import check_sparsity
from sparsewright.cli import tables
from sparsewright.training import TicketResult, TicketStage
from sparsewright.training.method_options import DENSE
from sparsewright.training.recipe_files import parse_yaml
from sparsewright.training.ticket_recipes import method_of_ticket

_COLUMNS = ("stage", "sparsity", "kept weights", "before pruning", "accuracy", "run", "folder")


def refuse_method(overrides: Sequence[str]) -> None:
    """Refuses a method for the whole recipe, which would make the ticket's base sparse.

    Raises:
        ValueError: there is one, and it is not dense.
    """
    for text in overrides:
        key, _, value = text.partition("=")
        method = parse_yaml(value) if key.strip() in ("method", "method.name") else None
        name = method.get("name") if isinstance(method, dict) else method
        if name not in (None, DENSE):
            raise ValueError(f"{text} does not suit a ticket, which starts from a dense network; {method_of_ticket()}")


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
    """What the experiment was, then one line per stage, the ticket last."""
    tables.print_pairs(_pairs(result))
    print()
    tables.print_table(_COLUMNS, [_cells(stage) for stage in result.stages], right=_COLUMNS[1:5])


def _pairs(result: TicketResult) -> dict[str, str]:
    rounds = f" in {result.rounds} rounds" if result.rounds is not None else ""
    return {
        "recipe": result.recipe,
        "found by": f"{result.find}{rounds}",
        "sparsity": tables.percent(result.sparsity),
        "rewound": f"{result.rewind} to step {result.rewind_step}",
        "seed": str(result.seed),
        "accuracy": f"on {result.evaluated_on} data",
    }


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
