"""How long a run was meant to train."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from sparsewright.report.run_data import RunData
from sparsewright.training.auto_duration import AUTO
from sparsewright.training.start import NO_START


@dataclass(frozen=True)
class PlannedLength:
    """The epochs and optimizer steps of a whole run.

    Attributes:
        epochs, steps: how many there are.
        at_most: whether a method may end its stage earlier.
    """

    epochs: int
    steps: int
    at_most: bool


def steps_per_epoch(run: RunData) -> int | None:
    """Optimizer steps of a whole epoch; None where none has ended yet, or the only one was begun in its middle."""
    start = run.settings.start if run.settings is not None else NO_START
    if start.step and len(run.lines) < 2:
        return None
    return max((after - before for before, after in pairwise([0, *(line["step"] for line in run.lines)])), default=None)


def planned_length(run: RunData) -> PlannedLength | None:
    """That of a run, of which an epoch at least has ended; None where its files do not tell."""
    per_epoch = steps_per_epoch(run)
    if not per_epoch:
        return None
    start = run.settings.start if run.settings is not None else NO_START
    stages = run.recipe.resolved_stages()
    ends = [run.recipe.stage_steps(stage, per_epoch) for stage in stages]
    if start.stop is not None:
        ends = [start.stop]
    epochs = sum(-(-end // per_epoch) for end in ends) - start.step // per_epoch
    at_most = any(stage.kind == "train" and stage.duration == AUTO for stage in stages)
    return PlannedLength(epochs, sum(ends) - start.step, at_most)
