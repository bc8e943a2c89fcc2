"""Exact selection over many tensors, against a full sort."""

from __future__ import annotations

import contextlib
import itertools
import math
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any
from unittest import mock

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sparsewright import selection
from sparsewright.selection import Elementwise, count_above, kth_largest, top_k
from sparsewright.topology import among

# Up to this number of scores in total they are computed once and held; more are read piece by piece, several times.
LARGE = 1 << 19

bounded = settings(max_examples=150, deadline=None, derandomize=True, database=None)
shapes = st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple), min_size=1, max_size=6)
# Few distinct values make ties the rule; -inf marks what must go last, and it may be most of a tensor.
values = st.sampled_from([-math.inf, -2.5, -0.0, 0.0, 1e-40, 0.5, 1.0, 3e38, math.inf]) | st.floats(
    width=32, allow_nan=False
)


def product(weight: Tensor, gradient: Tensor) -> Tensor:
    return (weight.float() * gradient.float()).abs_()


def dropped(score: Tensor, mask: Tensor) -> Tensor:
    return score.masked_fill(~mask, -torch.inf)


def whole(score: Tensor | Elementwise) -> Tensor:
    """All scores at once, in their shape."""
    return score.rule(*score.tensors) if isinstance(score, Elementwise) else score


def reference_order(scores: Sequence[Tensor | Elementwise]) -> tuple[Tensor, Tensor]:
    """All scores sorted from the largest, equal ones in order of position, and where each one was."""
    flat = torch.cat([whole(score).reshape(-1) for score in scores])
    return flat.sort(descending=True, stable=True)


def first_of(order: Tensor, k: int, scores: Sequence[Tensor | Elementwise]) -> list[Tensor]:
    """Masks of the first k scores in an order."""
    chosen = torch.zeros(order.numel(), dtype=torch.bool)
    chosen[order[:k]] = True
    parts = chosen.split([score.numel() for score in scores])
    return [part.reshape(whole(score).shape) for part, score in zip(parts, scores, strict=True)]


def assert_selects(scores: Sequence[Tensor | Elementwise], *numbers: int) -> None:
    """``top_k`` and ``kth_largest`` agree with a full sort for each number k, and leave the scores as they are."""
    copies = [whole(score).clone() for score in scores]
    ordered, order = reference_order(scores)
    for k in numbers:
        masks = top_k(scores, k)
        for mask, expected in zip(masks, first_of(order, k, scores), strict=True):
            assert mask.dtype == torch.bool
            assert torch.equal(mask, expected), k
        if k:
            threshold = kth_largest(scores, k)
            assert threshold.shape == ()
            assert threshold.dtype == ordered.dtype
            assert threshold == ordered[k - 1]
    after = [whole(score) for score in scores]
    assert all(torch.equal(score, copy) for score, copy in zip(after, copies, strict=True)), "scores were changed"


# Sizes inside the module that make a few scores take the paths that else take millions: scores in a piece, steps of the
# samples, and a bracket so narrow that it often misses. None leaves all as it is.
internals = st.sampled_from([None, (1, 1, 3.0), (2, 3, 0.1), (8, 2, 0.1), (16, 7, 3.0), (64, 1, 0.1), (64, 5, 0.1)])


@contextlib.contextmanager
def working_with(sizes: tuple[int, int, float] | None) -> Iterator[None]:
    if sizes is None:
        yield
        return
    piece, stride, deviations = sizes
    strides = (stride, stride + 1)
    with mock.patch.multiple(selection, _PIECE=piece, _STRIDES=strides, _SHORT_STRIDES=strides, _DEVIATIONS=deviations):
        yield


@bounded
@given(st.data(), shapes, internals, st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]))
def test_top_k_equals_a_full_sort(
    data: st.DataObject, sizes: list[tuple[int, ...]], sizes_inside: tuple[int, int, float] | None, dtype: torch.dtype
) -> None:
    scores = []
    for size in sizes:
        count = math.prod(size)
        drawn = data.draw(st.lists(values, min_size=count, max_size=count))
        scores.append(torch.tensor(drawn, dtype=torch.float32).to(dtype).reshape(size))
    total = sum(score.numel() for score in scores)
    with working_with(sizes_inside):
        assert_selects(scores, data.draw(st.integers(0, total)))


