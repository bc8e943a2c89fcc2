"""Weights as the kernels read them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsewright.runtime.graph import Convolution
from sparsewright.runtime.layout import Layout, phases_of, taps


class OffsetError(ValueError):
    """Values that are too large for the kernels."""


@dataclass(frozen=True)
class SparseRows:
    """The kept weights of each output, outputs with the most weights first.

    Attributes:
        values: float32, (kept).
        offsets: int32, (kept): floats from an output's position to the input of each.
        starts: int64, (rows + 1): where each row begins.
        rows: int32, (rows): the output channel of each.
    """

    values: Tensor
    offsets: Tensor
    starts: Tensor
    rows: Tensor


def sparse_rows(weight: Tensor, offsets: Tensor, *, sort: bool) -> SparseRows:
    """Keep what is not zero.

    Args:
        weight: (outputs, weights of each).
        offsets: int64, of the same shape or (1, weights of each).
        sort: outputs with equally many weights next to each other, which spares the processor wrong guesses of where a
            row ends.
    """
    kept = weight != 0
    counts = kept.sum(dim=1)
    rows = counts.argsort(descending=True, stable=True) if sort else torch.arange(len(weight))
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts[rows].cumsum(0)])
    row, column = kept[rows].nonzero(as_tuple=True)
    row = rows[row]
    found = offsets[row if len(offsets) > 1 else torch.zeros_like(row), column]
    values = weight[row, column].float().contiguous()
    return SparseRows(values, checked_offsets(found), starts, rows.to(torch.int32))


def checked_offsets(offsets: Tensor) -> Tensor:
    """Offsets as the kernels read them: int32.

    Raises:
        OffsetError: a value of 8 GiB or more, which four bytes cannot reach across.
    """
    if offsets.numel() and int(offsets.abs().max()) >= 2**31:
        raise OffsetError("a value of the network has 8 GiB or more, which the kernels do not reach across")
    return offsets.to(torch.int32)


def dense_blocks(weight: Tensor, rows: int) -> Tensor:
    """(outputs, taps) as (blocks, taps, rows of a block), filled up with zeros."""
    blocks = -(-len(weight) // rows)
    padded = weight.new_zeros(blocks * rows, weight.shape[1])
    padded[: len(weight)] = weight
    return padded.view(blocks, rows, -1).transpose(1, 2).contiguous()


def convolution_offsets(step: Convolution, source: Layout) -> Tensor:
    """Floats from an output's position to the input of each weight: (groups, inputs of a group * taps), int64.

    Args:
        source: of the phases of the input, each with all its channels, behind each other.
    """
    phases = phases_of(step)
    channels = step.weight.shape[1] * step.groups
    of_tap = torch.tensor(
        [
            phases.index(tap.phase) * channels * source.plane + tap.shift[0] * source.row + tap.shift[1]
            for tap in taps(step)
        ]
    )
    of_channel = torch.arange(channels).view(step.groups, -1, 1) * source.plane
    return (of_channel + of_tap).reshape(step.groups, -1)


def convolution_rows(step: Convolution, source: Layout) -> SparseRows:
    """The kept weights of a convolution."""
    offsets = convolution_offsets(step, source).repeat_interleave(len(step.weight) // step.groups, dim=0)
    return sparse_rows(step.weight.flatten(1), offsets, sort=True)


def feature_offsets(inputs: int, source: Layout) -> Tensor:
    """Floats to each input of a linear layer: (1, inputs), int64."""
    return (torch.arange(inputs) * source.plane).view(1, -1)
