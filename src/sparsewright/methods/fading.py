"""Fading: how far a weight shrinks that only weight decay and momentum move, as GSM's passive ones do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

LARGEST_REMAINDER = 0.1
"""A weight is taken as faded below this share of its size (or, after training, of a kept weight's mean size)."""


def remaining_fraction(
    rates: Iterable[float],
    weight_decay: float,
    momentum: float,
    dampening: float = 0.0,
    nesterov: bool = False,
) -> float:
    """What torch's SGD leaves of a weight whose gradient is zero at every step: its last value over its first.

    This is SGD's update rule itself, from a momentum of zero. While lr * weight_decay is far below (1 - momentum)**2
    it is about exp(-sum of lr * weight_decay * (1 - dampening) / (1 - momentum)); beyond, the weight swings around
    zero, the result may be negative, and more weight decay fades no faster. (1 - dampening) is ``undampened_share``.

    Args:
        rates: the learning rate of each step, in order.
        weight_decay, momentum, dampening, nesterov: as in ``torch.optim.SGD``.

    Returns:
        1.0 without any step or weight decay.
    """
    weight, velocity, share = 1.0, None, undampened_share(momentum, dampening)
    for rate in rates:
        pull = weight_decay * weight
        velocity = pull if velocity is None else momentum * velocity + share * pull
        weight -= rate * (pull + momentum * velocity if nesterov else velocity)
    return weight


def undampened_share(momentum: float, dampening: float) -> float:
    """The factor that torch's SGD puts on gradients before it adds them to the momentum.

    Returns:
        1.0 without momentum, where SGD ignores the dampening.
    """
    return 1 - dampening if momentum else 1.0


@torch.no_grad()
def most_have_faded(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> bool:
    """Whether at least half of the weights outside the masks are below ``LARGEST_REMAINDER`` of a kept one's mean size.

    Args:
        weights: name -> weight, not masked yet; may have more names than ``masks``.
        masks: name -> bool tensor of the same shape, True = kept; at least one weight is.
    """
    kept = sum(int(mask.count_nonzero()) for mask in masks.values())
    size = sum(float(weights[name].abs().mul(mask).sum(dtype=torch.float64)) for name, mask in masks.items()) / kept
    pruned = sum(mask.numel() for mask in masks.values()) - kept
    faded = sum(
        int(((weights[name].abs() < LARGEST_REMAINDER * size) & ~mask).count_nonzero()) for name, mask in masks.items()
    )
    return 2 * faded >= pruned
