"""The widths of a network's layers: read them, and give them to another instance of the network."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sparsewright.checks import did_you_mean
from sparsewright.structured.layers import tensor_shapes, width_names


def widths(model: nn.Module) -> dict[str, dict[str, int]]:
    """The widths of each convolution, Linear layer, batch or instance norm and PReLU.

    Args:
        model: any module; it is only read.

    Returns:
        Module name (the first, where one has several) -> width attributes: ``in_channels``, ``out_channels`` and
        ``groups`` of a convolution, ``in_features`` and ``out_features`` of a Linear layer, ``num_features`` of a norm
        and ``num_parameters`` of a PReLU.
    """
    return {
        name: {width: int(getattr(module, width)) for width in names}
        for name, module in model.named_modules()
        if (names := width_names(module))
    }


def resize(model: nn.Module, widths: Mapping[str, Mapping[str, int]]) -> None:
    """Gives layers of ``model`` other widths, in place. What is in their weights afterwards means nothing.

    Parameters whose shape changes are replaced by new ones of the same type, on the same device, under the same names;
    an optimizer still holds the old ones. Layers that are not named are left as they are.

    Args:
        model: the network.
        widths: as :func:`widths` returns them; a module with several names may be under any of them.

    Raises:
        TypeError: widths are not such a mapping.
        ValueError: a module that the model lacks, widths that its type does not have, or that do not go together, or
            a parameter to resize that several modules share; the model is unchanged then.
    """
    wanted = _checked(model, widths)
    _refuse_shared(model, wanted)
    for name, sizes in wanted.items():
        module = model.get_submodule(name)
        for tensor, shape in tensor_shapes(module, sizes).items():
            if getattr(module, tensor).shape != shape:
                replace_tensor(module, tensor, getattr(module, tensor).detach().new_zeros(shape))
        set_widths(module, sizes)


def set_widths(module: nn.Module, sizes: Mapping[str, int]) -> None:
    """Sets the width attributes of a layer."""
    for attribute, size in sizes.items():
        setattr(module, attribute, size)


def replace_tensor(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Puts ``tensor`` in the place of a parameter or buffer; a parameter stays trainable or frozen as it was."""
    former = getattr(module, name)
    if isinstance(former, nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=former.requires_grad)
    setattr(module, name, tensor)


def _checked(model: nn.Module, widths: Any) -> dict[str, dict[str, int]]:
    if not isinstance(widths, Mapping):
        raise TypeError(f"widths must map module names to their widths, got {type(widths).__name__}")
    modules = dict(model.named_modules(remove_duplicate=False))
    given: dict[int, tuple[str, dict[str, int]]] = {}
    wanted = {}
    for name, sizes in widths.items():
        if name not in modules:
            raise ValueError(f"{type(model).__name__} has no module {name!r}{did_you_mean(name, modules)}")
        sizes = _checked_sizes(name, modules[name], sizes)
        former, others = given.setdefault(id(modules[name]), (name, sizes))
        if sizes != others:
            raise ValueError(f"{former} and {name} are the same module, with the widths {others} and {sizes}")
        if any(getattr(modules[name], attribute) != size for attribute, size in sizes.items()):
            wanted[name] = sizes
    return wanted


def _checked_sizes(name: str, module: nn.Module, sizes: Any) -> dict[str, int]:
    expected = width_names(module)
    kind = type(module).__name__
    if not isinstance(sizes, Mapping):
        raise TypeError(f"the widths of {name} must map {', '.join(expected) or 'nothing'} to numbers, got {sizes!r}")
    if set(sizes) != set(expected):
        allowed = f"has the widths {', '.join(expected)}" if expected else "has no widths that can change"
        raise ValueError(f"{name} is a {kind}, which {allowed}; got {', '.join(map(str, sizes)) or 'none'}")
    for attribute, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, numbers.Integral) or size < 1:
            raise ValueError(f"{attribute} of {name} must be an int of at least 1, got {size!r}")
    groups = sizes.get("groups", 1)
    if any(size % groups for size in sizes.values() if size != groups):
        raise ValueError(f"the channels of {name} must be multiples of its groups, got {dict(sizes)}")
    return {attribute: int(sizes[attribute]) for attribute in expected}


def _refuse_shared(model: nn.Module, wanted: Mapping[str, Mapping[str, int]]) -> None:
    uses: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            uses.setdefault(id(parameter), []).append(name)
    for name in wanted:
        for parameter in model.get_submodule(name).parameters(recurse=False):
            if len(uses[id(parameter)]) > 1:
                others = " and ".join(uses[id(parameter)])
                raise ValueError(f"{name} cannot be resized: {others} share a parameter")
