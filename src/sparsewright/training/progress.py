"""How far a run has come, and what it has measured so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from torch import Tensor


@dataclass
class Progress:
    """Plain values and tensors that a checkpoint holds.

    Attributes:
        stage: index of the stage at hand; the number of stages once all are done.
        epoch, step: epochs and optimizer steps done in this stage.
        total_epochs, total_steps: done in all stages.
        skipped_epochs: whole epochs before the step that the run started at; data are drawn as if they had been done.
        flops_dense, flops_sparse: of training so far, all images of all ranks.
        seconds: spent training, without evaluation and saving.
        best_accuracy: best test accuracy in per cent of the epochs after the sparsity schedule had ended.
        masks: of the sparsified weights as the last finished stage left them, on the CPU; empty for dense.
        pruned_groups: name -> indices of the filters or channels that the last finished stage removed, on the CPU;
            empty where it removed none.
        granularity: which of the two they are; None where it removed none.
        widths: of the layers of a network that was shrunk; empty before.
        not_removed: name -> why a layer kept what a shrink stage was asked to take out.
        metrics: the lines of metrics.jsonl.
        layers: the state of what writes layers.jsonl; empty before anything was saved.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    total_epochs: int = 0
    total_steps: int = 0
    skipped_epochs: int = 0
    flops_dense: float = 0.0
    flops_sparse: float = 0.0
    seconds: float = 0.0
    best_accuracy: float | None = None
    masks: dict[str, Tensor] = field(default_factory=dict)
    pruned_groups: dict[str, Tensor] = field(default_factory=dict)
    granularity: Literal["filter", "channel"] | None = None
    widths: dict[str, dict[str, int]] = field(default_factory=dict)
    not_removed: dict[str, str] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    layers: dict[str, Any] = field(default_factory=dict)

    def next_stage(self) -> None:
        """Goes on to the start of the next stage."""
        self.stage, self.epoch, self.step = self.stage + 1, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Plain containers for a checkpoint."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Progress:
        """What ``state_dict`` was taken from."""
        return cls(**state)
