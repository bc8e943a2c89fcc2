"""The layers whose widths can change: their widths, and which entries of their tensors belong to which channels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparsewright.modules import PER_CHANNEL_NORMS, Convolution, is_depthwise, is_weight_layer

_Transposed = nn.modules.conv._ConvTransposeNd
_NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")

CONVOLUTION_WIDTHS = ("in_channels", "out_channels", "groups")
LINEAR_WIDTHS = ("in_features", "out_features")
NORM_WIDTHS = ("num_features",)
PRELU_WIDTHS = ("num_parameters",)


def width_names(module: nn.Module) -> tuple[str, ...]:
    """The attributes that hold the widths of a layer; empty for any other module."""
    if isinstance(module, Convolution):
        return CONVOLUTION_WIDTHS
    if isinstance(module, nn.Linear):
        return LINEAR_WIDTHS
    if isinstance(module, PER_CHANNEL_NORMS):
        return NORM_WIDTHS
    return PRELU_WIDTHS if isinstance(module, nn.PReLU) else ()


def is_per_channel(module: nn.Module) -> bool:
    """Whether the module does the same number of channels in as out, each by itself, with parameters for each."""
    return is_depthwise(module) or (bool(width_names(module)) and not is_weight_layer(module))


def groups_of(module: nn.Module) -> int:
    """Groups of a convolution; 1 for any other layer."""
    return module.groups if isinstance(module, Convolution) else 1


def output_width(module: nn.Module) -> int:
    """Number of output channels of a layer."""
    return int(getattr(module, width_names(module)[-1 if not isinstance(module, Convolution) else 1]))


def input_width(module: nn.Module) -> int:
    """Number of input channels of a layer."""
    return int(getattr(module, width_names(module)[0]))


def tensor_shapes(module: nn.Module, widths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters and buffers of a layer once it has the given widths.

    Args:
        module: a layer that has widths.
        widths: a value for each of :func:`width_names`.
    """
    if isinstance(module, Convolution):
        inner = (widths["in_channels"], widths["out_channels"] // widths["groups"])
        outer = (widths["out_channels"], widths["in_channels"] // widths["groups"])
        channels = inner if isinstance(module, _Transposed) else outer
        shapes = {"weight": (*channels, *module.kernel_size), "bias": (widths["out_channels"],)}
    elif isinstance(module, nn.Linear):
        shapes = {"weight": (widths["out_features"], widths["in_features"]), "bias": (widths["out_features"],)}
    else:
        (width,) = widths.values()
        shapes = dict.fromkeys(_NORM_TENSORS, (width,))
    return {name: shape for name, shape in shapes.items() if isinstance(getattr(module, name, None), Tensor)}


def removed_entries(module: nn.Module, outputs: Tensor, inputs: Tensor) -> dict[str, Tensor]:
    """Which entries of a layer's tensors go with its output and input channels.

    Args:
        module: a layer that has widths.
        outputs: flags of the output channels that go, 1-D.
        inputs: flags of the input channels that go, 1-D; of a per-channel layer the same as ``outputs``.

    Returns:
        Tensor name -> flags over the tensor's first dimensions: two of the weight of a Linear layer or convolution,
        one of anything else.
    """
    names = tensor_shapes(module, {name: getattr(module, name) for name in width_names(module)})
    entries = dict.fromkeys(names, outputs)
    if not is_weight_layer(module):
        return entries
    if is_depthwise(module):
        return entries | {"weight": outputs[:, None]}
    groups = groups_of(module)
    by_group = outputs.view(groups, -1, 1), inputs.view(groups, 1, -1)
    if isinstance(module, _Transposed):
        by_group = inputs.view(groups, -1, 1), outputs.view(groups, 1, -1)
    return entries | {"weight": torch.logical_or(*by_group).flatten(0, 1)}


def remaining_widths(module: nn.Module, outputs: Tensor, inputs: Tensor) -> dict[str, int]:
    """Widths of a layer without the flagged output and input channels."""
    left_out, left_in = int((~outputs).sum()), int((~inputs).sum())
    if isinstance(module, Convolution):
        groups = left_out if is_depthwise(module) else module.groups
        return {"in_channels": left_in, "out_channels": left_out, "groups": groups}
    if isinstance(module, nn.Linear):
        return {"in_features": left_in, "out_features": left_out}
    return dict.fromkeys(width_names(module), left_out)
