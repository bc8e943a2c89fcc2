"""Networks of torchvision and timm, by name."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from torch import nn

from sparsewright.checks import did_you_mean

# Their training-time forward returns a tuple of outputs, which no ordinary loss takes.
WITH_AUXILIARY_OUTPUTS = ("googlenet", "inception_v3")


def _package(module: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise ImportError(
            f"models named {name}:NAME need the package {name}: pip install 'sparsewright[{extra}]' ({error})"
        ) from error


def _head(model: nn.Module, outputs: int) -> str:
    """Name of the last Linear or convolution with `outputs` outputs: the one that gives the classes."""
    heads = [
        name
        for name, module in model.named_modules()
        if (isinstance(module, nn.Linear) and module.out_features == outputs)
        or (isinstance(module, nn.Conv2d) and module.out_channels == outputs)
    ]
    if not heads:
        raise ValueError(f"{type(model).__name__} has no layer with {outputs} outputs to replace")
    return heads[-1]


def replace_head(model: nn.Module, outputs: int, num_classes: int) -> None:
    """Put a freshly initialised layer with `num_classes` outputs in place of the one that gives `outputs` classes.

    Raises:
        ValueError: if no Linear or Conv2d layer has `outputs` outputs.
    """
    name = _head(model, outputs)
    old = model.get_submodule(name)
    bias = getattr(old, "bias", None) is not None
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, num_classes, bias=bias)
    else:
        assert isinstance(old, nn.Conv2d)
        new = nn.Conv2d(old.in_channels, num_classes, 1, bias=bias)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


def pretrained_classes(name: str) -> int | None:
    """Classes of the weights that a model name such as `torchvision:resnet50@DEFAULT` asks for.

    None where it asks for none, or for some that do not exist.

    Raises:
        ImportError: if the package of the name is absent.
    """
    family, _, text = name.partition(":")
    network, _, weights = text.partition("@")
    if family == "torchvision" and weights:
        models = _package("torchvision.models", "train")
        choices = models.get_model_weights(network) if network in models.list_models(module=models) else {}
        return len(choices[weights].meta["categories"]) if weights in getattr(choices, "__members__", {}) else None
    if family == "timm" and weights:
        configuration = _package("timm", "timm").get_pretrained_cfg(network)
        return None if configuration is None else configuration.num_classes
    return None


def torchvision_model(
    text: str, num_classes: int, in_channels: int, image_size: int, *, load_weights: bool = True, **options: Any
) -> nn.Module:
    """A classifier of torchvision, `NAME` or `NAME@WEIGHTS`.

    With weights, the network is loaded whole and its last layer is replaced if it has another number of classes.

    Args:
        text: `resnet50`, `resnet50@IMAGENET1K_V2`, `resnet50@DEFAULT`, ...
        num_classes: outputs.
        in_channels: must be 3.
        image_size: told to vision transformers, whose position embedding depends on it; free for the others.
        load_weights: False leaves the network of `NAME@WEIGHTS` as it is initialised.
        **options: passed to torchvision's builder.

    Raises:
        ImportError: if torchvision is absent.
        ValueError: on an unknown network or weights, or another number of channels.
        OSError: if the weights cannot be downloaded.
    """
    models = _package("torchvision.models", "train")
    name, _, weights_name = text.partition("@")
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"torchvision has no classifier '{name}'{did_you_mean(name, known)}")
    if in_channels != 3:
        raise ValueError(f"torchvision:{name} takes images of 3 channels, not {in_channels}")
    if name.startswith("vit_"):
        options.setdefault("image_size", image_size)
    if "@" in text:
        return _with_weights(models, name, weights_name, num_classes, load_weights, options)
    if name in WITH_AUXILIARY_OUTPUTS:
        options = {"aux_logits": False, "init_weights": True, **options}
    return models.get_model(name, weights=None, num_classes=num_classes, **options)


def _with_weights(
    models: ModuleType, name: str, weights_name: str, num_classes: int, load_weights: bool, options: dict[str, Any]
) -> nn.Module:
    choices = models.get_model_weights(name)
    if weights_name not in choices.__members__:
        raise ValueError(
            f"torchvision:{name} has no weights '{weights_name}': choose among {', '.join(choices.__members__)}"
        )
    weights = choices[weights_name]
    classes = len(weights.meta["categories"])
    if name in WITH_AUXILIARY_OUTPUTS:
        options = {"aux_logits": True, "init_weights": False, "transform_input": True, **options}
    model = models.get_model(name, weights=None, num_classes=classes, **options)
    if load_weights:
        try:
            state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except OSError as error:
            raise OSError(f"the weights of torchvision:{name}@{weights_name} could not be loaded: {error}") from error
        model.load_state_dict(state)
    if name in WITH_AUXILIARY_OUTPUTS:
        _drop_auxiliary_outputs(model)
    if classes != num_classes:
        replace_head(model, classes, num_classes)
    return model


def _drop_auxiliary_outputs(model: nn.Module) -> None:
    for attribute, value in (("aux_logits", False), ("aux1", None), ("aux2", None), ("AuxLogits", None)):
        if hasattr(model, attribute):
            setattr(model, attribute, value)


def timm_model(
    text: str, num_classes: int, in_channels: int, image_size: int, *, load_weights: bool = True, **options: Any
) -> nn.Module:
    """A network of timm, `NAME` or `NAME@pretrained`; NAME may carry timm's tag (`resnet50.a1_in1k`).

    Args:
        text: the name, as timm spells it.
        num_classes: outputs; timm replaces the head of pretrained weights where the number differs.
        in_channels: image channels; timm adapts the first layer of pretrained weights.
        image_size: told to the networks that are built for one size; free for the others.
        load_weights: False leaves the network as it is initialised, whatever the name and the options say.
        **options: passed to `timm.create_model`.

    Raises:
        ImportError: if timm is absent.
        ValueError: on an unknown name, tag, or word after "@".
        OSError: if the weights cannot be downloaded.
    """
    timm = _package("timm", "timm")
    name, _, word = text.partition("@")
    if "@" in text and word != "pretrained":
        raise ValueError(f"'timm:{text}': after @ only 'pretrained' is allowed, not '{word}'")
    _check_timm_name(timm, name)
    configuration = timm.get_pretrained_cfg(name)
    if configuration is not None and configuration.fixed_input_size:
        options.setdefault("img_size", image_size)
    pretrained = word == "pretrained"
    arguments = {"pretrained": pretrained, "num_classes": num_classes, "in_chans": in_channels, **options}
    if not load_weights:
        arguments |= {"pretrained": False, "checkpoint_path": ""}
    if not arguments["pretrained"]:
        return timm.create_model(name, **arguments)
    try:
        return timm.create_model(name, **arguments)
    except TypeError:
        raise
    except Exception as error:  # the hub's client raises errors of its own, of no common class
        raise OSError(f"the weights of timm:{text} could not be loaded: {error}") from error


def _check_timm_name(timm: ModuleType, name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise ValueError(f"timm has no network '{architecture}'{did_you_mean(architecture, timm.list_models())}")
    tagged = timm.list_models(f"{architecture}.*", pretrained=True)
    if tag and name not in tagged:
        raise ValueError(
            f"timm has no weights '{name}'{did_you_mean(name, tagged) or ': it has ' + (', '.join(tagged) or 'none')}"
        )
