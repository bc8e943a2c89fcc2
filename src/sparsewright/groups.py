"""Groups of weights that are removed together: single weights, filters or input channels of a layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from sparsewright import scores
from sparsewright.checks import check_choice
from sparsewright.selection import Elementwise, top_k

Granularity = Literal["weight", "filter", "channel"]
GRANULARITIES: tuple[Granularity, ...] = ("weight", "filter", "channel")


class PrunedGroups(dict[str, Tensor]):
    """The groups that a method removes: parameter name -> sorted 1-D int64 tensor of their indices.

    There is an entry for every layer in scope, empty where nothing is removed. Single weights are numbered as the
    flattened weight (row-major), filters by output channel, channels by input channel.

    Args:
        indices: name -> indices.
        granularity: "weight", "filter" or "channel".

    Raises:
        ValueError: an unknown granularity.
    """

    def __init__(self, indices: Mapping[str, Tensor] | None = None, granularity: Granularity = "filter") -> None:
        super().__init__(indices or {})
        check_choice(granularity, "granularity", GRANULARITIES)
        self.granularity: Granularity = granularity

    def __repr__(self) -> str:
        removed = {name: len(indices) for name, indices in self.items() if len(indices)}
        return f"PrunedGroups({self.granularity}s removed: {removed})"


def number_removed(ratio: float, groups: int) -> int:
    """How many of a layer's groups go: min(ceil(ratio * groups), groups - 1), so that one is always left."""
    return min(math.ceil(ratio * groups), groups - 1)


def ratio_apart(kept: Tensor, removed: Tensor) -> Tensor:
    """Mean magnitude of the kept over that of the removed, 0-dimensional; infinite where those are exactly 0."""
    return torch.where(removed > 0, kept / removed, torch.inf)


@dataclass(frozen=True)
class Grouping:
    """How one weight falls into groups.

    Attributes:
        shape: the weight's shape.
        dimension: the one along which groups are counted; None where each weight is its own group.
    """

    shape: tuple[int, ...]
    dimension: int | None

    @property
    def count(self) -> int:
        """Number of groups."""
        return math.prod(self.shape) if self.dimension is None else self.shape[self.dimension]

    @property
    def flags_shape(self) -> tuple[int, ...]:
        """Shape that holds one value per group and broadcasts to the weight."""
        if self.dimension is None:
            return self.shape
        return tuple(size if index == self.dimension else 1 for index, size in enumerate(self.shape))

    def scores(self, weight: Tensor) -> Tensor:
        """Mean magnitude of each group, in ``flags_shape``."""
        if self.dimension is None:
            return weight.detach().abs()
        others = [index for index in range(len(self.shape)) if index != self.dimension]
        return weight.detach().abs().mean(dim=others, keepdim=True)

    def smallest(self, weight: Tensor, number: int) -> Tensor:
        """Flags, in ``flags_shape``, of the ``number`` groups with the smallest mean magnitude; of equals the last."""
        score = Elementwise(scores.magnitude, weight.detach()) if self.dimension is None else self.scores(weight)
        return top_k([score], self.count - number)[0].logical_not_()

    def mean_magnitudes(self, weight: Tensor, removed: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Mean group scores of the kept and of the ``number`` removed groups, float32 and 0-dimensional."""
        score = self.scores(weight)
        total = score.sum(dtype=torch.float32)
        below = (score * removed).sum(dtype=torch.float32)
        return (total - below) / max(self.count - number, 1), below / max(number, 1)

    def mask(self, removed: Tensor) -> Tensor:
        """The weight's mask that zeroes the removed groups: bool, of the weight's shape."""
        return removed.logical_not().expand(self.shape).contiguous()

    def removed(self, mask: Tensor) -> Tensor:
        """Flags, in ``flags_shape``, of the groups that a mask zeroes wholly."""
        if self.dimension is None:
            return mask.logical_not()
        others = [index for index in range(len(self.shape)) if index != self.dimension]
        return mask.any(dim=others, keepdim=True).logical_not_()

    def indices(self, removed: Tensor) -> Tensor:
        """Sorted indices of the removed groups on the CPU; 1-D, int64."""
        return removed.reshape(-1).nonzero().squeeze(1).cpu()


def find_groupings(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], granularity: Granularity
) -> dict[str, Grouping]:
    """How each weight falls into groups.

    Filters are counted along the dimension of a layer's outputs, channels along that of its inputs; in transposed
    convolutions those are dimensions 1 and 0. A weight of any other module counts as one of (outputs, inputs, ...).
    """
    transposed = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.modules.conv._ConvTransposeNd)
        for parameter in module.parameters(recurse=False)
    }

    def dimension(parameter: nn.Parameter) -> int | None:
        if granularity == "weight":
            return None
        return int((granularity == "channel") != (id(parameter) in transposed))

    return {name: Grouping(tuple(weight.shape), dimension(weight)) for name, weight in parameters.items()}
