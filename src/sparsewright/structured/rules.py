"""Which channels may go: what the request and the structure of the network say, before anything is run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from sparsewright.modules import Convolution, is_depthwise, is_weight_layer
from sparsewright.structured.coupling import Site, Unit
from sparsewright.structured.layers import groups_of, input_width, is_per_channel, output_width, removed_entries
from sparsewright.structured.request import Request
from sparsewright.structured.tracing import CHANNEL_PADDING, LOST


def reason_by_structure(unit: Unit, layers: Mapping[str, nn.Module], uses: Mapping[str, int]) -> str | None:
    """Why a unit cannot be removed from this network, whoever asks; None if nothing speaks against it.

    Args:
        unit: the channels.
        layers: the modules of the network by name.
        uses: parameter name -> how often the forward pass used it.
    """
    if CHANNEL_PADDING in unit.operations:
        return "its channels are padded with zero channels, which shifts their numbers"
    if LOST in unit.operations:
        return "it cannot be followed through the reshapes behind it"
    for site, channels in unit.channels.items():
        if (reason := _reason_at(site, channels, layers, uses)) is not None:
            return reason
    if not any(site.side == "input" for site in unit.channels):
        return "no layer takes in what it puts out"
    if not any(site.side == "output" and is_weight_layer(layers[site.name]) for site in unit.channels):
        return "no layer puts out what it takes in"
    return None


def reason_by_request(unit: Unit, layers: Mapping[str, nn.Module], request: Request) -> str | None:
    """Why a unit is not removed though a layer asks for it: another one has not, and would lose something.

    A depthwise convolution with nothing listed follows the layer that feeds it.
    """
    side = "output" if request.granularity == "filter" else "input"
    for site, channels in unit.channels.items():
        layer = layers[site.name]
        if site.side != side or not is_weight_layer(layer) or request.asks_for(site.name, channels):
            continue
        listed = site.name in request.channels
        if is_depthwise(layer) and not request.channels.get(site.name):
            continue
        if listed:
            return f"goes together with {site.name}, where not the same ones are chosen"
        if _is_alive(layer, side, channels):
            return f"goes together with {site.name}, which was not listed"
    return None


def reasons_by_layer(units: Sequence[Unit], layers: Mapping[str, nn.Module]) -> Iterator[tuple[int, str]]:
    """Units (by position) that cannot all go since a layer would be left empty, or with groups of unequal widths."""
    sites: dict[Site, list[tuple[int, int]]] = defaultdict(list)
    for position, unit in enumerate(units):
        for site, channels in unit.channels.items():
            sites[site] += [(channel, position) for channel in channels]
    for site, members in sites.items():
        layer = layers[site.name]
        width = output_width(layer) if site.side == "output" else input_width(layer)
        if len(members) == width:
            what = "filters" if site.side == "output" else "input channels"
            yield from ((position, f"all {what} of {site.name} would go") for _, position in members)
        elif not is_per_channel(layer) and groups_of(layer) > 1:
            yield from _surplus(site, members, groups_of(layer), width // groups_of(layer))


def _reason_at(
    site: Site, channels: Sequence[int], layers: Mapping[str, nn.Module], uses: Mapping[str, int]
) -> str | None:
    if site.side == "network input":
        return "goes together with an input of the network"
    if site.side == "network output":
        return "is an output of the network"
    if site.side == "parameter":
        return f"goes together with {_described(site.name, layers)}, whose channels cannot be removed exactly"
    layer = layers[site.name]
    if hasattr(layer, "parametrizations"):
        return f"goes together with {site.name}, which is re-parametrised"
    if isinstance(layer, Convolution) and 1 < layer.groups == layer.out_channels != layer.in_channels:
        return f"goes together with {site.name}, which has as many groups as filters"
    for parameter in layer._parameters:
        number = uses.get(f"{site.name}.{parameter}", 1)
        if number != 1:
            return reason_by_uses(f"{site.name}.{parameter}", number)
    width = output_width(layer) if site.side == "output" else input_width(layer)
    if channels[-1] >= width:
        return f"how it reaches {site.name} cannot be followed"
    return None


def reason_by_uses(name: str, number: int) -> str:
    """Why a parameter that one forward pass uses ``number`` times cannot lose anything."""
    return (
        f"{name} is used {number} times in one forward pass"
        if number
        else f"autograd finds no way from {name} to an output"
    )


def _described(name: str, layers: Mapping[str, nn.Module]) -> str:
    return f"{name} ({type(layers[name]).__name__})" if name in layers else f"the parameter {name}"


def _is_alive(layer: nn.Module, side: str, channels: Sequence[int]) -> bool:
    """Whether any weight or bias of these channels is not zero."""
    outputs, inputs = (torch.zeros(width(layer), dtype=torch.bool) for width in (output_width, input_width))
    (outputs if side == "output" else inputs)[list(channels)] = True
    entries = removed_entries(layer, outputs, inputs)
    names = entries if side == "output" else ("weight",)
    return any(
        bool(getattr(layer, name).detach()[entries[name].to(getattr(layer, name).device)].any()) for name in names
    )


def _surplus(site: Site, members: Sequence[tuple[int, int]], groups: int, size: int) -> Iterator[tuple[int, str]]:
    """The members of each group beyond the number that all groups lose."""
    by_group: list[list[int]] = [[] for _ in range(groups)]
    for channel, position in sorted(members):
        by_group[channel // size].append(position)
    common = min(map(len, by_group))
    reason = f"the {groups} groups of {site.name} would become unequal"
    yield from ((position, reason) for group in by_group for position in group[common:])
