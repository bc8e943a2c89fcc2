"""What several parts ask of a module: which is the user's own, what kind of layer one is, and how to run one aside."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

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


def checked_inputs(example_input: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """What to call the network with.

    Raises:
        TypeError: neither a tensor nor several of them.
        ValueError: there is no sample in the first.
    """
    single = isinstance(example_input, Tensor)
    inputs = (example_input,) if single else tuple(example_input) if isinstance(example_input, Sequence) else ()
    if not inputs or not all(isinstance(value, Tensor) for value in inputs):
        raise TypeError("example_input must be a tensor or several of them, as the model takes them")
    if inputs[0].ndim == 0 or inputs[0].shape[0] == 0:
        raise ValueError(f"example_input has shape {tuple(inputs[0].shape)}; it needs at least one sample in front")
    return inputs


@contextmanager
def evaluation_mode(model: nn.Module) -> Generator[None, None, None]:
    """Inside, every module is in evaluation mode; afterwards each is as it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        # Each module by itself: `model.train()` would also switch on layers that the user keeps frozen in eval mode.
        for module in training:
            module.training = True
