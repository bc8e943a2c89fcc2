"""How much of its full rank a weight has: rank at a tolerance, energy rank, stable rank and effective rank.

Every function reads a weight as a matrix, ``weight.flatten(1)``: filters x rest, as RPG (arXiv 2311.17493) does. A
transposed convolution has its input channels first, so they are the rows. With groups the filters of all groups stand
below one another; the rank is that of this matrix, not of the block-diagonal one that the layer applies.

All figures come from the singular values, which are computed in double precision on the weight's device (on the CPU for
a device that has none, such as MPS). None of them depends on the scale of the weight, and an all-zero weight has 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

from sparsewright.analysis.naming import layer_weights
from sparsewright.checks import check_number
from sparsewright.low_rank import DecompositionError, check_matrix

# Relative to the sum of squares: what rounding alone may take from a share of it.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Ranks:
    """The ranks of one weight, or averages or ratios of them.

    Attributes:
        numerical: singular values above the tolerance, as :func:`numerical_rank` counts them.
        energy_90, energy_95, energy_99: largest singular values that hold this percentage of the squared Frobenius
            norm, as :func:`energy_rank` counts them.
        stable: squared Frobenius norm over squared largest singular value.
        effective: exponential of the entropy of the singular values.
    """

    numerical: float
    energy_90: float
    energy_95: float
    energy_99: float
    stable: float
    effective: float


@dataclass(frozen=True)
class RankRow:
    """The ranks of one weight of a network.

    Attributes:
        name: parameter name in the unwrapped model.
        shape: shape of the weight.
        full_rank: the smaller side of the matrix, which no rank exceeds.
        sparsity: fraction of exact zeros, in [0, 1].
        ranks: of the weight.
        ratios: the ranks over ``full_rank``, each in [0, 1].
    """

    name: str
    shape: tuple[int, ...]
    full_rank: int
    sparsity: float
    ranks: Ranks
    ratios: Ranks


@dataclass(frozen=True)
class RankAverages:
    """Means over the layers of a network, every layer counting the same.

    Attributes:
        layers: how many there are.
        full_rank: mean of the full ranks.
        ranks: means of the ranks.
        ratios: means of the ratios, which large layers do not dominate.
    """

    layers: int
    full_rank: float
    ranks: Ranks
    ratios: Ranks


def singular_values(weight: Tensor, name: str = "weight") -> Tensor:
    """The singular values of a weight, largest first.

    Args:
        weight: floating point, 2 or more dimensions.
        name: what errors call it.

    Returns:
        float64 on the CPU, shape (min(rows, columns),), without autograd.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: fewer than 2 dimensions, no entries, or entries that are not finite.
        DecompositionError: the decomposition did not converge, or there was no memory for it.
    """
    return _spectrum(weight, name, torch.linalg.svdvals)


def numerical_rank(weight: Tensor, tolerance: float | None = None) -> int:
    """The number of singular values above a tolerance.

    Args:
        weight: floating point, 2 or more dimensions.
        tolerance: relative to the largest singular value, in [0, 1]; None for that of ``torch.linalg.matrix_rank``,
            the larger side of the matrix times the machine epsilon: of float64 for such a weight, else of float32.

    Raises:
        TypeError, ValueError, DecompositionError: an unusable weight, as in :func:`singular_values`; or a
            tolerance that is no number in [0, 1].
    """
    return _numerical_rank(singular_values(weight), _checked_tolerance(weight, tolerance))


def energy_rank(weight: Tensor, energy: float) -> int:
    """The smallest k such that the k largest squared singular values hold a share of the sum of all.

    Args:
        weight: floating point, 2 or more dimensions.
        energy: the share, in [0, 1]; a shortfall of 1e-12 counts as rounding.

    Raises:
        TypeError, ValueError, DecompositionError: an unusable weight, as in :func:`singular_values`; or an
            energy that is no number in [0, 1].
    """
    return _energy_rank(singular_values(weight), check_number(energy, "energy", highest=1.0))


def stable_rank(weight: Tensor) -> float:
    """Squared Frobenius norm over squared largest singular value (Rudelson and Vershynin 2007).

    At most the rank, and hardly moved by small singular values. The weight is floating point with 2 or more dimensions.

    Raises:
        TypeError, ValueError, DecompositionError: an unusable weight, as in :func:`singular_values`.
    """
    return _stable_rank(singular_values(weight))


def effective_rank(weight: Tensor) -> float:
    """Exponential of the Shannon entropy of the singular values over their sum (Roy and Vetterli 2007).

    Between 1 and the rank, which it reaches where all singular values that are not zero are equal. The weight is
    floating point with 2 or more dimensions.

    Raises:
        TypeError, ValueError, DecompositionError: an unusable weight, as in :func:`singular_values`.
    """
    return _effective_rank(singular_values(weight))


def rank_rows(weights: Mapping[str, Tensor], tolerance: float | None = None) -> list[RankRow]:
    """One row per weight, in their order.

    Of types other than float64, unless the tolerance is below the default one, the singular values come from the Gram
    matrix, which is several times cheaper: relative to the largest they are exact to about 1.5e-8 times the root of the
    matrix's larger side, an eighth of the default tolerance or less.

    Args:
        weights: name -> floating-point tensor of 2 or more dimensions.
        tolerance: of the numerical rank, as in :func:`numerical_rank`.

    Raises:
        TypeError, ValueError, DecompositionError: a tolerance or a weight that is not usable, as in
            :func:`numerical_rank`; the weight is named.
    """
    return [_rank_row(name, weight, tolerance) for name, weight in weights.items()]


def rank_table(model: nn.Module, tolerance: float | None = None) -> list[RankRow]:
    """One row per weight of a Linear layer or convolution, in the model's order; a shared weight has one row.

    These are the weights that sparsifiers take by default, but frozen ones are measured too.

    Args:
        model: any module; names are those of the model inside DDP, torch.compile and Fabric wrappers.
        tolerance: of the numerical rank, as in :func:`numerical_rank`.

    Raises:
        TypeError, ValueError, DecompositionError: as in :func:`rank_rows`.
    """
    weights = {
        name: weight
        for name, layer, _, weight in layer_weights(model)
        if not isinstance(layer, nn.MultiheadAttention) and weight.numel()
    }
    return rank_rows(weights, tolerance)


def rank_averages(rows: Sequence[RankRow]) -> RankAverages:
    """The means over some rows.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("no ranks to average: there is no weight of a Linear layer or convolution")
    return RankAverages(
        layers=len(rows),
        full_rank=fmean(row.full_rank for row in rows),
        ranks=_mean([row.ranks for row in rows]),
        ratios=_mean([row.ratios for row in rows]),
    )