@pytest.mark.parametrize("piece", [4, 64])
def test_every_arrangement_of_five_scores(piece: int) -> None:
    arrangements = [*itertools.permutations(range(5)), *itertools.product([0, 1, math.inf], repeat=5)]
    with working_with((piece, 2, 0.1)):
        for arrangement in arrangements:
            scores = torch.tensor(arrangement, dtype=torch.float32)
            found = [kth_largest(list(scores.split(3)), k).item() for k in range(1, 6)]
            assert found == sorted(arrangement, reverse=True)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda tensor: tensor,
    "channels last": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "transposed": lambda tensor: tensor.transpose(0, 3).contiguous().transpose(0, 3),
    "permuted": lambda tensor: tensor.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2),
    "every other entry": lambda tensor: torch.stack([tensor, ~tensor if tensor.dtype == torch.bool else -tensor], -1)[
        ..., 0
    ],
    "a slice": lambda tensor: torch.nn.functional.pad(tensor, (1, 2, 3, 4))[:, :, 3:-4, 1:-2],
    "one value": lambda tensor: tensor[:1, :1, :1, :1].expand(tensor.shape),
}
layouts = st.sampled_from(sorted(LAYOUTS))


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.tuples(st.tuples(*[st.integers(1, 6)] * 4), layouts, layouts), min_size=1, max_size=4),
    st.sampled_from([product, dropped]),
    st.sampled_from([torch.float32, torch.bfloat16]),
    internals,
    st.integers(0, 2**31),
    st.floats(0, 1),
)
def test_elementwise_scores_of_two_tensors_in_any_memory_layouts(
    tensors: list[tuple[tuple[int, int, int, int], str, str]],
    rule: Callable[..., Tensor],
    dtype: torch.dtype,
    sizes_inside: tuple[int, int, float] | None,
    seed: int,
    fraction: float,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = []
    for shape, first, second in tensors:
        # A coarse grid of values, so that products tie.
        one, other = (torch.randn((2, *shape), generator=generator) * 2).round().to(dtype)
        other = other > 0 if rule is dropped else other
        scores.append(Elementwise(rule, LAYOUTS[first](one), LAYOUTS[second](other)))
    with working_with(sizes_inside):
        assert_selects(scores, round(fraction * sum(score.numel() for score in scores)))


def large_scores(kind: str, generator: torch.Generator) -> list[Tensor]:
    """Several tensors of unequal size whose distribution is hard in one way; more than LARGE scores in total."""
    sizes = [(7,), (251, 211), (1, 1), (97, 3, 5, 7), (700, 701), (64, 512)]
    scores = [torch.rand(size, generator=generator) for size in sizes]
    position = [torch.arange(score.numel()).reshape(score.shape) for score in scores]
    if kind == "heavy tails":
        return [score.pow(-3) for score in scores]
    if kind == "ties":
        return [(score * 7).floor() for score in scores]
    if kind == "all equal":
        return [torch.full_like(score, 0.25) for score in scores]
    if kind == "mostly -inf":
        return [torch.where(score < 0.97, -torch.inf, score) for score in scores]
    if kind == "mostly inf":
        return [torch.where(score < 0.97, torch.inf, score) for score in scores]
    if kind == "-inf and ties":
        return [torch.where(score < 0.5, -torch.inf, (score * 4).floor()) for score in scores]
    if kind == "only infinities":
        return [torch.where(score < 0.5, -torch.inf, torch.inf) for score in scores]
    if kind == "zeros":
        return [torch.where(score < 0.9, 0.0, score) for score in scores]
    if kind == "one large tensor rules":
        return [score * (10.0 ** (3 * index)) for index, score in enumerate(scores)]
    if kind == "sorted":
        return [score.flatten().sort().values.reshape(score.shape) for score in scores]
    if kind == "sorted downwards":
        joined = torch.cat([score.flatten() for score in scores]).sort(descending=True).values
        parts = joined.split([score.numel() for score in scores])
        return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]
    if kind == "periodic":
        # The large values sit where no regular sample finds them.
        return [torch.where(index % 4 == 1, score + 5, score) for index, score in zip(position, scores, strict=True)]
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
    "mostly inf",
    "-inf and ties",
    "only infinities",
    "zeros",
    "one large tensor rules",
    "sorted",
    "sorted downwards",
    "periodic",
    "a few spikes",
]


