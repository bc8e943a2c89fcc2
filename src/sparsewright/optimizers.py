"""What a sparsifier needs to know of an optimizer, found out by behaviour and shape rather than by a list of types."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from sparsewright.checks import join_names

# All hooked steps run in copies of one wrapper of torch's, which share its code object.
_STEP_CODE = Optimizer.profile_hook_step(lambda: None).__code__


def as_optimizers(optimizer: Optimizer | Iterable[Optimizer]) -> list[Optimizer]:
    """One optimizer, or several that are stepped together, as a list; thin wrappers around them are taken off.

    Raises:
        TypeError: something that is not an optimizer.
        ValueError: none at all, the same one twice, or LBFGS.
    """
    given = list(optimizer) if isinstance(optimizer, (list, tuple)) else [optimizer]
    result = [_unwrapped(item) for item in given]
    if not result:
        raise ValueError("optimizer is an empty list: give the optimizer, or all that are stepped together")
    for item in result:
        if not isinstance(item, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer or a list of them, got {type(item).__name__}")
        if isinstance(item, LBFGS):
            raise ValueError(
                "LBFGS is not supported: it evaluates the loss several times a step along a line, where masks and "
                "schedules have no meaning; use any first-order optimizer"
            )
    if len({id(item) for item in result}) < len(result):
        raise ValueError("the same optimizer is given twice")
    return result


def owners(optimizers: Iterable[Optimizer], parameters: dict[str, nn.Parameter]) -> dict[str, Optimizer]:
    """Name -> the optimizer that holds the parameter.

    Raises:
        ValueError: a parameter that no optimizer holds; it is named.
    """
    holder = {id(p): item for item in optimizers for group in item.param_groups for p in group["params"]}
    missing = [name for name, parameter in parameters.items() if id(parameter) not in holder]
    if missing:
        raise ValueError(
            f"the optimizer does not hold {join_names(missing)}: give it the parameters of this model (optimizer made "
            "before the model was copied or moved?), or leave them out with exclude"
        )
    return {name: holder[id(parameter)] for name, parameter in parameters.items()}


def state_like(optimizer: Optimizer, parameter: nn.Parameter, skip: Collection[str] = ()) -> Iterator[Tensor]:
    """The entries of an optimizer's state that have one value per weight, found by shape."""
    for key, value in optimizer.state.get(parameter, {}).items():
        if key not in skip and isinstance(value, Tensor) and value.shape == parameter.shape:
            yield value


def found_inf(optimizer: Optimizer) -> bool:
    """Whether a gradient scaler told an optimizer that scales by itself (fused) to skip this step."""
    flag = getattr(optimizer, "found_inf", None)
    return flag is not None and bool(flag.item())


def gradient_scale(optimizer: Optimizer) -> float:
    """Factor that the gradients still carry inside ``step`` (fused optimizers under a gradient scaler), else 1."""
    scale = getattr(optimizer, "grad_scale", None)
    return 1.0 if scale is None else float(scale)


def maximised(optimizer: Optimizer) -> set[int]:
    """The ids of the parameters that move along their gradient instead of against it."""
    groups = [group for group in optimizer.param_groups if group.get("maximize")]
    return {id(parameter) for group in groups for parameter in group["params"]}


def is_inner_step(optimizer: Optimizer) -> bool:
    """Whether a hook is called for a ``super().step()`` inside the optimizer's own step.

    Torch runs the hooks once for each class whose ``step`` it has wrapped, so that a subclass's step that calls its
    parent's runs them twice; only the outer one is a step of the user's.
    """
    depth = 0
    frame = sys._getframe()
    while frame is not None and depth < 2:
        depth += frame.f_code is _STEP_CODE and frame.f_locals.get("self") is optimizer
        frame = frame.f_back
    return depth > 1


def split_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any] | None:
    """The closure among the arguments of ``optimizer.step`` as a step hook sees them (the optimizer first)."""
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    return closure if callable(closure) else None


def with_closure(
    args: tuple[Any, ...], kwargs: dict[str, Any], closure: Callable[[], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments with another closure."""
    if "closure" in kwargs:
        return args, {**kwargs, "closure": closure}
    return (args[0], closure, *args[2:]), kwargs


def drop_gradients(optimizer: Optimizer) -> None:
    """Set every gradient of the optimizer to None, so that its step moves nothing."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def moves_without_gradient(optimizer: Optimizer) -> bool:
    """Whether a step changes a parameter that has no gradient, tried on a small twin of the optimizer.

    A twin that cannot be built from the optimizer's own options tells nothing, and counts as False.
    """

    def moved() -> bool:
        parameter = nn.Parameter(torch.ones(4, 4))
        twin = _twin(optimizer, parameter)
        parameter.grad = torch.ones_like(parameter)
        twin.step()
        before = parameter.detach().clone()
        parameter.grad = None
        twin.step()
        return not torch.equal(before, parameter.detach())

    return _probed(moved, otherwise=False)


def scales_with_gradient(optimizer: Optimizer) -> bool:
    """Whether twice the gradient moves a parameter clearly more, as with SGD and not with Adam; tried on a small twin.

    A twin that cannot be built from the optimizer's own options tells nothing, and counts as True.
    """

    def scaled() -> bool:
        moves = []
        for size in (1.0, 2.0):
            parameter = nn.Parameter(torch.zeros(4, 4))
            twin = _twin(optimizer, parameter)
            parameter.grad = torch.full_like(parameter, size)
            twin.step()
            moves.append(float(parameter.detach().abs().sum()))
        return moves[1] > 1.5 * moves[0]

    return _probed(scaled, otherwise=True)


def _twin(optimizer: Optimizer, parameter: nn.Parameter) -> Optimizer:
    """An optimizer of the same type and options on another parameter, with a learning rate of 0.1."""
    options = {**optimizer.defaults, **{k: v for k, v in optimizer.param_groups[0].items() if k != "params"}}
    accepted = inspect.signature(type(optimizer).__init__).parameters
    options = {key: copy.deepcopy(value) for key, value in options.items() if key in accepted}
    if "lr" in options:
        options["lr"] = 0.1
    return type(optimizer)([parameter], **options)


def _probed(probe: Callable[[], bool], *, otherwise: bool) -> bool:
    try:
        return probe()
    except Exception:  # any failure of somebody else's optimizer on a toy only means that it cannot be probed
        return otherwise


def _unwrapped(optimizer: Any) -> Any:
    # A wrapper whose own step runs hooks (Lookahead) may move weights after the inner optimizer: attach to it then.
    if getattr(getattr(type(optimizer), "step", None), "hooked", False):
        return optimizer
    inner = getattr(optimizer, "optimizer", None)
    return _unwrapped(inner) if isinstance(inner, Optimizer) else optimizer
