"""Where the numbers of a value lie in memory, and which values must share the spacing of their pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsewright.runtime.graph import Convolution, Pair

ALIGNMENT = 16
"""Floats: planes begin on a cache line, which is also the widest vector."""


@dataclass(frozen=True)
class Layout:
    """The place of pixel (image n, channel c, y, x): ``c * plane + begin + n * image + y * row + x * column`` floats.

    Attributes:
        images, channels, height, width: of the value; features are channels of one pixel.
    """

    images: int
    channels: int
    height: int
    width: int
    plane: int
    begin: int
    image: int
    row: int
    column: int = 1

    @property
    def size(self) -> int:
        """Floats that the value takes, everything between its planes included."""
        last = (self.images - 1) * self.image + (self.height - 1) * self.row + (self.width - 1) * self.column + 1
        return max(self.channels * self.plane, (self.channels - 1) * self.plane + self.begin + last)

    @property
    def positions(self) -> int:
        """Floats of a plane from the first pixel to behind the last."""
        return (self.images - 1) * self.image + (self.height - 1) * self.row + self.width

    def valid(self) -> Tensor:
        """int32: -1 at positions of pixels and 0 in the gaps, filled up to a whole number of vectors."""
        at = torch.arange(aligned(self.positions))
        inside = (at // self.image < self.images) & (at % self.image // self.row < self.height)
        inside &= (at % self.image % self.row < self.width) & (at < self.positions)
        return -inside.to(torch.int32)


def aligned(floats: int) -> int:
    """The next whole number of vectors."""
    return -(-floats // ALIGNMENT) * ALIGNMENT


def plain(shape: tuple[int, ...]) -> Layout:
    """How torch holds a contiguous tensor: (samples, features) or (samples, channels, height, width)."""
    images, channels, height, width = (*shape, 1, 1)[:4]
    return Layout(images, channels, height, width, height * width, 0, channels * height * width, width)


def features(samples: int, count: int) -> Layout:
    """Features of several samples: a plane for each feature, in which the samples lie side by side.

    Those of one sample lie as torch has them.
    """
    plane = 1 if samples == 1 else aligned(samples)
    return Layout(samples, count, 1, 1, plane, 0, 1, 1)


@dataclass(frozen=True)
class Spacing:
    """What the convolutions that read or write a group of values need of the planes.

    Attributes:
        data: rows and columns of the largest value.
        before: zeros that are read above and to the left of the first pixel.
        reach: rows and columns that are read from the first pixel on.
    """

    data: Pair = (1, 1)
    before: Pair = (0, 0)
    reach: Pair = (1, 1)

    def joined(self, other: Spacing) -> Spacing:
        """What both need."""
        data, before, reach = (
            (max(mine[0], others[0]), max(mine[1], others[1]))
            for mine, others in ((self.data, other.data), (self.before, other.before), (self.reach, other.reach))
        )
        return Spacing(data, before, reach)

    def layout(self, shape: tuple[int, int, int, int]) -> Layout:
        """Of a value of shape (samples, channels, height, width).

        The gap at the end of a row is also what lies to the left of the next one, and that below an image what lies
        above the next.
        """
        images, channels, height, width = shape
        row = max(self.data[1] + self.before[1], self.reach[1])
        image = max(self.data[0] + self.before[0], self.reach[0]) * row
        begin = aligned(self.before[0] * row + self.before[1])
        # An odd number of cache lines, so that pixels of different channels do not compete for the same few places of
        # a cache.
        lines = (begin + aligned(images * image + ALIGNMENT)) // ALIGNMENT | 1
        return Layout(images, channels, height, width, lines * ALIGNMENT, begin, image, row)


class Spacings:
    """Groups of values that share their spacing."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._needs: dict[str, Spacing] = {}

    def need(self, name: str, spacing: Spacing) -> None:
        """Add to what a value's group needs."""
        root = self._root(name)
        self._needs[root] = self._needs[root].joined(spacing)

    def join(self, names: Iterable[str]) -> None:
        """Make the groups of these values one."""
        first, *others = (self._root(name) for name in names)
        for other in others:
            if other != first:
                self._parent[other] = first
                self._needs[first] = self._needs[first].joined(self._needs.pop(other))

    def layout(self, name: str, shape: tuple[int, ...]) -> Layout:
        """Of a value of shape (samples, channels, height, width)."""
        images, channels, height, width = shape
        return self._needs[self._root(name)].layout((images, channels, height, width))

    def _root(self, name: str) -> str:
        if name not in self._parent:
            self._parent[name] = name
            self._needs[name] = Spacing()
        while self._parent[name] != name:
            name = self._parent[name]
        # Joining the group of a value that was joined since may leave a longer way.
        return name


@dataclass(frozen=True)
class Tap:
    """One weight of a convolution's window: where its input lies in the phases of the input.

    Attributes:
        row, column: in the window.
        phase: which rows and columns of the input, of every ``stride``, it reads.
        shift: rows and columns of that phase from the output's pixel to the one that it reads.
    """

    row: int
    column: int
    phase: Pair
    shift: Pair


def taps(step: Convolution) -> list[Tap]:
    """All of a convolution's window, row by row.

    With a stride, each phase of the input is a picture of its own in which the window's pixels are neighbours.
    """
    height, width = step.weight.shape[2:]
    result: list[Tap] = []
    for row in range(height):
        for column in range(width):
            at = (row * step.dilation[0] - step.padding[0], column * step.dilation[1] - step.padding[1])
            phase = (at[0] % step.stride[0], at[1] % step.stride[1])
            result.append(Tap(row, column, phase, (at[0] // step.stride[0], at[1] // step.stride[1])))
    return result


def spacing_of(step: Convolution, input_size: Pair) -> Spacing:
    """What a convolution needs of the phases of its input, whose pixels lie as those of its output."""
    shifts = [tap.shift for tap in taps(step)]
    data = tuple(-(-size // stride) for size, stride in zip(input_size, step.stride, strict=True))
    output = step.shape[2:]
    before = tuple(max(0, *(-shift[axis] for shift in shifts)) for axis in (0, 1))
    reach = tuple(output[axis] + max(shift[axis] for shift in shifts) for axis in (0, 1))
    largest = tuple(max(sizes) for sizes in zip(data, output, strict=True))
    return Spacing((largest[0], largest[1]), (before[0], before[1]), (reach[0], reach[1]))


def phases_of(step: Convolution) -> list[Pair]:
    """The phases that a convolution reads, in a fixed order; all of the input for a stride of 1."""
    return sorted({tap.phase for tap in taps(step)})
