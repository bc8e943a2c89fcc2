"""What one branch of a study measured, and the file that keeps it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from sparsewright.files import write_text


@dataclass(frozen=True)
class BranchResult:
    """One training that left the base at the end of an epoch.

    Attributes:
        seed: of the base.
        epoch, step: of the base, where the branch left it.
        learning_rate: with which it trained on.
        horizon_steps: optimizer steps that it trained on.
        rule: how it was pruned; None for the unpruned twin.
        rate: the share that was pruned; None for the twin.
        sparsity: fraction of weights that were held at zero while it trained on; 0 where all grew back.
        accuracy_before: of the base at this point, in per cent.
        accuracy_pruned: right after pruning, before any training; of the twin as before.
        accuracy_after: at the end, in per cent; None if the loss was not finite any more.
        seconds: of the whole branch.
    """

    seed: int
    epoch: int
    step: int
    learning_rate: float
    horizon_steps: int
    rule: str | None
    rate: float | None
    sparsity: float
    accuracy_before: float
    accuracy_pruned: float
    accuracy_after: float | None
    seconds: float


def write_result(file: Path, result: BranchResult) -> None:
    """Writes a result whole or not at all; raises SaveError."""
    write_text(file, json.dumps(asdict(result), indent=2, allow_nan=False) + "\n")


def read_result(file: Path) -> BranchResult:
    """Reads what ``write_result`` wrote.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is damaged or something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return BranchResult(**{item.name: content[item.name] for item in fields(BranchResult)})
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged or no result of a branch; delete it to train the branch again") from error
