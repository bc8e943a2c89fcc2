"""Channels that go, layer by layer: zero them in a network, or take them out of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsewright.structured.coupling import Unit
from sparsewright.structured.layers import (
    input_width,
    is_per_channel,
    output_width,
    remaining_widths,
    removed_entries,
    tensor_shapes,
)
from sparsewright.structured.widths import replace_tensor, set_widths

# A variance of zero would be no identity, and nothing of it shows where mean, weight and bias are zero.
_NEVER_ZEROED = "running_var"


@dataclass(frozen=True, eq=False)
class LayerRemoval:
    """Channels that one layer loses.

    Attributes:
        outputs: flags of its output channels, 1-D.
        inputs: flags of its input channels, 1-D; equal to ``outputs`` where the layer treats each channel by itself.
    """

    outputs: Tensor
    inputs: Tensor


def removal_of(units: Iterable[Unit], model: nn.Module) -> dict[str, LayerRemoval]:
    """Layer name -> what it loses with ``units``, for each layer that loses anything."""
    outputs: dict[str, set[int]] = defaultdict(set)
    inputs: dict[str, set[int]] = defaultdict(set)
    for unit in units:
        for site, channels in unit.channels.items():
            (outputs if site.side == "output" else inputs)[site.name].update(channels)
    removal = {}
    modules = dict(model.named_modules())
    for name in sorted(outputs.keys() | inputs.keys()):
        layer = modules[name]
        flags = _flags(outputs[name], output_width(layer))
        removal[name] = LayerRemoval(
            flags, flags if is_per_channel(layer) else _flags(inputs[name], input_width(layer))
        )
    return removal


@torch.no_grad()
def zero_channels(model: nn.Module, removal: Mapping[str, LayerRemoval], *, inputs: bool) -> None:
    """Zeroes, in place, what belongs to the channels: weights, biases, affine parameters and running means of norms.

    Args:
        model: the network.
        removal: what each layer loses.
        inputs: whether weights that read the channels are zeroed too, not only those that make them.
    """
    for name, lost in removal.items():
        layer = model.get_submodule(name)
        read = lost.inputs if inputs or is_per_channel(layer) else torch.zeros_like(lost.inputs)
        for tensor_name, entries in removed_entries(layer, lost.outputs, read).items():
            if tensor_name != _NEVER_ZEROED:
                tensor = getattr(layer, tensor_name)
                tensor[_aligned(entries, tensor)] = 0


@torch.no_grad()
def take_out(model: nn.Module, removal: Mapping[str, LayerRemoval]) -> None:
    """Replaces, in place, the tensors of the layers by smaller ones without the channels."""
    for name, lost in removal.items():
        layer = model.get_submodule(name)
        sizes = remaining_widths(layer, lost.outputs, lost.inputs)
        shapes = tensor_shapes(layer, sizes)
        for tensor_name, entries in removed_entries(layer, lost.outputs, lost.inputs).items():
            tensor = getattr(layer, tensor_name)
            left = tensor.detach()[~_aligned(entries, tensor)].reshape(shapes[tensor_name])
            replace_tensor(layer, tensor_name, left)
        set_widths(layer, sizes)


def _flags(channels: set[int], width: int) -> Tensor:
    flags = torch.zeros(width, dtype=torch.bool)
    flags[sorted(channels)] = True
    return flags


def _aligned(entries: Tensor, tensor: Tensor) -> Tensor:
    return entries.expand(tensor.shape[: entries.ndim]).to(tensor.device)
