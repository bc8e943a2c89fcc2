"""Which lines of a plot lie on others, so that one would hide the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TypeAlias

NEAR = 0.01
"""Of the range of all points on an axis: a few pixels."""

Line: TypeAlias = Sequence[tuple[float, float]]


def twin_lines(lines: Sequence[Line]) -> dict[int, int]:
    """The index of each line that lies on an earlier one -> the index of the first of those.

    Args:
        lines: points (x, y) each, by rising x, on the scales on which they are drawn.
    """
    ranges = [max(values) - min(values) for values in zip(*chain.from_iterable(lines), strict=True)]
    found: dict[int, int] = {}
    for above, line in enumerate(lines):
        for below in range(above):
            if above not in found and _lies_on(line, lines[below], ranges):
                found[above] = below
    return found


def _lies_on(one: Line, other: Line, ranges: Sequence[float]) -> bool:
    return len(one) == len(other) and all(
        abs(here - there) <= NEAR * whole
        for points in zip(one, other, strict=True)
        for here, there, whole in zip(*points, ranges, strict=True)
    )
