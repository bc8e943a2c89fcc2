"""How far a weight is from its best approximation of low rank: the rank loss of RPG, and its gradient.

Every function reads a weight as a matrix, filters x rest (``weight.flatten(1)``), and divides it by its Frobenius norm,
so that its squared singular values sum to 1. Cutting the matrix to rank k leaves out the residual E_k, whose energy
||E_k||_F^2 is the sum of the other squared singular values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsewright.checks import check_number
from sparsewright.truncation import Cut, cut_by_gram, cut_by_svd

# Single precision costs the residual about 1e-7 of the matrix, which a residual of less energy than this would notice.
_SMALL_RESIDUAL = 1e-3
# Entries of one batch of matrices: 32 MB in double precision.
_BATCH = 1 << 22


class DecompositionError(RuntimeError):
    """The singular values of a weight could not be computed."""


@dataclass(frozen=True)
class RankLoss:
    """The rank loss of one weight.

    Attributes:
        loss: minus the residual energy, in [-1, 0].
        k: rank of the approximation.
        gradient: of the loss with respect to the weight, in its shape; float64 for such a weight, else float32.
    """

    loss: float
    k: int
    gradient: Tensor


def rank_loss(weight: Tensor, residual_energy: float) -> tuple[Tensor, int]:
    """The adversarial loss of RPG (arXiv 2311.17493): minus the squared distance to the best low-rank approximation.

    The weight is normalised by its Frobenius norm. The approximation is its truncated SVD of the rank k in 0..r - 1
    (r the smaller dimension) whose residual energy is nearest to ``residual_energy``, the larger k on a tie. It counts
    as a constant in the backward pass, while the normalisation is differentiated; minimising the loss pushes energy out
    of the approximation, and so raises the rank.

    Args:
        weight: floating point, 2 or more dimensions, read as filters x rest.
        residual_energy: share of the squared Frobenius norm to leave out, in [0, 1].

    Returns:
        The loss, 0-dimensional (float64 for such a weight, else float32), with autograd; and k. An all-zero weight
        gives 0 and 0, and no gradient.

    Raises:
        ValueError: fewer than 2 dimensions, no entries, entries that are not finite, an energy outside [0, 1].
        TypeError: not a floating-point tensor, or an energy that is not a number.
        DecompositionError: the decomposition did not converge.
    """
    energy = check_number(residual_energy, "residual_energy", highest=1.0)
    check_matrix(weight, "the weight")
    if not bool(weight.isfinite().all()):
        raise ValueError("the weight has entries that are not finite")
    found = dict(rank_losses({"weight": weight}, energy))
    if "weight" not in found:
        raise DecompositionError("the singular value decomposition of the weight did not converge")
    result = found["weight"]
    loss = result.gradient.new_tensor(result.loss)
    return _WithGradient.apply(weight, loss, result.gradient), result.k


def rank_losses(weights: Mapping[str, Tensor], residual_energy: float) -> Iterator[tuple[str, RankLoss]]:
    """The rank loss of many weights, without autograd; those of equal shape are decomposed together.

    The squared singular values and the vectors of the smaller side come from the eigen-decomposition of the Gram matrix
    in double precision, which is several times cheaper than the SVD. Rounding in it is amplified where the cut falls
    between two almost equal singular values, or leaves out almost nothing; a matrix for which the estimated relative
    error of its residual exceeds 1e-5 is decomposed once more, by the SVD in double precision.

    Args:
        weights: name -> floating-point tensor of 2 or more dimensions.
        residual_energy: share of the squared Frobenius norm to leave out, in [0, 1].

    Yields:
        Name and rank loss, batch by batch, without the weights whose decomposition fails (entries that are not finite,
        or no convergence).
    """
    for names in _batches(weights):
        for name, result in zip(names, _batch_losses([weights[name] for name in names], residual_energy), strict=True):
            if result is not None:
                yield name, result


@torch.no_grad()
def _batch_losses(weights: Sequence[Tensor], residual_energy: float) -> list[RankLoss | None]:
    """Rank losses of weights that can be stacked, each gradient in its weight's shape and on its device."""
    matrices = torch.stack([weight.detach().flatten(1) for weight in weights])
    home = matrices.device
    if home.type == "mps":
        # It has no double precision.
        matrices = matrices.cpu()
    with torch.autocast(matrices.device.type, enabled=False):
        results = list(_losses(matrices, residual_energy))
    return [
        result and RankLoss(result.loss, result.k, result.gradient.reshape(weight.shape).to(home))
        for weight, result in zip(weights, results, strict=True)
    ]