def _spectrum(weight: Tensor, name: str, decompose: Callable[[Tensor], Tensor]) -> Tensor:
    check_matrix(weight, name)
    matrix = weight.detach().flatten(1)
    precise = (matrix.cpu() if matrix.device.type == "mps" else matrix).double()
    if not bool(precise.isfinite().all()):
        raise ValueError(f"{name} has entries that are not finite, so it has no rank")
    try:
        return decompose(precise).cpu()
    except RuntimeError as error:
        raise DecompositionError(f"the singular values of {name} could not be computed: {error}") from error


def _by_gram(matrix: Tensor) -> Tensor:
    """Singular values, largest first, as roots of the eigenvalues of the Gram matrix of the smaller side."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    return torch.linalg.eigvalsh(wide @ wide.mT).clamp_min(0).sqrt().flip(0)


def _rank_row(name: str, weight: Tensor, tolerance: float | None) -> RankRow:
    check_matrix(weight, name)
    threshold = _checked_tolerance(weight, tolerance)
    # Squares of float64 could also overflow.
    coarse = weight.dtype != torch.float64 and threshold >= _rounding(weight, torch.float32)
    values = _spectrum(weight, name, _by_gram if coarse else torch.linalg.svdvals)
    ranks = Ranks(
        numerical=_numerical_rank(values, threshold),
        energy_90=_energy_rank(values, 0.90),
        energy_95=_energy_rank(values, 0.95),
        energy_99=_energy_rank(values, 0.99),
        stable=_stable_rank(values),
        effective=_effective_rank(values),
    )
    return RankRow(
        name=name,
        shape=tuple(weight.shape),
        full_rank=len(values),
        sparsity=1 - int(torch.count_nonzero(weight)) / weight.numel(),
        ranks=ranks,
        ratios=Ranks(*(rank / len(values) for rank in astuple(ranks))),
    )


def _checked_tolerance(weight: Tensor, tolerance: float | None) -> float:
    if tolerance is not None:
        return check_number(tolerance, "tolerance", highest=1.0)
    # Narrower types are computed with in float32, and for their own epsilon large matrices would have no rank.
    return _rounding(weight, torch.float64 if weight.dtype == torch.float64 else torch.float32)


def _rounding(weight: Tensor, precision: torch.dtype) -> float:
    """The default tolerance: the larger side of the matrix times the machine epsilon."""
    return torch.finfo(precision).eps * max(len(weight), weight.numel() // len(weight))


def _numerical_rank(values: Tensor, tolerance: float) -> int:
    return int((values > tolerance * values[0]).sum())


def _energy_rank(values: Tensor, energy: float) -> int:
    held = nn.functional.pad(_relative(values).square().cumsum(0), (1, 0))
    return int((held < (energy - _ROUNDING) * held[-1]).sum())


def _stable_rank(values: Tensor) -> float:
    return float(_relative(values).square().sum())


def _effective_rank(values: Tensor) -> float:
    if values[0] == 0:
        return 0.0
    relative = _relative(values)
    return float(torch.special.entr(relative / relative.sum()).sum().exp())


def _relative(values: Tensor) -> Tensor:
    """Singular values over the largest, whose squares neither overflow nor vanish; zeros stay zeros."""
    return values / values[0] if values[0] > 0 else values


def _mean(several: Sequence[Ranks]) -> Ranks:
    return Ranks(*(fmean(values) for values in zip(*(astuple(ranks) for ranks in several), strict=True)))