@pytest.mark.parametrize("kind", KINDS)
def test_large_selections_equal_a_full_sort(kind: str) -> None:
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    scores = large_scores(kind, generator)
    total = sum(score.numel() for score in scores)
    assert total > LARGE
    anywhere = torch.randint(1, total, (3,), generator=generator).tolist()
    numbers = [0, 1, 39, total // 1000, total // 10, total // 2, total - total // 100, total - 1, total, *anywhere]
    assert_selects(scores, *numbers)


@pytest.mark.parametrize("shift", [-100.0, 100.0])
@pytest.mark.parametrize("number", [300_007, 600_011])
def test_a_sample_that_sees_the_wrong_scores_is_found_out(
    shift: float, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    narrow = selection._narrow
    monkeypatch.setattr(selection, "_narrow", lambda *given: passes.append(1) or narrow(*given))
    stride = (selection._SHORT_STRIDES if number <= LARGE else selection._STRIDES)[0]
    scores = torch.rand(number, generator=torch.Generator().manual_seed(0))
    scores[::stride] += shift
    assert_selects([scores], number // 10)
    assert len(passes) > 2, "the first bracket did not miss"
    assert_selects([scores], 1, 5, number // 2, number - 3)


def test_strided_and_low_precision_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    wide = torch.rand(801, 802, generator=generator)
    images = torch.rand(8, 5, 3, 3, generator=generator).to(memory_format=torch.channels_last)
    for scores in ([wide.t(), images], [wide[::2, 1:], images.permute(3, 1, 0, 2)], [wide.t()]):
        assert_selects(scores, 1, 1000, scores[0].numel() - 3)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert_selects([wide.to(dtype), images.to(dtype)], 12345)


@settings(max_examples=10, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 2**31), st.integers(1, 2000), st.floats(0, 1), st.sampled_from([90_001, 600_001]))
def test_large_selections_with_any_number_of_levels(seed: int, levels: int, fraction: float, largest: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.randint(0, levels, (size,), generator=generator).float() for size in (largest, 5, 50000)]
    assert_selects(scores, round(fraction * (largest + 50005)))


@pytest.mark.parametrize("number", [1, 3, 17, 20])
def test_ties_go_by_position_whatever_the_memory_layout(number: int) -> None:
    images = torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last)
    first, second = top_k([images, Elementwise(torch.abs, torch.zeros(5, 4).t())], number)
    expected = torch.arange(44) < number
    assert torch.equal(first.contiguous().flatten(), expected[:24])
    assert torch.equal(second.contiguous().flatten(), expected[24:])


def test_masks_have_the_memory_layout_of_the_first_tensor() -> None:
    images = torch.rand(4, 3, 5, 5)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    for first, second in ((images, channels_last), (channels_last, images)):
        for k in (0, 20):
            (mask,) = top_k([Elementwise(product, first, second)], k)
            assert mask.stride() == first.stride()


def test_scores_are_read_about_once_and_in_small_pieces() -> None:
    read: list[int] = []

    def counted(weight: Tensor, gradient: Tensor) -> Tensor:
        read.append(weight.numel())
        return product(weight, gradient)

    generator = torch.Generator().manual_seed(0)
    sizes = [3_000_000, 10, 700_000, 300, 40_000]
    scores = [Elementwise(counted, *torch.randn(2, size, generator=generator)) for size in sizes]
    assert kth_largest(scores, 370_000) == reference_order(scores)[0][369_999]
    del read[-len(sizes) :]
    assert sum(read) < 1.02 * sum(sizes)
    assert max(read) <= LARGE


def test_few_scores_are_computed_once() -> None:
    calls: list[int] = []

    def counted(weight: Tensor) -> Tensor:
        calls.append(weight.numel())
        return weight.abs()

    kth_largest([Elementwise(counted, torch.randn(size)) for size in (3000, 5, 20_000)], 700)
    assert calls == [3000, 5, 20_000]


class OnDemand(Collection[Tensor]):
    """Tensors that are computed anew whenever they are read."""

    def __init__(self, names: Collection[str], compute: Callable[[str], Tensor]) -> None:
        self._names, self._compute = names, compute

    def __iter__(self) -> Iterator[Tensor]:
        return map(self._compute, self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, tensor: object) -> bool:
        return False


@pytest.mark.parametrize("sizes", [[100, 2000], [600_000, 20, 700_000, 5000]])
def test_tensors_computed_on_demand_are_computed_twice_at_most_and_not_held(sizes: list[int]) -> None:
    asked: list[weakref.ref[numpy.ndarray]] = []
    tensors = {str(size): torch.randn(size, generator=torch.Generator().manual_seed(size)) for size in sizes}

    def compute(name: str) -> Tensor:
        alive = [array for reference in asked if (array := reference()) is not None and array.size > LARGE]
        assert len(alive) <= 1
        # The tensor's memory is the array's, which lives as long as any view of it.
        array = tensors[name].numpy() * 2
        asked.append(weakref.ref(array))
        return torch.from_numpy(array)

    threshold = kth_largest(OnDemand(tensors, compute), 60)
    assert len(asked) <= 2 * len(sizes)
    assert threshold == reference_order([tensor * 2 for tensor in tensors.values()])[0][59]
    masks = top_k(OnDemand(tensors, compute), 60)
    given = [tensor * 2 for tensor in tensors.values()]
    expected = first_of(reference_order(given)[1], 60, given)
    assert all(torch.equal(mask, other) for mask, other in zip(masks, expected, strict=True))


class LargestAllocation(TorchDispatchMode):
    """The bytes of the largest tensor that an operator allocates."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {argument.untyped_storage().data_ptr() for argument in args if isinstance(argument, Tensor)}
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() not in known:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("kind", ["distinct", "all equal", "mostly zero", "mostly -inf"])
def test_nothing_as_large_as_the_scores_is_ever_allocated(kind: str) -> None:
    size = 4_000_000
    weight = torch.rand(size, generator=torch.Generator().manual_seed(0))
    if kind == "all equal":
        weight.fill_(0.5)
    elif kind == "mostly zero":
        weight[: size * 19 // 20] = 0
    elif kind == "mostly -inf":
        weight[: size * 19 // 20] = -torch.inf
    scores = [Elementwise(torch.clone, weight[: size // 2]), Elementwise(torch.clone, weight[size // 2 :])]
    for k in (1, size // 10, size - 1):
        with LargestAllocation() as search:
            kth_largest(scores, k)
        assert search.bytes <= 4 * LARGE, "more than a piece"
        with LargestAllocation() as choice:
            top_k(scores, k)
        assert choice.bytes <= 8 * LARGE, "more than the positions in a piece"


def test_parameters_can_be_scored_while_gradients_are_recorded() -> None:
    weight = torch.nn.Parameter(torch.randn(50, 40))
    assert not kth_largest([Elementwise(torch.abs, weight)], 7).requires_grad
    assert int(top_k([weight], 7)[0].sum()) == 7


def test_empty_tensors_take_part() -> None:
    scores = [torch.empty(0, 3), torch.tensor([1.0, 3.0, 2.0]), torch.empty(0)]
    assert kth_largest(scores, 2) == 2
    assert [mask.tolist() for mask in top_k(scores, 2)] == [[], [False, True, True], []]
    assert top_k([], 0) == []


@bounded
@given(st.lists(st.tuples(values, st.booleans()), min_size=1, max_size=20))
def test_among_is_minus_infinity_where_not_eligible_and_nothing_else_changes(entries: list[tuple[float, bool]]) -> None:
    score = torch.tensor([value for value, _ in entries], dtype=torch.float32)
    eligible = torch.tensor([chosen for _, chosen in entries])
    expected = score.masked_fill(~eligible, -torch.inf)
    result = among(score, eligible)
    assert torch.equal(result.view(torch.int32), expected.view(torch.int32))


def test_count_above_counts_strictly() -> None:
    scores = [torch.tensor([-math.inf, 1.0, 2.0]), Elementwise(torch.abs, torch.tensor([[-2.0, -3.0]]))]
    assert count_above(scores, 2.0) == 1
    assert count_above(scores, torch.tensor(1.0)) == 3
    assert count_above(scores, -math.inf) == 4
    assert count_above([], 0.0) == 0


@pytest.mark.parametrize("k", [-1, 0, 8])
def test_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="k"):
        kth_largest([torch.zeros(3), torch.zeros(2, 2)], k)
    if k:
        with pytest.raises(ValueError, match="k"):
            top_k([torch.zeros(3), torch.zeros(2, 2)], k)


def test_elementwise_scores_of_tensors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape.*\(2, 3\).*\(3, 2\)"):
        Elementwise(product, torch.zeros(2, 3), torch.zeros(3, 2))
    with pytest.raises(TypeError, match="at least one tensor"):
        Elementwise(product)
