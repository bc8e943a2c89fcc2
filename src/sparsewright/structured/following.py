"""Follows channels through torch-pruning's dependency graph, and notices where it loses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

_STEPS_PER_NODE = 8
"""Different sets of channels that are followed through a node on average before the search is given up."""


class Followed(NamedTuple):
    """A channel on its way, under the names that torch-pruning's index mappings know."""

    idx: int
    root_idx: int


class Visit(NamedTuple):
    """One node that channels reach.

    Attributes:
        node: of the dependency graph.
        handler: the function of torch-pruning that would take the channels away there.
        channels: they, and the channels of the root that they come from.
    """

    node: Any
    handler: Callable[..., Any]
    channels: list[Followed]


def follow(graph: Any, root: nn.Module, width: int, widest: int) -> tuple[list[Visit], bool]:
    """Everything that the output channels of a layer are coupled with.

    torch-pruning's own search multiplies channel numbers without end where tensors are reshaped back and forth (Swin
    transformers); this one gives up there.

    Args:
        graph: a ``torch_pruning.DependencyGraph``.
        root: the layer.
        width: number of its output channels.
        widest: the largest number of channels that any layer has.

    Returns:
        The visits, the layer's own first, and whether all channels could be followed.
    """
    handler = graph.get_pruner_of_module(root).prune_out_channels
    visits = [Visit(graph.module2node[root], handler, [Followed(channel, channel) for channel in range(width)])]
    seen = {_key(visits[0])}
    # The list grows while it is read: it is also the queue.
    for visit in visits:
        for following in _neighbours(visit):
            if max(channel.idx for channel in following.channels) >= widest or len(seen) > _STEPS_PER_NODE * len(
                graph.module2node
            ):
                return visits, False
            if (key := _key(following)) not in seen:
                seen.add(key)
                visits.append(following)
    return visits, True


def _neighbours(visit: Visit) -> list[Visit]:
    found = []
    for dependency in visit.node.dependencies:
        if dependency.is_triggered_by(visit.handler):
            channels = visit.channels
            for mapping in dependency.index_mapping:
                if mapping is not None:
                    channels = mapping(channels)
            if channels:
                # Sorted, since the mappings put the same channels into any order.
                found.append(Visit(dependency.target, dependency.handler, sorted(channels)))
    return found


def _key(visit: Visit) -> tuple[Any, ...]:
    return id(visit.node), visit.handler, tuple(visit.channels)
