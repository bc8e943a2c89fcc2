"""What a ticket experiment found, run by run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sparsewright.training.masks_file import MASKS, load_masks


@dataclass(frozen=True)
class TicketStage:
    """One run of a ticket experiment.

    Attributes:
        name: "base", "initial" or "step-K", "gsm" or "magnitude" or "round-N-prune", "round-N", "ticket-FIND".
        folder: its run folder.
        sparsity: fraction of zeros among the sparsified weights, counted on the masks; 0 for a dense network.
        kept_weights: how many weights the masks keep; of a dense network those of all layers.
        test_accuracy: at the end, in per cent.
        test_accuracy_before_pruning: just before the run's pruning, in per cent; None where it prunes nothing itself.
        reused: whether the run had been finished before.
    """

    name: str
    folder: Path
    sparsity: float
    kept_weights: int
    test_accuracy: float
    test_accuracy_before_pruning: float | None
    reused: bool


@dataclass(frozen=True)
class TicketResult:
    """A finished ticket experiment.

    Attributes:
        recipe: name of the recipe.
        find: how the ticket was found: "gsm", "magnitude" or "iterative".
        sparsity: as asked for.
        rewind: what was rewound: "weights" or "learning-rate".
        rewind_step: the optimizer step of the base that it was rewound to.
        rounds: of iterative pruning, else None.
        seed: of every run.
        evaluated_on: "test" or "validation".
        stages: the runs in their order; the ticket is the last.
    """

    recipe: str
    find: str
    sparsity: float
    rewind: str
    rewind_step: int
    rounds: int | None
    seed: int
    evaluated_on: str
    stages: tuple[TicketStage, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in ticket.json."""
        return {**asdict(self), "stages": [{**asdict(stage), "folder": str(stage.folder)} for stage in self.stages]}


def stage_result(name: str, folder: Path, summary: Mapping[str, Any], *, reused: bool) -> TicketStage:
    """The numbers of one run from its folder and the content of its summary.json."""
    return TicketStage(
        name=name,
        folder=folder,
        sparsity=summary["sparsity"],
        kept_weights=_kept_weights(folder, summary),
        test_accuracy=summary["test_accuracy"],
        test_accuracy_before_pruning=summary.get("test_accuracy_before_pruning"),
        reused=reused,
    )


def _kept_weights(folder: Path, summary: Mapping[str, Any]) -> int:
    if (folder / MASKS).is_file():
        return load_masks(folder / MASKS).kept()
    return sum(torch.Size(layer["shape"]).numel() for layer in summary["layers"].values())
