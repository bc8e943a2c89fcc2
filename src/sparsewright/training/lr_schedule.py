"""The learning rate as a pure function of the optimizer step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator

from sparsewright.training.duration import Duration


def _parse_milestone(value: Any) -> float | Duration:
    if isinstance(value, Duration):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not 0 < value < 1:
            raise ValueError(f"a milestone is a fraction between 0 and 1 or a duration such as 80ep, got {value!r}")
        return float(value)
    return Duration.parse(value)


def _plain(value: float | Duration) -> float | str:
    return str(value) if isinstance(value, Duration) else value


Milestone = Annotated[float | Duration, PlainValidator(_parse_milestone), PlainSerializer(_plain, when_used="json")]


class ConstantSchedule(BaseModel):
    """The same rate throughout, after ``warmup``: a duration over which it rises linearly from one step's share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["constant"] = "constant"
    warmup: Duration = Duration(0, "ep")


class StepSchedule(BaseModel):
    """The rate is multiplied by ``gamma`` at every milestone (a fraction of the stage or a duration)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["step"] = "step"
    milestones: tuple[Milestone, ...] = (0.5, 0.75)
    gamma: float = Field(default=0.1, gt=0, le=1)
    warmup: Duration = Duration(0, "ep")


class CosineSchedule(BaseModel):
    """Half a cosine from the full rate after ``warmup`` down to ``floor`` times it at the end of the stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["cosine"] = "cosine"
    floor: float = Field(default=0.0, ge=0, le=1)
    warmup: Duration = Duration(0, "ep")


AnySchedule = Annotated[ConstantSchedule | StepSchedule | CosineSchedule, Field(discriminator="name")]


@dataclass(frozen=True)
class LearningRate:
    """The factor on the base rate at each step of one stage.

    Args:
        schedule: which shape, with its settings.
        total_steps: optimizer steps of the stage.
        steps_per_epoch: to convert durations given in epochs.
    """

    schedule: ConstantSchedule | StepSchedule | CosineSchedule
    total_steps: int
    steps_per_epoch: int

    def factor(self, step: int) -> float:
        """The multiple of the base rate for the optimizer step number ``step``, counted from 0."""
        warmup = self.schedule.warmup.steps(self.steps_per_epoch)
        rise = (step + 1) / warmup if step < warmup else 1.0
        if isinstance(self.schedule, StepSchedule):
            return rise * self.schedule.gamma ** sum(step >= start for start in self.milestone_steps())
        if isinstance(self.schedule, CosineSchedule):
            return rise * self._cosine(self.schedule.floor, step, warmup)
        return rise

    def milestone_steps(self) -> list[int]:
        """The steps at which a step schedule lowers the rate; empty for other schedules."""
        if not isinstance(self.schedule, StepSchedule):
            return []
        return [
            milestone.steps(self.steps_per_epoch)
            if isinstance(milestone, Duration)
            else round(milestone * self.total_steps)
            for milestone in self.schedule.milestones
        ]

    def _cosine(self, floor: float, step: int, warmup: int) -> float:
        if step < warmup or self.total_steps <= warmup:
            return 1.0
        progress = min((step - warmup) / (self.total_steps - warmup), 1.0)
        return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))

    def apply(self, optimizer: torch.optim.Optimizer, base: float, step: int) -> float:
        """Sets the rate for ``step`` on every parameter group and returns it."""
        rate = base * self.factor(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate
