"""Sparsity over time, drop fraction over time, and the steps at which the topology is updated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from sparsewright.checks import check_moment


def resolve_moment(value: float | int, total_steps: int, option: str) -> int:
    """Steps that a moment stands for: a float is a fraction of the run, an int is a number of steps.

    Raises:
        TypeError: neither int nor float.
        ValueError: outside the run.
    """
    value = check_moment(value, option)
    if isinstance(value, int):
        if not 0 <= value <= total_steps:
            raise ValueError(f"{option}={value} steps lies outside the run of 0 to {total_steps} steps")
        return value
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{option}={value} is not a fraction of the run in [0, 1]; an int counts steps")
    # 0.29 * 100 is 28.999...: the tiny summand keeps such a product on its step.
    return math.floor(value * total_steps + 1e-9)


@dataclass(frozen=True)
class DropFraction:
    """Fraction of a layer's kept weights that an update drops.

    Args:
        start: fraction at step 0.
        minimum: fraction at ``end`` and after.
        end: step at which the decay is over.
        kind: "cosine" (RigL, arXiv 1911.11134, equation 2), "linear" or "constant" (``start`` throughout).
    """

    start: float
    minimum: float
    end: int
    kind: str = "cosine"

    def at(self, step: int) -> float:
        """Drop fraction at a step."""
        if self.kind == "constant":
            return self.start
        done = min(step / self.end, 1.0) if self.end > 0 else 1.0
        left = (1 + math.cos(math.pi * done)) / 2 if self.kind == "cosine" else 1.0 - done
        return self.minimum + (self.start - self.minimum) * left


class Ramp(Protocol):
    """A sparsity that rises from one topology update to the next."""

    @property
    def start(self) -> int:
        """Step before which nothing is pruned."""
        ...

    @property
    def last(self) -> int:
        """Step of the last update that prunes, which has the final sparsity."""
        ...

    def sparsity(self, step: int) -> float:
        """Scheduled sparsity at a step."""
        ...


@dataclass(frozen=True)
class CubicRamp:
    """Sparsity that rises as 1 - (1 - x)^3 from ``initial`` to ``final`` (Zhu and Gupta, arXiv 1710.01878).

    Args:
        initial, final: sparsity at x = 0 and x = 1.
        start, end: steps between which x runs from 0 to 1.
        last: step of the update that has x = 1, whatever the formula says.
        interval: update interval if x counts whole intervals (global selection of GMP and GraNet), else None.
    """

    initial: float
    final: float
    start: int
    end: int
    last: int
    interval: int | None = None

    def progress(self, step: int) -> float:
        """x in [0, 1] at a step."""
        if step >= self.last:
            return 1.0
        unit = self.interval or 1
        first, final, now = self.start // unit, self.end // unit, step // unit
        return min(max((now - first) / (final - first), 0.0), 1.0) if final > first else 0.0

    def sparsity(self, step: int) -> float:
        """Scheduled sparsity at a step."""
        return self.final + (self.initial - self.final) * (1 - self.progress(step)) ** 3


@dataclass(frozen=True)
class ExponentialRamp:
    """Sparsity whose density falls by the same factor from one topology update to the next (RPG, arXiv 2311.17493).

    The density is 1 at the first update, and ``1 - final`` from ``updates`` updates after it, or from ``last`` if that
    comes before.

    Args:
        final: sparsity at the end.
        start: step at which the ramp may start.
        first: step of its first update.
        updates: how many updates after the first one the final density would be reached.
        last: step of the update that has the final sparsity at the latest.
        interval: steps between updates.
    """

    final: float
    start: int
    first: int
    updates: int
    last: int
    interval: int

    def progress(self, step: int) -> float:
        """x in [0, 1] at a step, in whole intervals; the density is ``(1 - final) ** x``."""
        if step >= self.last:
            return 1.0
        if step < self.first:
            return 0.0
        return min((step - self.first) // self.interval / self.updates, 1.0)

    def sparsity(self, step: int) -> float:
        """Scheduled sparsity at a step."""
        progress = self.progress(step)
        return self.final if progress == 1.0 else 1 - (1 - self.final) ** progress


@dataclass(frozen=True)
class UpdateTimes:
    """The steps at which the topology is updated: multiples of ``interval`` from ``start`` to ``end``, inclusive."""

    interval: int
    start: int
    end: int

    def due(self, step: int) -> bool:
        """Whether an update is due once ``step`` optimizer steps are completed."""
        return step > 0 and step % self.interval == 0 and self.start <= step <= self.end

    def first_at_or_after(self, step: int) -> int | None:
        """The first due step that is not before ``step``; None if there is none."""
        first = -(-max(step, self.start, 1) // self.interval) * self.interval
        return first if first <= self.end else None

    def last(self) -> int | None:
        """The last due step; None if there is none."""
        last = self.end // self.interval * self.interval
        return last if last >= max(self.start, 1) else None
