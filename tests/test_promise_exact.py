"""Promise 1: after the schedule ends exactly round((1 - sparsity) * n) weights are kept, whatever the shapes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD
from toys import budget, random_gradients, stack, weights_of

import sparsewright as sw

METHODS = [info.name for info in sw.list_methods() if not info.cls.prunes_at_end]
RAMPS = ["gmp", "gmp-uniform", "granet", "granet-uniform"]
LAYERED = ["gmp-uniform", "granet-uniform", "magnitude", "rigl", "rigl-itop", "set", "static"]
TOTAL, INTERVAL = 12, 3

bounded = settings(max_examples=200, deadline=None, derandomize=True, database=None)

matrices = st.tuples(st.integers(1, 23), st.integers(1, 31))
kernels = st.tuples(st.integers(1, 9), st.integers(1, 7), st.integers(1, 3), st.integers(1, 5))
signals = st.tuples(st.integers(1, 9), st.integers(1, 7), st.integers(1, 4))
shape_lists = st.lists(matrices | kernels | signals, min_size=1, max_size=6)
sparsities = st.sampled_from([0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999]) | st.floats(0.0, 0.999)
rules = st.sampled_from(["uniform", "er", "erk"])


def named(shapes: list[tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"layer{index}": shape for index, shape in enumerate(shapes)}


def options_of(method: str, **options: Any) -> dict[str, Any]:
    """Options of a run of TOTAL steps, without those that the method does not have."""
    (info,) = sw.list_methods(method)
    wanted = {"update_interval": INTERVAL, "last_layer_density": None, **options}
    return {key: value for key, value in wanted.items() if key in info.options}


def run(method: str, model: nn.Module, sparsity: float, **options: Any) -> sw.Sparsifier:
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    given_options = options_of(method, **options)
    sparsifier = sw.create(method, model, optimizer, sparsity=sparsity, total_steps=TOTAL, **given_options)
    for step in range(TOTAL):
        random_gradients(model, step)
        optimizer.step()
    return sparsifier


def erdos_renyi(shapes: dict[str, tuple[int, ...]], density: float, kernel: bool) -> dict[str, float]:
    """Ideal counts of ER and ERK, from the formula in the paper of RigL; layers that would pass 1 are dense."""
    used = {name: shape if kernel else shape[:2] for name, shape in shapes.items()}
    raw = {name: sum(shape) / math.prod(shape) for name, shape in used.items()}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    dense: set[str] = set()
    while True:
        free = [name for name in shapes if name not in dense]
        left = density * sum(sizes.values()) - sum(sizes[name] for name in dense)
        factor = left / sum(raw[name] * sizes[name] for name in free) if free else 0.0
        over = [name for name in free if factor * raw[name] > 1]
        if not over:
            return {n: float(sizes[n]) if n in dense else factor * raw[n] * sizes[n] for n in shapes}
        # The layers of highest raw density become dense one level at a time.
        dense |= {name for name in over if raw[name] == max(raw[n] for n in over)}


def assert_largest_remainder(kept: dict[str, int], ideal: dict[str, float]) -> None:
    """Each count is its ideal rounded down or up, and those rounded up have the larger remainders."""
    up, down = [], []
    for name, value in ideal.items():
        nearest = round(value)
        if abs(value - nearest) < 1e-6:
            # A whole number may move by one only if the sum of all cannot be reached otherwise.
            assert abs(kept[name] - nearest) <= 1, name
            continue
        assert kept[name] in (math.floor(value), math.ceil(value)), (name, kept[name], value)
        (up if kept[name] > value else down).append(value - math.floor(value))
    if up and down:
        assert min(up) >= max(down) - 1e-6


@bounded
@given(st.sampled_from(METHODS), shape_lists, sparsities, st.sampled_from([0, 1, 3]))
@example("snfs", [(1, 1), (1, 1), (40, 30)], 0.99, 1)
@example("granet", [(2, 3), (23, 31), (1, 1)], 0.98, 3)
@example("gmp", [(1, 1)], 0.0, 1)
def test_promise_1_exact(method: str, shapes: list[tuple[int, ...]], sparsity: float, least: int) -> None:
    model = stack(named(shapes))
    before = weights_of(model)
    sizes = {f"{name}.weight": math.prod(shape) for name, shape in named(shapes).items()}
    total, minimum = sum(sizes.values()), sum(min(least, size) for size in sizes.values())
    kept = budget(sparsity, total)
    if kept < minimum:
        with pytest.raises(ValueError, match=rf"\b{kept}\b.*\b{minimum}\b"):
            run(method, model, sparsity, min_kept_per_layer=least)
        assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
        return
    sparsifier = run(method, model, sparsity, min_kept_per_layer=least)
    assert sparsifier.finished
    sparsifier.finalize()
    counts = {name: int(mask.sum()) for name, mask in sparsifier.masks.items()}
    assert counts.keys() == sizes.keys()
    assert sum(counts.values()) == kept
    assert sparsifier.sparsity() == (total - kept) / total
    for name, parameter in model.named_parameters():
        assert min(least, sizes[name]) <= counts[name] <= sizes[name], name
        assert not parameter[~sparsifier.masks[name]].count_nonzero(), name


@bounded
@given(st.sampled_from(LAYERED), shape_lists, sparsities, rules)
@example("rigl", [(10, 10)] * 4, 0.9, "uniform")
@example("granet-uniform", [(1, 5), (1, 5), (1, 5)], 0.5, "uniform")
def test_layer_wise_counts_are_the_largest_remainder(
    method: str, shapes: list[tuple[int, ...]], sparsity: float, rule: str
) -> None:
    layers = named(shapes)
    sizes = {name: math.prod(shape) for name, shape in layers.items()}
    density = 1 - sparsity
    if rule == "uniform":
        ideal = {name: density * size for name, size in sizes.items()}
    else:
        ideal = erdos_renyi(layers, density, kernel=rule == "erk")
    sparsifier = run(method, stack(layers), sparsity, distribution=rule, min_kept_per_layer=0)
    kept = {name: int(sparsifier.masks[f"{name}.weight"].sum()) for name in layers}
    assert sum(kept.values()) == budget(sparsity, sum(sizes.values()))
    assert_largest_remainder(kept, ideal)


@bounded
@given(st.sampled_from(RAMPS), shape_lists, st.floats(0.3, 0.99), st.floats(0.0, 0.9), st.integers(1, 5))
@example("granet-uniform", [(1, 9, 3), (20, 30), (3, 3)], 0.9, 0.8, 3)
def test_every_ramp_event_ends_on_its_exact_total(
    method: str, shapes: list[tuple[int, ...]], sparsity: float, share: float, interval: int
) -> None:
    model = stack(named(shapes))
    total = sum(parameter.numel() for parameter in model.parameters())
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    initial = share * sparsity
    options = options_of(
        method, initial_sparsity=initial, update_interval=interval, prune_end=0.75, min_kept_per_layer=0
    )
    sparsifier = sw.create(method, model, optimizer, sparsity=sparsity, total_steps=TOTAL, **options)
    whole = sparsifier.masks.kept()
    assert whole == (total if method.startswith("gmp") or initial == 0 else budget(initial, total))
    end = 9
    for step in range(1, TOTAL + 1):
        random_gradients(model, step)
        optimizer.step()
        if step % interval or step > end:
            continue
        x = step / end if method.endswith("uniform") else (step // interval) / (end // interval)
        final_event = step + interval > TOTAL
        x = 1.0 if step >= end or final_event else x
        assert sparsifier.masks.kept() == budget(sparsity + (initial - sparsity) * (1 - x) ** 3, total), step
    assert sparsifier.masks.kept() == budget(sparsity, total)


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_layer_must_be_asked_for(method: str) -> None:
    model = stack({"tiny": (1, 2), "big": (50, 40)})
    with torch.no_grad():
        model.get_parameter("tiny.weight").fill_(1e-6)
    sparsifier = run(method, model, 0.99)
    assert int(sparsifier.masks["tiny.weight"].sum()) >= 1


@pytest.mark.parametrize("method", ["gmp", "granet", "magnitude"])
def test_a_layer_can_be_emptied_on_request(method: str) -> None:
    model = stack({"tiny": (1, 2), "big": (50, 40)})
    with torch.no_grad():
        model.get_parameter("tiny.weight").zero_()
    optimizer = SGD(model.parameters(), lr=0.0)
    options = options_of(method, min_kept_per_layer=0)
    if method == "granet":
        options["grow"] = None
    sparsifier = sw.create(method, model, optimizer, sparsity=0.9, total_steps=TOTAL, **options)
    for step in range(TOTAL):
        random_gradients(model, step)
        optimizer.step()
    assert int(sparsifier.masks["tiny.weight"].sum()) == 0
    assert sparsifier.masks.kept() == budget(0.9, 2002)


@pytest.mark.parametrize("method", METHODS)
def test_frozen_and_tied_weights_count_as_the_scope_says(method: str) -> None:
    model = stack({"first": (12, 12), "second": (12, 12), "frozen": (12, 12)})
    model.get_submodule("second").weight = model.get_submodule("first").weight
    model.get_parameter("frozen.weight").requires_grad_(False)
    sparsifier = run(method, model, 0.9)
    assert list(sparsifier.masks) == ["first.weight"]
    assert sparsifier.masks.kept() == budget(0.9, 144)
    assert not (model.get_parameter("frozen.weight") == 0).any()


@pytest.mark.parametrize("sparsity", [1.0, 1.5, -0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("method", METHODS)
def test_sparsity_outside_its_range_is_refused(method: str, sparsity: float) -> None:
    model = stack({"layer": (5, 5)})
    before = weights_of(model)
    with pytest.raises(ValueError, match="sparsity"):
        run(method, model, sparsity)
    assert torch.equal(model.get_parameter("layer.weight"), before["layer.weight"])
