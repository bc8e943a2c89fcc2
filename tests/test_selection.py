"""Exact selection over many tensors, against a full sort."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsewright.selection import kth_largest, top_k

# Above this number of scores in total the threshold is bracketed from a sample.
LARGE = 131072

bounded = settings(max_examples=150, deadline=None, derandomize=True, database=None)
shapes = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6)
# Few distinct values make ties the rule; -inf marks what must go last, and it may be most of a tensor.
values = st.sampled_from([-math.inf, -2.5, -0.0, 0.0, 1e-40, 0.5, 1.0, 3e38, math.inf]) | st.floats(
    width=32, allow_nan=False
)


def reference_order(scores: list[Tensor]) -> tuple[Tensor, Tensor]:
    """All scores sorted from the largest, equal ones in order of position, and where each one was."""
    flat = torch.cat([score.reshape(-1) for score in scores])
    return flat.sort(descending=True, stable=True)


def reference_top_k(scores: list[Tensor], k: int) -> list[Tensor]:
    _, order = reference_order(scores)
    chosen = torch.zeros(order.numel(), dtype=torch.bool)
    chosen[order[:k]] = True
    sizes = [score.numel() for score in scores]
    return [part.reshape(score.shape) for part, score in zip(chosen.split(sizes), scores, strict=True)]


def assert_selects(scores: list[Tensor], k: int) -> None:
    copies = [score.clone() for score in scores]
    masks = top_k(scores, k)
    assert [mask.dtype for mask in masks] == [torch.bool] * len(scores)
    assert [mask.shape for mask in masks] == [score.shape for score in scores]
    assert sum(int(mask.sum()) for mask in masks) == k
    for mask, expected in zip(masks, reference_top_k(scores, k), strict=True):
        assert torch.equal(mask, expected)
    if k:
        assert kth_largest(scores, k) == reference_order(scores)[0][k - 1]
    assert all(torch.equal(score, copy) for score, copy in zip(scores, copies, strict=True)), "scores were changed"


@bounded
@given(st.data(), shapes)
def test_top_k_equals_a_full_sort(data: st.DataObject, sizes: list[tuple[int, ...]]) -> None:
    scores = []
    for size in sizes:
        count = math.prod(size)
        drawn = data.draw(st.lists(values, min_size=count, max_size=count))
        scores.append(torch.tensor(drawn, dtype=torch.float32).reshape(size))
    total = sum(score.numel() for score in scores)
    assert_selects(scores, data.draw(st.integers(0, total)))


def large_scores(kind: str, generator: torch.Generator) -> list[Tensor]:
    """Several tensors of unequal size whose distribution is hard in one way; more than LARGE scores in total."""
    sizes = [(7,), (251, 211), (1, 1), (97, 3, 5, 7), (300, 301), (64, 512)]
    scores = [torch.rand(size, generator=generator) for size in sizes]
    if kind == "heavy tails":
        return [score.pow(-3) for score in scores]
    if kind == "ties":
        return [(score * 7).floor() for score in scores]
    if kind == "all equal":
        return [torch.full_like(score, 0.25) for score in scores]
    if kind == "mostly -inf":
        return [torch.where(score < 0.97, -torch.inf, score) for score in scores]
    if kind == "-inf and ties":
        return [torch.where(score < 0.5, -torch.inf, (score * 4).floor()) for score in scores]
    if kind == "zeros":
        return [torch.where(score < 0.9, 0.0, score) for score in scores]
    if kind == "one large tensor rules":
        return [score * (10.0 ** (3 * index)) for index, score in enumerate(scores)]
    if kind == "sorted":
        return [score.flatten().sort().values.reshape(score.shape) for score in scores]
    if kind == "periodic":
        # The large values sit where no regular sample finds them.
        return [torch.where(torch.arange(s.numel()).reshape(s.shape) % 4 == 1, s + 5, s) for s in scores]
    if kind == "a few spikes":
        for score in scores[-2:]:
            score.view(-1)[1:40] += 100
    return scores


KINDS = [
    "uniform",
    "heavy tails",
    "ties",
    "all equal",
    "mostly -inf",
    "-inf and ties",
    "zeros",
    "one large tensor rules",
    "sorted",
    "periodic",
    "a few spikes",
]


@pytest.mark.parametrize("kind", KINDS)
def test_large_selections_equal_a_full_sort(kind: str) -> None:
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    scores = large_scores(kind, generator)
    total = sum(score.numel() for score in scores)
    assert total > LARGE
    anywhere = torch.randint(1, total, (4,), generator=generator).tolist()
    for k in [0, 1, 2, 39, total // 1000, total // 10, total // 2, total - total // 100, total - 1, total, *anywhere]:
        assert_selects(scores, k)


def test_strided_and_low_precision_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = torch.rand(401, 402, generator=generator)
    images = torch.rand(8, 5, 3, 3, generator=generator).to(memory_format=torch.channels_last)
    for scores in ([wide.t(), images], [wide[::2, 1:], images.permute(3, 1, 0, 2)], [wide.t()]):
        for k in (1, 1000, scores[0].numel() - 3):
            assert_selects(scores, k)
    rounded = [wide.to(torch.bfloat16).float(), images.to(torch.bfloat16).float()]
    assert_selects(rounded, 12345)


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 2**31), st.integers(1, 2000), st.floats(0, 1))
def test_large_selections_with_any_number_of_levels(seed: int, levels: int, fraction: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.randint(0, levels, (size,), generator=generator).float() for size in (90001, 5, 50000)]
    assert_selects(scores, round(fraction * 140006))


@pytest.mark.parametrize("k", [-1, 0, 8])
def test_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="k"):
        kth_largest([torch.zeros(3), torch.zeros(2, 2)], k)
    if k:
        with pytest.raises(ValueError, match="k"):
            top_k([torch.zeros(3), torch.zeros(2, 2)], k)