def check_matrix(weight: Tensor, name: str) -> None:
    """Refuse what cannot be read as a matrix of filters x rest.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: fewer than 2 dimensions, or no entries.
    """
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {getattr(weight, 'dtype', type(weight))}")
    if weight.dim() < 2 or weight.numel() == 0:
        raise ValueError(f"{name} must have 2 or more dimensions and some entries, got shape {tuple(weight.shape)}")


class _WithGradient(torch.autograd.Function):
    """A loss whose gradient with respect to the weight is known already."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, loss: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = weight.dtype
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,) = ctx.saved_tensors
        return (grad_outputs[0] * gradient).to(ctx.dtype), None, None


def _batches(weights: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """Names of weights that can be stacked, a bounded number of entries at a time."""
    alike: dict[Any, list[str]] = {}
    for name, weight in weights.items():
        alike.setdefault((len(weight), weight.numel(), weight.dtype, weight.device), []).append(name)
    for (_, entries, _, _), names in alike.items():
        most = max(_BATCH // max(entries, 1), 1)
        for first in range(0, len(names), most):
            yield names[first : first + most]


def _losses(matrices: Tensor, residual_energy: float) -> Iterator[RankLoss | None]:
    """Rank losses of a batch, shape (batch, filters, rest); None for a matrix that cannot be decomposed."""
    precision = torch.float64 if matrices.dtype == torch.float64 else torch.float32
    normalised = matrices.double()
    norms = _normalise(normalised)
    side, columns = sorted(normalised.shape[1:])
    gram = normalised @ normalised.mT if normalised.shape[1] == side else normalised.mT @ normalised
    # An identity stands in for what must not reach the decomposition, so that the batch keeps its shape.
    usable = norms.isfinite() & (norms > 0)
    gram = torch.where(usable[:, None, None], gram, torch.eye(side, dtype=gram.dtype, device=gram.device) / side)
    cuts = cut_by_gram(gram, columns, residual_energy)
    for matrix, norm, cut in zip(normalised, norms.tolist(), cuts, strict=True):
        if norm == 0:
            yield RankLoss(0.0, 0, torch.zeros_like(matrix, dtype=precision))
        elif not math.isfinite(norm):
            yield None
        else:
            found = cut or cut_by_svd(matrix, residual_energy)
            yield None if found is None else _differentiate(found, matrix, norm, precision)


def _normalise(matrices: Tensor) -> Tensor:
    """Divide each matrix by its Frobenius norm, in place; returns the norms, shape (batch,)."""
    # By the largest entry first, whose square might be beyond the range of the type.
    largest = matrices.abs().amax((1, 2))
    scale = torch.where(largest.isfinite() & (largest > 0), largest, 1.0)
    matrices.div_(scale[:, None, None])
    norms = torch.linalg.vector_norm(matrices, dim=(1, 2))
    matrices.div_(torch.where(norms.isfinite() & (norms > 0), norms, 1.0)[:, None, None])
    return norms * scale


def _differentiate(cut: Cut, matrix: Tensor, norm: float, precision: torch.dtype) -> RankLoss:
    """Loss and gradient: G = -2 E for the normalised matrix, less its part along the matrix itself, over the norm."""
    working = precision if cut.energy > _SMALL_RESIDUAL and _single_is_exact(matrix) else torch.float64
    matrix, outside = matrix.to(working), cut.outside.to(working)
    residual = outside @ matrix if len(outside) == len(matrix) else matrix @ outside
    gradient = residual.sub_(matrix, alpha=cut.energy).mul_(-2 / norm)
    return RankLoss(-cut.energy, cut.k, gradient.to(precision))


def _single_is_exact(matrix: Tensor) -> bool:
    """Whether a product in single precision is one: with TF32 it has the accuracy of half precision."""
    return matrix.device.type != "cuda" or not torch.backends.cuda.matmul.allow_tf32
