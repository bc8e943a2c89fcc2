"""What a user wants to have removed, checked against the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsewright.checks import check_choice
from sparsewright.modules import is_weight_layer
from sparsewright.structured.layers import groups_of, input_width, output_width
from sparsewright.structured.names import ParameterNames

Removable = Literal["filter", "channel"]
_REMOVABLE: tuple[Removable, ...] = ("filter", "channel")


@dataclass(frozen=True, eq=False)
class Listed:
    """The groups of one parameter that are to be removed.

    Attributes:
        layer: name of the module that holds the parameter.
        indices: sorted, as the user numbers them.
        starts: channels of the layer that index 0 stands for: one, or one per group of a grouped convolution whose
            weight has the channels of one group only.
        impossible: why nothing of it can be removed, whatever the rest of the network is; None if that is open.
    """

    layer: str
    indices: Tensor
    starts: tuple[int, ...]
    impossible: str | None = None

    def channels(self, index: int) -> tuple[int, ...]:
        """The channels of the layer that an index stands for."""
        return tuple(start + index for start in self.starts)


class Request:
    """The groups to remove of a network.

    Args:
        granularity: "filter" (output channels) or "channel" (input channels).
        listed: name as the user spells it -> its groups.

    Attributes:
        granularity: as given.
        listed: as given.
        channels: layer name -> the channels to remove, for each listed layer that has channels to remove.
    """

    def __init__(self, granularity: Removable, listed: Mapping[str, Listed]) -> None:
        self.granularity: Removable = granularity
        self.listed = dict(listed)
        self.channels = {
            entry.layer: frozenset(channel for index in entry.indices.tolist() for channel in entry.channels(index))
            for entry in listed.values()
            if entry.impossible is None
        }

    @property
    def side(self) -> Literal["output", "input"]:
        """The side of a layer that the channels are counted at."""
        return "output" if self.granularity == "filter" else "input"

    def asks_for(self, layer: str, channels: Sequence[int]) -> bool:
        """Whether all these channels of a layer are to be removed."""
        return self.channels.get(layer, frozenset()).issuperset(channels)


def read_request(model: nn.Module, pruned_groups: Any, granularity: str | None) -> Request:
    """Checks names and indices of the groups to remove.

    Args:
        model: the unwrapped network.
        pruned_groups: name of a parameter, or of the layer whose weight is meant -> 1-D integer tensor of indices.
        granularity: "filter" or "channel"; None for that of ``pruned_groups``, or "filter" where it has none.

    Raises:
        TypeError: no mapping of names to integer tensors.
        ValueError: an unknown name, an index twice or out of range, single weights, or two names of one layer with
            different indices.
    """
    if not isinstance(pruned_groups, Mapping):
        raise TypeError(f"pruned_groups must map parameter names to indices, got {type(pruned_groups).__name__}")
    kind = _granularity(pruned_groups, granularity)
    names = ParameterNames(model)
    first_names = {id(module): name for name, module in model.named_modules()}
    listed: dict[str, Listed] = {}
    for name, indices in pruned_groups.items():
        module_name, _, local_name = names.find(name).rpartition(".")
        layer = model.get_submodule(module_name)
        listed[name] = _listed(name, local_name, layer, first_names[id(layer)], indices, kind)
    _refuse_contradictions(listed)
    return Request(kind, listed)


def _listed(name: str, local_name: str, layer: nn.Module, layer_name: str, indices: Any, kind: Removable) -> Listed:
    if local_name != "weight" or not is_weight_layer(layer):
        return Listed(layer_name, _checked(name, indices, None), (), "is not a weight of a Linear or convolution layer")
    width = output_width(layer) if kind == "filter" else input_width(layer)
    size = width // groups_of(layer) if _counted_within_groups(layer, kind) else width
    return Listed(layer_name, _checked(name, indices, size), tuple(range(0, width, size)))


def _refuse_contradictions(listed: Mapping[str, Listed]) -> None:
    first: dict[str, str] = {}
    for name, entry in listed.items():
        if entry.impossible is None:
            former = first.setdefault(entry.layer, name)
            if not torch.equal(listed[former].indices, entry.indices):
                raise ValueError(f"pruned_groups: {former!r} and {name!r} are the same layer, with different indices")


def _granularity(pruned_groups: Mapping[str, Tensor], granularity: str | None) -> Removable:
    own = getattr(pruned_groups, "granularity", None)
    if granularity is not None and own is not None and granularity != own:
        raise ValueError(f"granularity={granularity!r}, but the groups in pruned_groups are {own}s")
    kind = granularity or own or "filter"
    if kind == "weight":
        raise ValueError("single weights cannot be taken out of a layer; granularity must be 'filter' or 'channel'")
    check_choice(kind, "granularity", _REMOVABLE)
    return "channel" if kind == "channel" else "filter"


def _counted_within_groups(layer: nn.Module, kind: Removable) -> bool:
    # A weight has the channels of one group along its second dimension: the inputs, or the outputs if transposed.
    return (kind == "channel") != bool(getattr(layer, "transposed", False))


def _checked(name: str, listed: Any, width: int | None) -> Tensor:
    if not isinstance(listed, Tensor) or listed.is_floating_point() or listed.dtype == torch.bool:
        described = str(listed.dtype) if isinstance(listed, Tensor) else type(listed).__name__
        raise TypeError(f"pruned_groups[{name!r}] must be a 1-D tensor of integer indices, got {described}")
    if listed.ndim != 1:
        raise ValueError(f"pruned_groups[{name!r}] must be 1-D, got shape {tuple(listed.shape)}")
    indices = listed.detach().cpu().to(torch.int64).sort().values
    if len(indices.unique()) < len(indices):
        raise ValueError(f"pruned_groups[{name!r}] holds an index twice")
    if width is not None and len(indices) and not 0 <= int(indices[0]) <= int(indices[-1]) < width:
        wrong = int(indices[0]) if indices[0] < 0 else int(indices[-1])
        raise ValueError(f"pruned_groups[{name!r}] holds the index {wrong}; the layer has 0 to {width - 1}")
    return indices
