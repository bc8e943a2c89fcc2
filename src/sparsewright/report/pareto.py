"""Which points nothing else beats in both respects."""

from __future__ import annotations

import math
from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The indices of the points on the Pareto front, by rising cost.

    A point is on it where no other has at most its cost and at least its value, one of the two being better. Equal
    points are on it together.

    Args:
        points: (cost, value) each, both finite; less of the one and more of the other is better.
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][0], -points[index][1]))
    front: list[int] = []
    best = -math.inf
    for index in order:
        if points[index][1] > best or (front and points[index] == points[front[-1]]):
            front.append(index)
            best = points[index][1]
    return front
