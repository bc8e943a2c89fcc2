"""How far a weight is from its best approximation of low rank: the rank loss of RPG, and its gradient.

Every function reads a weight as a matrix, filters x rest (``weight.flatten(1)``), and divides it by its Frobenius norm,
so that its squared singular values sum to 1. Cutting the matrix to rank k leaves out the residual E_k, whose energy
||E_k||_F^2 is the sum of the other squared singular values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sparsewright.checks import check_number

_EPSILON = torch.finfo(torch.float64).eps
# Bound on the relative error of a residual for the eigen-decomposition of the Gram matrix to be good enough.
_EXACT_ENOUGH = 1e-5
# Residual energy below which double precision is needed to hold that bound.
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
    found = rank_losses({"weight": weight}, energy)
    if "weight" not in found:
        raise DecompositionError("the singular value decomposition of the weight did not converge")
    result = found["weight"]
    loss = result.gradient.new_tensor(result.loss)
    return _WithGradient.apply(weight, loss, result.gradient), result.k


@torch.no_grad()
def rank_losses(weights: Mapping[str, Tensor], residual_energy: float) -> dict[str, RankLoss]:
    """The rank loss of many weights at once, without autograd; those of equal shape are decomposed together.

    The squared singular values and the vectors of the smaller side come from the eigen-decomposition of the Gram matrix
    in double precision, which is several times cheaper than the SVD. Rounding in it is amplified where the cut falls
    between two almost equal singular values, or leaves out almost nothing; a matrix for which the bound on the
    relative error of its residual exceeds 1e-5 is decomposed once more, by the SVD in double precision.

    Args:
        weights: name -> floating-point tensor of 2 or more dimensions.
        residual_energy: share of the squared Frobenius norm to leave out, in [0, 1].

    Returns:
        Name -> rank loss, without the weights whose decomposition fails (entries that are not finite, or no
        convergence).
    """
    found: dict[str, RankLoss] = {}
    for names in _batches(weights):
        matrices = torch.stack([weights[name].detach().flatten(1) for name in names])
        for name, result in zip(names, _losses(matrices, residual_energy), strict=True):
            if result is not None:
                shaped = result.gradient.reshape(weights[name].shape)
                found[name] = RankLoss(result.loss, result.k, shaped)
    return {name: found[name] for name in weights if name in found}


def split_energy(squares: Tensor, residual_energy: float) -> Tensor:
    """How many of the smallest squared singular values to leave out, so that their sum is nearest to a target.

    Args:
        squares: ascending, summing to 1 along the last dimension; shape (..., r).
        residual_energy: the target, in [0, 1].

    Returns:
        Whole numbers in 1..r, shape (...); the smallest on a tie.
    """
    return (squares.cumsum(-1) - residual_energy).abs().argmin(-1) + 1


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


def _losses(matrices: Tensor, residual_energy: float) -> list[RankLoss | None]:
    """Rank losses of a batch, shape (batch, filters, rest); None for a matrix that cannot be decomposed."""
    precise = matrices.double()
    norms = torch.linalg.vector_norm(precise, dim=(1, 2))
    usable = norms.isfinite() & (norms > 0)
    precise = precise / torch.where(usable, norms, 1.0)[:, None, None]
    # An identity stands in for what must not reach the decomposition, so that the batch keeps its shape.
    side = min(precise.shape[1:])
    gram = precise @ precise.mT if precise.shape[1] == side else precise.mT @ precise
    gram = torch.where(usable[:, None, None], gram, torch.eye(side, dtype=gram.dtype, device=gram.device))
    cuts = _cut(gram, residual_energy)
    results: list[RankLoss | None] = []
    for index, (norm, finite) in enumerate(zip(norms.tolist(), norms.isfinite().tolist(), strict=True)):
        if norm == 0:
            results.append(RankLoss(0.0, 0, torch.zeros_like(matrices[index], dtype=_precision(matrices))))
        elif not finite:
            results.append(None)
        else:
            cut = cuts[index] or _cut_by_svd(precise[index], residual_energy)
            results.append(cut and _differentiate(cut, precise[index], norm, _precision(matrices)))
    return results


@dataclass(frozen=True)
class _Cut:
    """Where a matrix is cut: the rank kept, the energy left out, and the projection onto what is left out.

    ``outside`` acts on the smaller side of the matrix, and has its number of rows and columns.
    """

    k: int
    energy: float
    outside: Tensor


def _cut(gram: Tensor, residual_energy: float) -> list[_Cut | None]:
    """Cuts from Gram matrices, shape (batch, side, side), of trace 1; None where they are not exact enough."""
    decomposed = _eigen(gram)
    if decomposed is None:
        return (
            [None] * len(gram) if len(gram) == 1 else [cut for one in gram for cut in _cut(one[None], residual_energy)]
        )
    squares, vectors = decomposed
    side = squares.shape[-1]
    noise = side * _EPSILON * squares[:, -1:]
    squares = torch.where(squares > noise, squares, 0.0)
    left_out = split_energy(squares, residual_energy)
    energies = squares.cumsum(-1).gather(-1, left_out[:, None] - 1).squeeze(-1)
    # Left-out and kept directions mix by rounding / gap, and what is mixed in compares with the residual's norm.
    bounded = torch.nn.functional.pad(squares, (0, 1), value=torch.inf)
    gaps = (bounded.gather(-1, left_out[:, None]) - bounded.gather(-1, left_out[:, None] - 1)).squeeze(-1)
    exact = (noise.squeeze(-1) <= _EXACT_ENOUGH * gaps * energies.sqrt()) | gaps.isinf()
    cuts: list[_Cut | None] = []
    for index, (count, energy, good) in enumerate(
        zip(left_out.tolist(), energies.tolist(), exact.tolist(), strict=True)
    ):
        outer = vectors[index][:, :count]
        cuts.append(_Cut(side - count, energy, outer @ outer.mT) if good else None)
    return cuts


def _eigen(gram: Tensor) -> tuple[Tensor, Tensor] | None:
    try:
        return torch.linalg.eigh(gram)
    except RuntimeError:
        return None


def _cut_by_svd(matrix: Tensor, residual_energy: float) -> _Cut | None:
    """The cut of one normalised matrix, shape (filters, rest), by its SVD; None if that does not converge."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    try:
        left, values, _ = torch.linalg.svd(wide, full_matrices=False)
    except RuntimeError:
        return None
    squares = values.flip(-1).square()
    count = int(split_energy(squares, residual_energy))
    outer = left[:, len(squares) - count :]
    return _Cut(len(squares) - count, float(squares[:count].sum()), outer @ outer.mT)


def _differentiate(cut: _Cut, matrix: Tensor, norm: float, precision: torch.dtype) -> RankLoss:
    """Loss and gradient: G = -2 E for the normalised matrix, less its part along the matrix itself, over the norm."""
    # Single precision costs the residual about 1e-7 of the matrix, which only a small residual would notice.
    working = precision if cut.energy > _SMALL_RESIDUAL else torch.float64
    matrix, outside = matrix.to(working), cut.outside.to(working)
    residual = outside @ matrix if len(outside) == len(matrix) else matrix @ outside
    gradient = residual.sub_(matrix, alpha=cut.energy).mul_(-2 / norm)
    return RankLoss(-cut.energy, cut.k, gradient.to(precision))


def _precision(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32
