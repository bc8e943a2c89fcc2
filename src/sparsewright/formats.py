"""Numbers as people read them, the same on the terminal and on pages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def percent(fraction: float) -> str:
    """A fraction in per cent, with as many digits as tell 99.9 % from 99.95 %."""
    return f"{100 * fraction:.2f} %"


def share(part: int, whole: int) -> str:
    """A part of a whole, such as 13,500 of 67,000 (20.15 %)."""
    return f"{part:,} of {whole:,} ({percent(part / whole)})"


def seconds(value: float) -> str:
    """A time span such as 12.3 s, 4 min 05 s or 2 h 03 min."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def flops(value: float) -> str:
    """A number of operations with an SI prefix, such as 532.40 k."""
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.2f} {prefix}"
    return f"{value:.0f}"


def ratios(target: Any) -> str:
    """One sparsity in per cent, or ratios by stage or pattern."""
    if isinstance(target, Mapping):
        return ", ".join(f"{pattern}: {percent(ratio)}" for pattern, ratio in target.items())
    return ", ".join(percent(ratio) for ratio in target) if isinstance(target, (list, tuple)) else percent(target)
