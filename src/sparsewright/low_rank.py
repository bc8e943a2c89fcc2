"""How far a weight is from its best approximation of low rank: the rank loss of RPG, and its gradient.

Every function reads a weight as a matrix, filters x rest (``weight.flatten(1)``), and divides it by its Frobenius norm,
so that its squared singular values sum to 1. Cutting the matrix to rank k leaves out the residual E_k, whose energy
||E_k||_F^2 is the sum of the other squared singular values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsewright.checks import check_number
from sparsewright.truncation import Cut, cut_by_gram, cut_by_svd, gram_matrices

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
    """Rank losses of weights of equal shape, each gradient in its weight's shape and on its device."""
    wide = [_wide(weight.detach()) for weight in weights]
    with torch.autocast(wide[0].device.type, enabled=False):
        cuts, norms = _cuts(wide, residual_energy)
        return [
            _differentiate(cut, weight, matrix, norm)
            for cut, weight, matrix, norm in zip(cuts, weights, wide, norms, strict=True)
        ]


def _wide(weight: Tensor) -> Tensor:
    """The matrix of a weight, filters x rest or, if that has more rows than columns, transposed."""
    matrix = weight.flatten(1)
    if matrix.device.type == "mps":
        # It has no double precision.
        matrix = matrix.cpu()
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


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


def _cuts(wide: Sequence[Tensor], residual_energy: float) -> tuple[list[Cut | None], list[float]]:
    """Cuts of matrices of equal shape and their Frobenius norms; no cut for one that cannot be decomposed, or is 0."""
    precise = wide[0].new_empty((len(wide), *wide[0].shape), dtype=torch.float64)
    for copy, matrix in zip(precise, wide, strict=True):
        copy.copy_(matrix)
    scale = _scale_down(precise) if wide[0].dtype == torch.float64 else 1.0
    gram = gram_matrices(precise)
    norms = gram.diagonal(dim1=1, dim2=2).sum(-1).sqrt()
    usable = norms.isfinite() & (norms > 0)
    # An identity stands in for what must not reach the decomposition, so that the batch keeps its shape.
    gram.div_(torch.where(usable, norms, 1.0).square()[:, None, None])
    gram = torch.where(usable[:, None, None], gram, torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device))
    cuts = cut_by_gram(gram, precise.shape[2], residual_energy)
    for index, fit in enumerate(usable.tolist()):
        cuts[index] = (cuts[index] or cut_by_svd(precise[index], residual_energy)) if fit else None
    return cuts, (norms * scale).tolist()


def _scale_down(matrices: Tensor) -> Tensor:
    """Divide each matrix by its largest entry, in place, so that squares stay in range; returns the divisors."""
    largest = matrices.abs().amax((1, 2))
    largest = torch.where(largest.isfinite() & (largest > 0), largest, 1.0)
    matrices.div_(largest[:, None, None])
    return largest


def _differentiate(cut: Cut | None, weight: Tensor, wide: Tensor, norm: float) -> RankLoss | None:
    """Loss and gradient: G = -2 E for the normalised matrix, less its part along the matrix itself, over the norm."""
    precision = torch.float64 if weight.dtype == torch.float64 else torch.float32
    if cut is None:
        return RankLoss(0.0, 0, torch.zeros_like(weight, dtype=precision)) if norm == 0 else None
    working = precision if cut.energy > _SMALL_RESIDUAL and _single_is_exact(wide) else torch.float64
    wide = wide.to(working)
    gradient = cut.residual(wide).sub_(wide, alpha=cut.energy).div_(norm).mul_(-2 / norm).to(precision)
    if gradient.shape[0] != len(weight):
        gradient = gradient.mT
    return RankLoss(-cut.energy, cut.k, gradient.reshape(weight.shape).to(weight.device))


def _single_is_exact(matrix: Tensor) -> bool:
    """Whether a product in single precision is one: with TF32 it has the accuracy of half precision."""
    return matrix.device.type != "cuda" or not torch.backends.cuda.matmul.allow_tf32
