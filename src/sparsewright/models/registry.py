"""Names of networks, and how to build them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from sparsewright.checks import check_seed, did_you_mean
from sparsewright.models.external import timm_model, torchvision_model
from sparsewright.models.lenet import lenet5, lenet300, mlp
from sparsewright.models.resnet_cifar import cifar_resnet, resnet50_cifar
from sparsewright.models.vgg import cifar_vgg
from sparsewright.models.wide_resnet import wide_resnet

Builder = Callable[..., nn.Module]


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a network without building it.

    Attributes:
        name: what `create_model` takes; capitals stand for what the caller fills in.
        summary: one line.
        paper: where the network comes from; empty for open families.
        parameters: exact number of parameters with `input_shape` and `num_classes`; None where it depends on the name.
        input_shape: (channels, height, width) that `parameters` is counted for; None where it depends on the name.
        num_classes: classes that `parameters` is counted for.
    """

    name: str
    summary: str
    paper: str
    parameters: int | None
    input_shape: tuple[int, int, int] | None
    num_classes: int = 10


MNIST = (1, 28, 28)
CIFAR = (3, 32, 32)
LECUN = "LeCun et al., 1998"
HE = "arXiv 1512.03385"
SIMONYAN = "arXiv 1409.1556"
ZAGORUYKO = "arXiv 1605.07146"

_FIXED: dict[str, tuple[ModelInfo, Builder]] = {
    info.name: (info, builder)
    for info, builder in (
        (ModelInfo("lenet300", "perceptron 300-100, any image size", LECUN, 266_610, MNIST), lenet300),
        (ModelInfo("lenet5", "Caffe's LeNet-5: 20 and 50 filters, 500 units", LECUN, 431_080, MNIST), lenet5),
        *(
            (
                ModelInfo(f"resnet{depth}", f"ResNet-{depth} for CIFAR, option A shortcuts", HE, parameters, CIFAR),
                partial(cifar_resnet, depth, 1),
            )
            for depth, parameters in (
                (8, 75_290),
                (20, 269_722),
                (32, 464_154),
                (44, 658_586),
                (56, 853_018),
                (110, 1_727_962),
            )
        ),
        (
            ModelInfo("resnet32x2", "ResNet-32 for CIFAR with twice the channels", HE, 1_849_898, CIFAR),
            partial(cifar_resnet, 32, 2),
        ),
        (
            ModelInfo("resnet50-cifar", "bottleneck ResNet-50, 3x3 stem, no max-pool", HE, 23_520_842, CIFAR),
            resnet50_cifar,
        ),
        (
            ModelInfo("vgg16", "VGG-16 with batch norm, one Linear", SIMONYAN, 14_724_042, CIFAR),
            partial(cifar_vgg, 16),
        ),
        (
            ModelInfo("vgg19", "VGG-19 with batch norm, one Linear", SIMONYAN, 20_035_018, CIFAR),
            partial(cifar_vgg, 19),
        ),
        (
            ModelInfo("wrn-22-2", "wide ResNet, 22 layers, twice the channels", ZAGORUYKO, 1_079_642, CIFAR),
            partial(wide_resnet, 22, 2),
        ),
        (
            ModelInfo("wrn-28-10", "wide ResNet, 28 layers, ten times the channels", ZAGORUYKO, 36_479_194, CIFAR),
            partial(wide_resnet, 28, 10),
        ),
    )
}

_PREFIXED: dict[str, tuple[ModelInfo, Builder]] = {
    "mlp": (
        ModelInfo("mlp:WIDTHSxDEPTH", "perceptron: mlp:256x3 is 256-256-256, mlp:300-100 is 300-100", "", None, None),
        mlp,
    ),
    "torchvision": (
        ModelInfo("torchvision:NAME[@WEIGHTS]", "any classifier of torchvision", "", None, None),
        torchvision_model,
    ),
    "timm": (
        ModelInfo("timm:NAME[@pretrained]", "any network of timm", "", None, None),
        timm_model,
    ),
}


def list_models() -> list[ModelInfo]:
    """Every network that `create_model` builds; open families, such as `timm:NAME`, come last."""
    return [info for info, _ in (*_FIXED.values(), *_PREFIXED.values())]


def create_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 32,
    seed: int | None = None,
    load_weights: bool = True,
    **options: Any,
) -> nn.Module:
    """Build a network on the CPU.

    Args:
        name: one of `list_models()`.
        num_classes: outputs.
        in_channels: channels of the images.
        image_size: height and width of the images in pixels.
        seed: makes the initial weights a function of the seed alone and leaves the global random state as it was;
            in [0, 2**63); None draws them from the global state.
        load_weights: whether the weights in a name such as `torchvision:resnet50@DEFAULT` are fetched; False builds the
            same network with fresh ones, for a caller who fills in others.
        **options: of the network, such as `dropout` of the wide ResNets; torchvision's and timm's own.

    Returns:
        The network in training mode, mapping (batch, in_channels, image_size, image_size) to (batch, num_classes).

    Raises:
        ValueError: on an unknown name (the nearest one is named) or a number out of range.
        TypeError: on an unknown option, or a seed that is no whole number.
        ImportError: if the name needs a package that is absent (the extra to install is named).
    """
    builder = _find(name)
    for label, value in (("num_classes", num_classes), ("in_channels", in_channels), ("image_size", image_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{label} must be a positive integer, not {value!r}")
    _check_options(name, builder, options)
    if not load_weights and "load_weights" in inspect.signature(builder).parameters:
        options = {**options, "load_weights": False}
    build = partial(builder, num_classes=num_classes, in_channels=in_channels, image_size=image_size, **options)
    if seed is None:
        return build()
    check_seed(seed)
    # Only the CPU generator is seeded: torch.manual_seed would reset those of the accelerators too.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return build()


def _find(name: str) -> Builder:
    if name in _FIXED:
        return _FIXED[name][1]
    prefix, colon, rest = name.partition(":")
    if colon and prefix in _PREFIXED:
        if not rest:
            raise ValueError(f"'{name}' lacks a name after the colon: {_PREFIXED[prefix][0].name}")
        return partial(_PREFIXED[prefix][1], rest)
    known = [*_FIXED, *(f"{prefix}:" for prefix in _PREFIXED)]
    names = ", ".join(info.name for info in list_models())
    raise ValueError(f"unknown model '{name}'{did_you_mean(name, known) or ': choose among ' + names}")


def _check_options(name: str, builder: Builder, options: dict[str, Any]) -> None:
    parameters = inspect.signature(builder).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    allowed = [option for option in parameters if option not in ("num_classes", "in_channels", "image_size")]
    for option in options:
        if option not in allowed:
            choice = f"it takes {', '.join(allowed)}" if allowed else "it takes none"
            raise TypeError(f"model '{name}' has no option '{option}': {choice}")
