"""Channels that can only be removed together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Side = Literal["output", "input", "network input", "network output", "parameter"]


class Site(NamedTuple):
    """A place that has channels: one side of a layer, a parameter without a layer, or an end of the network."""

    name: str
    side: Side


class Link(NamedTuple):
    """Channels of a site, each with the channel of the root that it goes with; both lists have the same length."""

    site: Site
    channels: Sequence[int]
    root_channels: Sequence[int]


@dataclass(frozen=True)
class Coupling:
    """What the channels that one site puts out reach.

    Attributes:
        root: the site.
        links: the places that go with it.
        operations: what lies in between that is no layer, by the names that autograd gives.
    """

    root: Site
    links: tuple[Link, ...]
    operations: frozenset[str]


@dataclass(frozen=True)
class Unit:
    """Channels that are removed together or not at all.

    Attributes:
        channels: site -> its channels, sorted.
        operations: names of the operations in between.
    """

    channels: dict[Site, tuple[int, ...]]
    operations: frozenset[str]

    @cached_property
    def sites(self) -> frozenset[Site]:
        """The places that the channels are at."""
        return frozenset(self.channels)


def find_units(couplings: Sequence[Coupling], wanted: Mapping[Site, Iterable[int]]) -> list[Unit]:
    """The smallest sets of channels of which none is coupled with one outside.

    Args:
        couplings: all that a network has.
        wanted: site -> channels; only units with at least one of these are returned.
    """
    numbering = _Numbering(couplings)
    pairs = [numbering.pairs(coupling.root, link) for coupling in couplings for link in coupling.links]
    labels = connected(torch.cat([torch.empty(2, 0, dtype=torch.int64), *pairs], dim=1), numbering.total)
    chosen = torch.zeros(numbering.total, dtype=torch.bool)
    for site, channels in wanted.items():
        chosen[labels[numbering.numbers(site, channels)]] = True
    found: dict[int, dict[Site, list[int]]] = defaultdict(lambda: defaultdict(list))
    for site, start, size in numbering.ranges():
        here = labels[start : start + size]
        for channel in chosen[here].nonzero().flatten().tolist():
            found[int(here[channel])][site].append(channel)
    operations = {coupling.root: coupling.operations for coupling in couplings}
    return [_unit(channels, operations) for channels in found.values()]


def connected(pairs: Tensor, total: int) -> Tensor:
    """The connected component of each node of a graph, named by its smallest node.

    Args:
        pairs: edges, (2, number of edges), int64.
        total: number of nodes.

    Returns:
        (total,), int64.
    """
    labels = torch.arange(total)
    while True:
        smallest = labels[pairs].amin(dim=0)
        former = labels.clone()
        for ends in pairs:
            labels.scatter_reduce_(0, ends, smallest, "amin")
        # A node takes over the label that its label has by now, so that long chains take few rounds.
        labels = labels[labels]
        if torch.equal(labels, former):
            return labels


def _unit(channels: Mapping[Site, list[int]], operations: Mapping[Site, frozenset[str]]) -> Unit:
    names = frozenset[str]().union(*(operations[site] for site in channels if site in operations))
    return Unit({site: tuple(found) for site, found in channels.items()}, names)


class _Numbering:
    """Numbers the channels of all sites one after the other."""

    def __init__(self, couplings: Sequence[Coupling]) -> None:
        sizes: dict[Site, int] = defaultdict(int)
        for coupling in couplings:
            for site, channels, root_channels in coupling.links:
                sizes[site] = max(sizes[site], max(channels, default=-1) + 1)
                sizes[coupling.root] = max(sizes[coupling.root], max(root_channels, default=-1) + 1)
        self._sizes = sizes
        self._starts = dict(zip(sizes, accumulate(sizes.values(), initial=0), strict=False))
        self.total = sum(sizes.values())

    def ranges(self) -> Iterator[tuple[Site, int, int]]:
        """Each site with its first number and how many it has."""
        return ((site, self._starts[site], size) for site, size in self._sizes.items())

    def numbers(self, site: Site, channels: Iterable[int]) -> Tensor:
        """Numbers of channels of a site; of those that it has."""
        size = self._sizes.get(site, 0)
        known = [channel for channel in channels if channel < size]
        return torch.tensor(known, dtype=torch.int64) + self._starts.get(site, 0)

    def pairs(self, root: Site, link: Link) -> Tensor:
        """Numbers of the coupled channels, (2, number of them)."""
        return torch.stack([self.numbers(root, link.root_channels), self.numbers(link.site, link.channels)])
