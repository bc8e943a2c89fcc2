"""What several parts ask about modules: which is the user's own, and what kind of layer one is."""

from __future__ import annotations

import torch
from torch import nn

Convolution = nn.modules.conv._ConvNd
PER_CHANNEL_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module inside DDP, ``torch.compile``, Fabric or an averaged model.

    Raises:
        TypeError: not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, _WRAPPERS):
        return unwrapped(model.module)
    for attribute in ("_orig_mod", "_forward_module"):
        inner = model._modules.get(attribute)
        if inner is not None:
            return unwrapped(inner)
    return model


def is_weight_layer(module: nn.Module) -> bool:
    """Whether the module is a Linear layer or a convolution, depthwise or transposed ones included."""
    return isinstance(module, (nn.Linear, Convolution))


def is_depthwise(module: nn.Module) -> bool:
    """Whether each channel is convolved with one filter of its own, so that inputs and outputs go together."""
    return isinstance(module, Convolution) and 1 < module.groups == module.in_channels == module.out_channels
