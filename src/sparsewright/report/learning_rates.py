"""The learning rate at the steps of a run, of which the metrics have that at the ends of epochs alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from sparsewright.report.planned_length import steps_per_epoch
from sparsewright.report.run_data import RunData
from sparsewright.training.lr_schedule import LearningRate
from sparsewright.training.recipe import Stage

MOST = 500
"""Places of a stage at most, besides the milestones and the ends of epochs."""


def learning_rates(run: RunData) -> list[tuple[int, float]]:
    """Places on the axis of optimizer steps, each with the rate from there on; the last is the end of what was trained.

    It is the rate of the recipe's schedule, where that agrees with what was logged; else each epoch has the rate that
    was logged at its end.
    """
    stages = {stage.name: stage for stage in run.recipe.resolved_stages()}
    first = run.recipe.resolved_stages()[0].name
    start = run.settings.start.step if run.settings is not None else 0
    points: list[tuple[int, float]] = []
    end = 0
    for name, group in groupby(run.lines, key=lambda line: line["stage"]):
        lines = [line for line in group if line.get("lr") is not None]
        if not lines:
            continue
        zero = end - (start if name == first else 0)
        points += _scheduled(run, stages.get(name), zero, end, lines) or _logged(end, lines)
        end = lines[-1]["step"]
    return [*points, (end, points[-1][1])] if points else []


def _logged(begin: int, lines: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    begins = [begin, *(line["step"] for line in lines)]
    return [(before, line["lr"]) for before, line in zip(begins, lines, strict=False)]


def _scheduled(
    run: RunData, stage: Stage | None, zero: int, begin: int, lines: Sequence[Mapping[str, Any]]
) -> list[tuple[int, float]]:
    """The rates of ``stage``, whose schedule begins at step ``zero`` of the run; empty where others were logged."""
    per_epoch = steps_per_epoch(run)
    if stage is None or per_epoch is None:
        return []
    schedule = LearningRate(stage.schedule, run.recipe.stage_steps(stage, per_epoch), per_epoch)

    def rate(step: int) -> float:
        return stage.optimizer.lr * schedule.factor(step - zero)

    if not all(math.isclose(rate(line["step"] - 1), line["lr"], rel_tol=1e-6, abs_tol=1e-12) for line in lines):
        return []
    end = lines[-1]["step"]
    places = {*range(begin, end, -(-(end - begin) // MOST)), *(line["step"] for line in lines)}
    places |= {zero + milestone for milestone in schedule.milestone_steps()}
    return [(step, rate(step)) for step in sorted(places) if begin <= step < end]
