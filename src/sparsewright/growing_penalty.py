"""The arithmetic of a penalty that grows: levels in single precision, and when they pass a limit."""

from __future__ import annotations

import struct
from functools import cache

_MOST_UPDATES = 1_000_000


def next_level(level: float, step: float) -> float:
    """``level + step``, both taken and rounded as single precision does, like the tensors that hold penalties."""
    return single(single(level) + single(step))


def single(value: float) -> float:
    """The nearest number of single precision."""
    return struct.unpack("f", struct.pack("f", value))[0]


@cache
def updates_until(level: float, step: float, limit: float, *, inclusive: bool, option: str) -> tuple[int, float]:
    """How many additions of ``step`` take ``level`` past ``limit``, at least one, and where it is then.

    Args:
        level, step, limit: as numbers.
        inclusive: whether reaching the limit is enough.
        option: the name of the step, for errors.

    Raises:
        ValueError: the step is too small for single precision or needs more than a million updates.
    """
    for count in range(1, _MOST_UPDATES + 1):
        following = next_level(level, step)
        if following == level:
            raise ValueError(f"{option}={step} is too small: in single precision a penalty of {level:g} never grows")
        level = following
        if level > limit or (inclusive and level >= limit):
            return count, level
    raise ValueError(f"{option}={step} is too small: the penalty needs more than {_MOST_UPDATES:,} updates")


def updated_average(average: float | None, ratio: float) -> float:
    """The running average of the ratio of magnitudes: 0.9 of the old one and 0.1 of the new, or the first ratio."""
    return ratio if average is None else 0.9 * average + 0.1 * ratio
