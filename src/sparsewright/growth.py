"""Which dropped weights come back: growth scores. Tensors in, tensor out; the highest scores grow."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, RAdam

from sparsewright.scores import finite

AVERAGE_DECAY = 0.9
_ADAM_FAMILY = (Adam, AdamW, NAdam, RAdam)


def gradient(grad: Tensor) -> Tensor:
    """Absolute gradient of the task loss, dense (RigL, arXiv 1911.11134, section 3)."""
    return finite(dense(grad).abs().float())


def dense(grad: Tensor) -> Tensor:
    """A gradient without its history, and dense if it is sparse."""
    return grad.detach().to_dense() if grad.is_sparse else grad.detach()


def momentum(moment: Tensor) -> Tensor:
    """Absolute momentum (SNFS, arXiv 1907.04840)."""
    return finite(moment.detach().abs().float())


def normalised_moment(first: Tensor, second: Tensor, epsilon: float) -> Tensor:
    """Adam's first moment over the root of its second, which is the step that Adam would take."""
    return first.float() / (second.float().sqrt() + epsilon)


def moment_keys(optimizer: Optimizer, parameter: nn.Parameter) -> tuple[str, ...]:
    """State entries that :func:`read_moment` reads for this parameter; empty if the optimizer has none that we know."""
    if isinstance(optimizer, _ADAM_FAMILY):
        return ("exp_avg", "exp_avg_sq")
    if isinstance(optimizer, SGD) and _group_of(optimizer, parameter)["momentum"] != 0:
        return ("momentum_buffer",)
    return ()


def read_moment(optimizer: Optimizer, parameter: nn.Parameter) -> Tensor | None:
    """The optimizer's momentum of a parameter (its shape); None before the parameter's first step."""
    state = optimizer.state.get(parameter, {})
    keys = moment_keys(optimizer, parameter)
    if not keys or any(state.get(key) is None for key in keys):
        return None
    if len(keys) == 1:
        return state[keys[0]]
    epsilon = _group_of(optimizer, parameter)["eps"]
    return normalised_moment(state["exp_avg"], state["exp_avg_sq"], epsilon)


def update_average(average: Mapping[str, Tensor], name: str, grad: Tensor, scale: float = 1.0) -> None:
    """Move the exponential average of a parameter's gradient, in place: a <- 0.9 a + 0.1 grad / scale."""
    average[name].mul_(AVERAGE_DECAY).add_(dense(grad).to(torch.float32), alpha=(1 - AVERAGE_DECAY) / scale)


def _group_of(optimizer: Optimizer, parameter: nn.Parameter) -> dict:
    for group in optimizer.param_groups:
        if any(member is parameter for member in group["params"]):
            return group
    raise KeyError("the optimizer does not hold this parameter")
