"""How much a weight matters. Tensors in, a float32 tensor of the same shape out; the lowest scores go first."""

from __future__ import annotations

import torch
from torch import Tensor


def magnitude(weight: Tensor) -> Tensor:
    """Absolute value of each weight; the criterion of magnitude pruning, RigL and GraNet."""
    return finite(weight.detach().abs().float())


def saliency(weight: Tensor, gradient: Tensor) -> Tensor:
    """Magnitude of weight times gradient: how much the loss would change, to first order, if the weight were 0.

    GSM's criterion (Ding et al., arXiv 1909.12778, equation 9), after Molchanov et al. (arXiv 1611.06440).
    """
    return (weight.detach().float() * gradient.float()).abs_()


def largest(weight: Tensor) -> Tensor:
    """Negative absolute value: the largest weights go first. A baseline that should fail."""
    return -magnitude(weight)


def set_rank(weight: Tensor, mask: Tensor) -> Tensor:
    """Rank by closeness to zero within the kept weights of the same sign, as a fraction of their number.

    SET (arXiv 1707.04780, algorithm 1) removes the fraction of the smallest positive and of the largest negative
    weights. Dropping the lowest of these scores drops the same fraction of each sign; kept weights that are exactly 0
    go first. Entries outside ``mask`` get 0 and mean nothing.
    """
    flat = weight.detach().reshape(-1).float()
    score = torch.zeros_like(flat)
    for sign in (flat > 0, flat < 0):
        index = (sign & mask.reshape(-1)).nonzero().squeeze(1)
        order = flat[index].abs().argsort(stable=True)
        ranks = torch.arange(1, index.numel() + 1, device=flat.device, dtype=torch.float64) / max(index.numel(), 1)
        score[index[order]] = ranks.float()
    return score.reshape(weight.shape)


def random(like: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform random scores for each entry of ``like``, drawn on the CPU so that they do not depend on the device."""
    return torch.rand(like.shape, generator=generator).to(like.device)


def finite(score: Tensor) -> Tensor:
    """Replace NaN by 0 in place, so that a diverged weight cannot break an exact count."""
    return score.nan_to_num_(nan=0.0)
