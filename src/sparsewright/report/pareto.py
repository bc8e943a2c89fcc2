"""Which points nothing else beats in both respects."""

from __future__ import annotations

from collections.abc import Sequence

SAME_COST = 1.005
"""Ratio up to which two costs count as the same: means are rounded, and some methods keep a few weights more."""


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The indices of the points on the Pareto front, by rising cost.

    A point is on it where no other has at most its cost and at least its value, one of the two being better. Equal
    points are on it together. Of points of nearly the same cost (SAME_COST) those with less value are not.

    Args:
        points: (cost, value) each, both finite; less cost, which is not negative, and more value are better.
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    return [index for index in order if not any(_beats(other, points[index]) for other in points)]


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    if one[1] > other[1]:
        return one[0] <= SAME_COST * other[0]
    return one[1] == other[1] and SAME_COST * one[0] < other[0]
