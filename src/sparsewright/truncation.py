"""Where a matrix is cut to a lower rank, so that what is left out has a given energy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_EPSILON = torch.finfo(torch.float64).eps
# Estimated relative error of a residual up to which the Gram matrix is good enough.
_EXACT_ENOUGH = 1e-5
# Of the estimate: the products behind a Gram matrix, and their sums, round many times.
_SAFETY = 10


# Rows of a Gram matrix that are computed at once, without the part right of the diagonal.
_BLOCK = 128


@dataclass(frozen=True)
class Cut:
    """The rank kept, the energy left out, and the directions of either, whichever are fewer.

    Attributes:
        k: rank kept, in 0..side - 1.
        energy: share of the squared Frobenius norm that is left out.
        basis: float64, shape (side, directions): an orthonormal basis on the smaller side of the matrix.
        kept: whether the basis spans what is kept, and not what is left out.
    """

    k: int
    energy: float
    basis: Tensor
    kept: bool

    def residual(self, wide: Tensor) -> Tensor:
        """What is left out of the matrix, shape (side, columns), in its precision; a new tensor."""
        basis = self.basis.to(wide.dtype)
        projected = basis @ (basis.mT @ wide)
        return wide - projected if self.kept else projected


def gram_matrices(wide: Tensor) -> Tensor:
    """Products of matrices with their transpose, shape (batch, side, side); above the diagonal not everything is set.

    Args:
        wide: shape (batch, side, columns).
    """
    batch, side, _ = wide.shape
    gram = wide.new_zeros(batch, side, side)
    for first in range(0, side, _BLOCK):
        last = min(first + _BLOCK, side)
        gram[:, first:last, :last] = wide[:, first:last] @ wide[:, :last].mT
    return gram


def split_energy(squares: Tensor, residual_energy: float) -> Tensor:
    """How many of the smallest squared singular values to leave out, so that their sum is nearest to a target.

    Args:
        squares: float64, ascending, summing to 1 along the last dimension but for rounding; shape (..., side).
        residual_energy: the target, in [0, 1].

    Returns:
        Whole numbers in 1..side, shape (...); the smallest on a tie.
    """
    energies = squares.cumsum(-1)
    distances = (energies / energies[..., -1:] - residual_energy).abs()
    nearest = distances.amin(-1, keepdim=True) + 4 * squares.shape[-1] * _EPSILON
    return (distances <= nearest).int().argmax(-1) + 1


def cut_by_gram(gram: Tensor, columns: int, residual_energy: float) -> list[Cut | None]:
    """Cuts of many matrices, from their Gram matrices on the smaller side.

    Args:
        gram: float64, shape (batch, side, side), each of trace 1; only the lower triangle is read.
        columns: length of the larger side, over which the products were summed.
        residual_energy: energy to leave out, in [0, 1].

    Returns:
        For each matrix its cut, or None where rounding may change the residual by more than 1e-5 of its norm, or where
        the decomposition does not converge.
    """
    try:
        squares, vectors = torch.linalg.eigh(gram)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        if len(gram) == 1:
            return [None]
        return [cut for one in gram for cut in cut_by_gram(one[None], columns, residual_energy)]
    rounding = (squares.shape[-1] + columns**0.5) * _EPSILON * squares[:, -1]
    squares = torch.where(squares > rounding[:, None], squares, 0.0)
    left_out = split_energy(squares, residual_energy)
    energies = squares.cumsum(-1).gather(-1, left_out[:, None] - 1).squeeze(-1)
    exact = _SAFETY * rounding <= _EXACT_ENOUGH * _gaps(squares, left_out) * energies.sqrt()
    # Nothing but rounding is left out of a matrix whose rank is that low already.
    exact |= energies == 0
    found = zip(vectors, left_out.tolist(), energies.tolist(), exact.tolist(), strict=True)
    return [_cut(basis, count, energy) if good else None for basis, count, energy, good in found]


def cut_by_svd(wide: Tensor, residual_energy: float) -> Cut | None:
    """The cut of one matrix by its SVD.

    Args:
        wide: float64, shape (side, columns), not all zero.
        residual_energy: energy to leave out, in [0, 1].

    Returns:
        None if the decomposition does not converge.
    """
    try:
        left, values, _ = torch.linalg.svd(wide, full_matrices=False)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        return None
    squares = values.flip(-1).square()
    count = int(split_energy(squares, residual_energy))
    return _cut(left.flip(-1), count, float(squares[:count].sum() / squares.sum()))


def _cut(vectors: Tensor, left_out: int, energy: float) -> Cut:
    """The cut that leaves out the first directions, those of least energy, of all; vectors have shape (side, side)."""
    k = vectors.shape[-1] - left_out
    kept = k < left_out
    return Cut(k, energy, vectors[:, left_out:] if kept else vectors[:, :left_out], kept)


def _gaps(squares: Tensor, left_out: Tensor) -> Tensor:
    """Distance between the largest square left out and the smallest kept; infinite where none is kept.

    Left-out and kept directions mix by rounding over this gap, and what is mixed in compares with the residual's norm.
    """
    bounded = torch.nn.functional.pad(squares, (0, 1), value=torch.inf)
    smallest_kept = bounded.gather(-1, left_out[:, None])
    largest_left_out = bounded.gather(-1, left_out[:, None] - 1)
    return (smallest_kept - largest_left_out).squeeze(-1)
