"""Plain copies of a network: unwrapped, without hooks, gradients or any tie to the original."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Container, Iterator
from typing import Any

from torch import nn

from sparsewright.modules import is_weight_layer

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def plain_copy(model: nn.Module) -> nn.Module:
    """A deep copy without forward and backward hooks, which could act on, or be stored with, the original.

    Parts that ``torch.compile`` wraps are plain modules in it, as compiled code goes on using the original's weights.

    Raises:
        ValueError: the model cannot be copied, or a layer's weight is made by a hook.
    """
    for name, module in model.named_modules():
        if is_weight_layer(module) and "weight" not in module._parameters and not hasattr(module, "parametrizations"):
            raise ValueError(
                f"the weight of {name} is made by a hook (weight or spectral normalisation, torch's pruning); "
                "make it a plain parameter first, such as with torch.nn.utils.remove_weight_norm"
            )
    return _copied(model, {})


def with_plain_parts(model: nn.Module) -> nn.Module:
    """The model itself; if a part of it is compiled, a copy that is not, with the parameters and buffers of ``model``.

    Raises:
        ValueError: the model cannot be copied.
    """
    return _copied(model, _tensors_of(model)) if any(True for _ in _compiled_parts(model)) else model


def light_copy(model: nn.Module, own: Container[str] = ()) -> nn.Module:
    """A copy whose parameters and buffers are those of ``model``, but for copies in the modules named in ``own``."""
    return copy.deepcopy(model, _tensors_of(model, own))


def _copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """A copy without hooks and compiled parts; what the memo holds already is not copied."""
    memo |= {id(getattr(module, hooks)): OrderedDict() for module in model.modules() for hooks in _HOOKS}
    try:
        # The innermost first, as compiled parts may hold others.
        for part in reversed(list(_compiled_parts(model))):
            memo[id(part)] = copy.deepcopy(part._orig_mod, memo)
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{type(model).__name__} cannot be copied: {error}") from error


def _compiled_parts(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if "_orig_mod" in module._modules)


def _tensors_of(model: nn.Module, own: Container[str] = ()) -> dict[int, Any]:
    """A memo with all parameters and buffers, but for those of the modules named in ``own``."""
    memo: dict[int, Any] = {}
    for name, module in model.named_modules():
        if name not in own:
            tensors = (*module._parameters.values(), *module._buffers.values())
            memo |= {id(tensor): tensor for tensor in tensors if tensor is not None}
    return memo
