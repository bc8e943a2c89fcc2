"""Where a logarithmic axis has its labels."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right

_NARROW, _MIDDLING, _WIDE = 5.0, 100.0, 1000.0
"""Ratios of the end of an axis to its start: equal steps are used below the first, powers of ten above the last."""


def log_ticks(low: float, high: float, steps: int = 4, *, dense: bool = False) -> list[float]:
    """Round places on an axis from ``low`` to ``high``, both above 0; some may lie just beyond its ends.

    Args:
        low, high: the ends.
        steps: how many there may be between the ends of a narrow range, whose steps are equal.
        dense: whether there is room for more labels in a range up to a hundredfold.
    """
    if high / low < _NARROW:
        step = _round_step(max(high - low, 0.05 * low) / steps)
        first, last = max(math.floor(low / step), 1), math.ceil(high / step)
        return [float(f"{index * step:.6g}") for index in range(first, last + 1)]
    digits = (1, 1.5, 2, 3, 5, 7) if dense and high / low < _MIDDLING else (1, 2, 5) if high / low < _WIDE else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{digit}e{power}") for power in powers for digit in digits]
    return ticks[max(bisect_right(ticks, low) - 1, 0) : bisect_left(ticks, high) + 1]


def _round_step(wanted: float) -> float:
    """The next of 1, 2 and 5 times powers of ten that is at least ``wanted``."""
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(digit * power for digit in (1, 2, 5, 10) if digit * power >= wanted * (1 - 1e-9))
