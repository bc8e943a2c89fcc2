"""One block of memory for all values of a network, which lie where others lay that are no longer needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparsewright.runtime.layout import aligned

SLACK = 16384
"""Floats behind the last value: vectors that reach over its end read, and throw away, what lies there."""


@dataclass(frozen=True)
class Lifetime:
    """When a place is in use: from the task that writes it first to the one that uses it last."""

    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        """Whether both are in use at some time."""
        return self.first <= other.last and other.first <= self.last


def lifetimes(uses: Sequence[Sequence[str]]) -> dict[str, Lifetime]:
    """Of every place that the tasks use.

    Args:
        uses: the places that each task reads or writes.
    """
    result: dict[str, Lifetime] = {}
    for index, places in enumerate(uses):
        for place in places:
            result[place] = Lifetime(result[place].first if place in result else index, index)
    return result


def arrange(sizes: Mapping[str, int], spans: Mapping[str, Lifetime]) -> tuple[dict[str, int], int]:
    """Offsets of the places in one block, and the size of the block, all in floats.

    The largest come first, each at the lowest offset where nothing lies that is in use at the same time.
    """
    offsets: dict[str, int] = {}
    total = 0
    for place in sorted(sizes, key=lambda name: (-sizes[name], name)):
        size = aligned(sizes[place])
        taken = sorted(
            (offsets[other], offsets[other] + aligned(sizes[other]))
            for other in offsets
            if spans[other].meets(spans[place])
        )
        at = 0
        for begin, end in taken:
            if at + size <= begin:
                break
            at = max(at, end)
        offsets[place] = at
        total = max(total, at + size)
    return offsets, total
