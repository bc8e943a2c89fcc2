"""The rank loss: against the full SVD and autograd over many matrices, where it must fall back, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import sparsewright as sw
from sparsewright import low_rank
from sparsewright.low_rank import DecompositionError, rank_losses

ENERGIES = st.sampled_from([0.0, 0.01, 0.1, 0.2, 0.37, 0.5, 0.9, 1.0])


def by_svd(weight: Tensor, energy: float) -> tuple[float, int, Tensor]:
    """Loss, k and gradient with autograd through the normalisation, by the full SVD in double precision."""
    matrix = weight.detach().double().flatten(1).requires_grad_()
    normalised = matrix / matrix.norm()
    left, values, right = torch.linalg.svd(normalised.detach(), full_matrices=False)
    tails = values.flip(0).square().cumsum(0)
    distances = ((tails / tails[-1]) - energy).abs()
    # Of those that tie but for rounding, the first.
    left_out = int((distances <= distances.min() + 1e-12).int().argmax()) + 1
    k = len(values) - left_out
    approximation = left[:, :k] * values[:k] @ right[:k]
    loss = -(normalised - approximation).square().sum()
    loss.backward()
    assert matrix.grad is not None
    return loss.item(), k, matrix.grad.reshape(weight.shape)


def random_weight(shape: tuple[int, ...], sparsity: float, scale: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator)
    return weight * (torch.rand(shape, generator=generator) >= sparsity) * scale


@settings(deadline=None, max_examples=150)
@given(
    filters=st.integers(1, 24),
    rest=st.sampled_from([(1,), (7,), (24,), (5, 3, 3), (3, 1, 1), (2, 5), (40,)]),
    sparsity=st.sampled_from([0.0, 0.5, 0.9, 0.98]),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
    energy=ENERGIES,
    seed=st.integers(0, 1000),
)
@example(filters=1, rest=(1,), sparsity=0.0, scale=1.0, energy=0.2, seed=0)
@example(filters=2, rest=(5, 3, 3), sparsity=0.98, scale=1e4, energy=0.5, seed=2)
def test_agrees_with_the_full_svd(
    filters: int, rest: tuple[int, ...], sparsity: float, scale: float, energy: float, seed: int
) -> None:
    weight = random_weight((filters, *rest), sparsity, scale, seed).requires_grad_()
    loss, k = sw.rank_loss(weight, energy)
    if not weight.any():
        assert (loss.item(), k) == (0.0, 0)
        return
    expected, _, gradient = by_svd(weight, energy)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    assert weight.grad is not None
    # The gradient of a normalised weight is of the order of 1 / norm.
    error = (weight.grad - gradient).norm() * weight.detach().norm()
    assert error <= 1e-4 * max(math.sqrt(-expected), 1e-3)


@settings(deadline=None, max_examples=60)
@given(filters=st.integers(2, 20), rest=st.integers(2, 20), energy=ENERGIES, seed=st.integers(0, 1000))
def test_k_is_the_rank_whose_residual_energy_is_nearest(filters: int, rest: int, energy: float, seed: int) -> None:
    weight = random_weight((filters, rest), 0.3, 1.0, seed)
    _, k = sw.rank_loss(weight, energy)
    if not weight.any():
        return
    squares = torch.linalg.svdvals(weight.double()).square()
    residual = [float(squares[kept:].sum() / squares.sum()) for kept in range(len(squares))]
    nearest = min(abs(value - energy) for value in residual)
    assert abs(residual[k] - energy) == pytest.approx(nearest, abs=1e-12)


@pytest.mark.parametrize("shape", [(6, 4, 3, 3), (12, 5), (5, 12)])
def test_gradient_is_that_of_the_loss(shape: tuple[int, ...]) -> None:
    """The approximation is optimal, so that holding it constant gives the true gradient."""
    weight = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda w: sw.rank_loss(w, 0.2)[0], (weight,))


def test_gradient_lowers_the_loss_and_does_not_change_the_norm() -> None:
    weight = torch.randn(10, 30, dtype=torch.float64, requires_grad=True)
    loss, k = sw.rank_loss(weight, 0.2)
    loss.backward()
    assert weight.grad is not None
    assert float((weight.grad * weight.detach()).sum()) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        moved = weight - 1e-3 * weight.grad
    after, moved_k = sw.rank_loss(moved, 0.2)
    assert moved_k == k
    assert after < loss


def test_many_at_once_are_as_one_by_one() -> None:
    """Batches of equal shape, other shapes between them, an all-zero weight, and one that is not finite."""
    weights = {f"a{index}": torch.randn(6, 4, 3, 3) for index in range(5)}
    weights |= {"b": torch.randn(9, 6), "zero": torch.zeros(6, 4, 3, 3), "bad": torch.full((6, 4, 3, 3), torch.nan)}
    weights |= {"double": torch.randn(6, 4, 3, 3, dtype=torch.float64), "half": torch.randn(9, 6).bfloat16()}
    together = dict(rank_losses(weights, 0.2))
    assert set(together) == set(weights) - {"bad"}
    for name, result in together.items():
        ((_, alone),) = rank_losses({name: weights[name]}, 0.2)
        assert (result.loss, result.k) == (pytest.approx(alone.loss, rel=1e-12), alone.k)
        assert torch.allclose(result.gradient, alone.gradient, rtol=1e-5, atol=1e-7)
        assert result.gradient.shape == weights[name].shape
    assert together["double"].gradient.dtype == torch.float64
    assert together["half"].gradient.dtype == torch.float32


def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(low_rank, "_BATCH", 50)
    sizes = []
    decompose = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda gram: sizes.append(len(gram)) or decompose(gram))
    found = dict(rank_losses({f"{index}": torch.randn(4, 6) for index in range(5)}, 0.2))
    assert sizes == [2, 2, 1]
    assert len(found) == 5


def counted_svd(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = []
    decompose = torch.linalg.svd

    def count(matrix: Tensor, **options: Any) -> Any:
        shapes.append(tuple(matrix.shape))
        return decompose(matrix, **options)

    monkeypatch.setattr(torch.linalg, "svd", count)
    return shapes


def test_an_ordinary_weight_needs_no_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = counted_svd(monkeypatch)
    for seed in range(20):
        sw.rank_loss(random_weight((32, 16, 3, 3), 0.9, 1.0, seed), 0.2)
    assert shapes == []


@pytest.mark.parametrize("gap", [0.0, 1e-14, 1e-12])
def test_a_cut_between_equal_singular_values_falls_back_to_the_svd(monkeypatch: pytest.MonkeyPatch, gap: float) -> None:
    """The residual is not unique there, but its energy is."""
    left = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0][:, :6]
    values = torch.tensor([1.0, 1.0, 1.0, 1.0 - gap, 1.0, 1.0], dtype=torch.float64)
    weight = (left * values) @ right.T
    shapes = counted_svd(monkeypatch)
    loss, k = sw.rank_loss(weight, 0.34)
    assert shapes == [(6, 8)]
    assert k == 4
    assert loss.item() == pytest.approx(-1 / 3, abs=1e-12)


def test_a_residual_too_small_for_the_gram_matrix_falls_back_to_the_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    left = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0][:, :6]
    values = torch.tensor([1.0, 1.0, 1e-7, 1e-7, 1e-7, 1e-7], dtype=torch.float64)
    weight = ((left * values) @ right.T).requires_grad_()
    shapes = counted_svd(monkeypatch)
    loss, k = sw.rank_loss(weight, 0.0)
    loss.backward()
    assert shapes
    assert k == 5
    assert loss.item() == pytest.approx(-0.5e-14, rel=1e-6)


def test_when_the_eigen_decomposition_fails_the_svd_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {name: torch.randn(5, 7) for name in "abc"}
    expected = dict(rank_losses(weights, 0.2))

    def fail(*_: Any) -> Any:
        raise torch.linalg.LinAlgError("no convergence")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    found = dict(rank_losses(weights, 0.2))
    for name in weights:
        assert found[name].k == expected[name].k
        assert torch.allclose(found[name].gradient, expected[name].gradient, atol=1e-6)


def test_no_convergence_at_all_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise torch.linalg.LinAlgError("no convergence")

    monkeypatch.setattr(torch.linalg, "eigh", fail)
    monkeypatch.setattr(torch.linalg, "svd", fail)
    with pytest.raises(DecompositionError, match="did not converge"):
        sw.rank_loss(torch.randn(3, 4), 0.2)


@pytest.mark.parametrize("energy", [0.1, 0.5])
def test_a_tie_leaves_out_as_little_as_possible(energy: float) -> None:
    """Of a matrix of rank 1 either nothing or everything is left out; half way between, nothing is."""
    for seed in range(20):
        column, row = random_weight((6, 1), 0.0, 1.0, seed), random_weight((1, 9), 0.0, 1.0, seed + 50)
        loss, k = sw.rank_loss(column.double() @ row.double(), energy)
        assert k == 5
        assert loss.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_coarsen_it(dtype: torch.dtype) -> None:
    weight = torch.randn(16, 8, 3, 3, requires_grad=True)
    _, _, expected = by_svd(weight, 0.2)
    with torch.autocast("cpu", dtype=dtype):
        loss, _ = sw.rank_loss(weight, 0.2)
        (found,) = dict(rank_losses({"weight": weight}, 0.2)).values()
    loss.backward()
    assert weight.grad is not None
    for gradient in (weight.grad, found.gradient):
        assert (gradient - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("scale", [1e-160, 1e-170, 1e160, 1e300])
def test_extreme_scales(scale: float) -> None:
    weight = torch.randn(5, 7, dtype=torch.float64)
    loss, k = sw.rank_loss(weight, 0.2)
    scaled, scaled_k = sw.rank_loss(weight * scale, 0.2)
    assert (scaled.item(), scaled_k) == (pytest.approx(loss.item(), rel=1e-9), k)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(2, 12),
    columns=st.sampled_from([12, 300, 20_000]),
    gap=st.sampled_from([1e-12, 1e-10, 1e-8, 1e-5]),
    seed=st.integers(0, 100),
)
def test_close_singular_values_keep_the_gradient_exact(rows: int, columns: int, gap: float, seed: int) -> None:
    """Around a narrow gap, the gradient is within 1e-5 of that of the SVD wherever the Gram matrix was good enough."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(rows, rows, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(columns, rows, generator=generator, dtype=torch.float64))[0]
    values = torch.ones(rows, dtype=torch.float64)
    values[: rows // 2] += gap
    weight = (left * values) @ right.T
    energy = (rows - rows // 2) / rows
    with pytest.MonkeyPatch.context() as patch:
        shapes = counted_svd(patch)
        ((_, found),) = rank_losses({"weight": weight}, energy)
    if not shapes:
        _, k, expected = by_svd(weight, energy)
        assert found.k == k
        assert (found.gradient - expected).norm() <= 1e-5 * expected.norm() + 1e-12


def test_all_zero_weight_has_no_gradient() -> None:
    weight = torch.zeros(4, 5, requires_grad=True)
    loss, k = sw.rank_loss(weight, 0.2)
    (loss * 3).backward()
    assert weight.grad is not None
    assert (loss.item(), k) == (0.0, 0)
    assert not weight.grad.any()


def test_the_loss_adds_to_another_and_keeps_the_weights_dtype() -> None:
    weight = torch.randn(4, 6, dtype=torch.bfloat16, requires_grad=True)
    loss, _ = sw.rank_loss(weight, 0.2)
    (weight.float().square().sum() + 2 * loss).backward()
    assert loss.dtype == torch.float32
    assert weight.grad is not None
    assert weight.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("weight", "energy", "error", "words"),
    [
        (torch.zeros(4), 0.2, ValueError, "2 or more dimensions"),
        (torch.zeros(0, 4), 0.2, ValueError, "some entries"),
        (torch.zeros(4, 4, dtype=torch.int64), 0.2, TypeError, "floating-point"),
        ([[1.0]], 0.2, TypeError, "floating-point"),
        (torch.full((2, 2), torch.inf), 0.2, ValueError, "not finite"),
        (torch.ones(2, 2), 1.5, ValueError, "residual_energy"),
        (torch.ones(2, 2), -0.1, ValueError, "residual_energy"),
        (torch.ones(2, 2), float("nan"), ValueError, "residual_energy"),
        (torch.ones(2, 2), "0.2", TypeError, "residual_energy"),
    ],
)
def test_bad_arguments(weight: Any, energy: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        sw.rank_loss(weight, energy)
