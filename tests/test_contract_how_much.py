"""The public contract of the dynamic methods: how much is dropped and where the sparsity lies."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.optim import SGD
from toys import (
    GROWING,
    RAMPS,
    OddNet,
    budget,
    changed,
    copies,
    cosine,
    grow_elsewhere,
    moment,
    one_layer,
    options_of,
    random_gradients,
    stack,
    train,
)

import sparsewright as sw

# How much.


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("rigl", {}),
        ("rigl-itop", {}),
        ("set", {"grow": "gradient"}),
        ("snfs", {"grow": "gradient"}),
        ("granet", {"prune_end": 5}),
        ("granet-uniform", {"prune_end": 5}),
        ("rigl", {"drop_fraction": 0.37, "min_drop_fraction": 0.1, "update_end": 1.0}),
        ("rigl-itop", {"drop_schedule": "linear", "update_end": 30}),
        ("set", {"grow": "gradient", "drop_schedule": "constant", "drop_fraction": 0.123}),
    ],
    ids=str,
)
def test_drop_counts(method: str, options: dict[str, Any]) -> None:
    model, _ = one_layer()
    optimizer = SGD(model.parameters(), lr=0.0)
    arguments = options_of(method, update_interval=5)
    sparsifier = sw.create(method, model, optimizer, sparsity=0.62, total_steps=50, **{**arguments, **options})
    (info,) = sw.list_methods(method)
    resolved = {**info.options, **options}
    end = moment(resolved["update_end"], 50)
    generator = torch.Generator().manual_seed(0)
    updates = 0
    for c in range(1, 50):
        before = sparsifier.masks["layer.weight"].clone()
        kept = int(before.sum())
        grow_elsewhere(model, sparsifier.masks, generator)
        optimizer.step()
        after = sparsifier.masks["layer.weight"]
        p = {
            "cosine": cosine(resolved["drop_fraction"], resolved["min_drop_fraction"], c, end),
            "linear": resolved["min_drop_fraction"]
            + (resolved["drop_fraction"] - resolved["min_drop_fraction"]) * (1 - c / end),
            "constant": resolved["drop_fraction"],
        }[resolved["drop_schedule"]]
        if c % 5 or c > end or (method in RAMPS and c == 5):
            continue
        updates += 1
        count = int(p * kept) if method == "rigl" else math.ceil(p * kept)
        assert int((before & ~after).sum()) == count, c
        assert int((after & ~before).sum()) == count, c
    assert updates >= 6


def test_drop_magnitude_and_grow_gradient_pick_the_extremes() -> None:
    model, weight = one_layer()
    optimizer = SGD(model.parameters(), lr=0.0)
    sparsifier = sw.RigL(model, optimizer, sparsity=0.5, total_steps=100, update_interval=1)
    mask = sparsifier.masks["layer.weight"]
    values, before = weight.detach().clone(), mask.clone()
    grow_elsewhere(model, sparsifier.masks, torch.Generator().manual_seed(3))
    assert weight.grad is not None
    grad = weight.grad.clone()
    optimizer.step()
    dropped, grown = before & ~mask, mask & ~before
    assert dropped.any()
    assert values[dropped].abs().max() < values[before & mask].abs().min()
    assert grad[grown].abs().min() > grad[~before & ~mask].abs().max()


def test_the_set_rule_drops_nearest_to_zero_from_each_sign() -> None:
    model, weight = one_layer(5, 10)
    optimizer = SGD(model.parameters(), lr=0.0)
    options = {"grow": "gradient", "drop_fraction": 0.5, "drop_schedule": "constant"}
    sparsifier = sw.SET(model, optimizer, sparsity=0.4, total_steps=50, update_interval=1, **options)
    mask = sparsifier.masks["layer.weight"]
    # 20 positive and 10 negative weights; the negative ones are all larger.
    kept = mask.reshape(-1).nonzero().squeeze(1)
    with torch.no_grad():
        flat = weight.view(-1)
        flat[kept[:20]] = torch.arange(1, 21) / 100
        flat[kept[20:]] = -torch.arange(1, 11) / 10
    grow_elsewhere(model, sparsifier.masks, torch.Generator().manual_seed(0))
    optimizer.step()
    left = mask.reshape(-1)[kept]
    assert left[:20].tolist() == [False] * 10 + [True] * 10
    assert left[20:].tolist() == [False] * 5 + [True] * 5


def test_the_threshold_rule_drops_only_small_weights() -> None:
    model, weight = one_layer()
    optimizer = SGD(model.parameters(), lr=0.0)
    options = {"drop": "threshold", "drop_threshold": 0.01, "drop_fraction": 0.5, "drop_schedule": "constant"}
    sparsifier = sw.RigL(model, optimizer, sparsity=0.5, total_steps=50, update_interval=1, **options)
    mask = sparsifier.masks["layer.weight"]
    before, small = mask.clone(), mask & (weight.detach().abs() < 0.01)
    grow_elsewhere(model, sparsifier.masks, torch.Generator().manual_seed(0))
    optimizer.step()
    assert 0 < small.sum() < 150
    assert torch.equal(before & ~mask, small)
    assert mask.sum() == before.sum()


@pytest.mark.parametrize("method", GROWING)
def test_without_growth_nothing_is_dropped_either(method: str) -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1)
    options = options_of(method, update_interval=2, prune_end=4, initial_sparsity=0.5, grow=None, redistribute=None)
    sparsifier = sw.create(method, model, optimizer, sparsity=0.5, total_steps=20, **options)
    before = copies(sparsifier)
    train(model, optimizer, range(20))
    if method == "rpg":
        assert not any((mask & ~before[name]).any() for name, mask in sparsifier.masks.items())
        assert sparsifier.masks.kept() == budget(0.5, sparsifier.masks.total())
    elif method == "granet-uniform":
        assert sparsifier.masks.kept() == sum(int(mask.sum()) for mask in before.values())
    else:
        assert not changed(before, sparsifier)


# Where.


@pytest.mark.parametrize("family", ["gmp", "granet"])
def test_initial_sparsity(family: str) -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1)
    sparsifier = sw.create(
        family, model, optimizer, sparsity=0.9, total_steps=40, update_interval=4, prune_start=10, initial_sparsity=0.5
    )
    total = sparsifier.masks.total()
    start = total if family == "gmp" else budget(0.5, total)
    assert sparsifier.masks.kept() == start
    train(model, optimizer, range(11))
    assert sparsifier.masks.kept() == start
    # u runs from floor(10 / 4) = 2 to 5 and the update at step 12 has u = 3.
    train(model, optimizer, range(11, 12))
    assert sparsifier.masks.kept() == budget(0.9 + (0.5 - 0.9) * (1 - 1 / 3) ** 3, total)


def test_initial_distribution_shares_the_start_masks() -> None:
    shapes = {"a": (20, 20), "b": (40, 30)}
    for rule, expected in [("uniform", {"a": 200, "b": 600}), ({"a.*": 0.75}, {"a": 100, "b": 700})]:
        model = stack(shapes)
        sparsifier = sw.GraNet(
            model,
            SGD(model.parameters()),
            sparsity=0.9,
            total_steps=40,
            update_interval=4,
            initial_sparsity=0.5,
            initial_distribution=rule,
        )
        assert {name: int(sparsifier.masks[f"{name}.weight"].sum()) for name in shapes} == expected


@pytest.mark.parametrize("method", ["rigl", "static", "magnitude", "granet-uniform", "gmp-uniform"])
def test_an_explicit_distribution_is_met_exactly(method: str) -> None:
    model = stack({"first": (20, 20), "middle": (40, 30), "last": (10, 40)})
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
    options = options_of(method, update_interval=4, distribution={"first.*": 0.0, "*last*": 0.5})
    sparsifier = sw.create(method, model, optimizer, sparsity=0.6, total_steps=20, **options)
    for step in range(20):
        random_gradients(model, step)
        optimizer.step()
    kept = {name: int(mask.sum()) for name, mask in sparsifier.masks.items()}
    assert kept == {"first.weight": 400, "middle.weight": 200, "last.weight": 200}


def test_an_explicit_distribution_that_contradicts_the_sparsity_is_refused() -> None:
    model = stack({"first": (20, 20), "last": (10, 40)})
    optimizer = SGD(model.parameters(), lr=0.01)
    with pytest.raises(ValueError, match=r"0\.5.*0\.1"):
        sw.Static(model, optimizer, sparsity=0.9, distribution={"first.*": 0.0})
    with pytest.raises(ValueError, match=r"0\.55.*0\.9"):
        sw.Static(model, optimizer, sparsity=0.1, distribution={"first.*": 0.9})
    with pytest.raises(ValueError, match=r"0\.5.*0\.25"):
        sw.Static(model, optimizer, sparsity=0.75, distribution={"*": 0.5})


LAST = {"a": (40, 40), "b": (10, 40)}


@pytest.mark.parametrize("method", ["gmp-uniform", "granet-uniform"])
def test_the_last_layer_keeps_its_density_once_the_sparsity_is_high(method: str) -> None:
    model = stack(LAST)
    optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
    sparsifier = sw.create(method, model, optimizer, sparsity=0.9, total_steps=40, update_interval=2, prune_end=0.5)
    for c in range(1, 41):
        random_gradients(model, c)
        optimizer.step()
        if c % 2 or c > 20:
            continue
        sparsity = 0.9 - 0.9 * (1 - c / 20) ** 3
        kept = {name: int(sparsifier.masks[f"{name}.weight"].sum()) for name in LAST}
        assert sum(kept.values()) == budget(sparsity, 2000)
        expected = 80 if sparsity >= 0.8 else max(400 * (1 - sparsity), 80)
        assert abs(kept["b"] - expected) < 1, c
    assert kept == {"a": 120, "b": 80}


@pytest.mark.parametrize("method", ["gmp-uniform", "granet-uniform"])
def test_the_last_layer_rule_can_be_switched_off_or_set(method: str) -> None:
    for density, expected in [(None, 40), (0.3, 120), (0.05, 20)]:
        model = stack(LAST)
        optimizer = SGD(model.parameters(), lr=0.01, momentum=0.9)
        sparsifier = sw.create(
            method, model, optimizer, sparsity=0.9, total_steps=40, update_interval=4, last_layer_density=density
        )
        for step in range(40):
            random_gradients(model, step)
            optimizer.step()
        assert int(sparsifier.masks["b.weight"].sum()) == expected
    model = stack(LAST)
    optimizer = SGD(model.parameters(), lr=0.01)
    sparsifier = sw.create(method, model, optimizer, sparsity=0.79, total_steps=40, update_interval=4)
    for step in range(40):
        random_gradients(model, step)
        optimizer.step()
    assert int(sparsifier.masks["b.weight"].sum()) == 84


@pytest.mark.parametrize("method", ["gmp-uniform", "granet-uniform"])
def test_an_infeasible_last_layer_is_an_error_with_both_numbers(method: str) -> None:
    model = stack({"a": (10, 10), "b": (100, 100)})
    optimizer = SGD(model.parameters(), lr=0.01)
    with pytest.raises(ValueError, match=r"b\.weight.*0\.198.*0\.05"):
        sw.create(method, model, optimizer, sparsity=0.95, total_steps=40, update_interval=4)
    # Feasible at the end but not on the way there: it must be said now, not in the middle of the run.
    with pytest.raises(ValueError, match=r"b\.weight"):
        sw.create(
            method, model, optimizer, sparsity=0.995, total_steps=40, update_interval=1, last_layer_density=0.0001
        )


def test_the_first_layer_can_stay_dense() -> None:
    model = stack({"a": (10, 10), "b": (30, 30)})
    sparsifier = sw.Static(model, SGD(model.parameters()), sparsity=0.7, distribution="uniform", dense_first_layer=True)
    assert sparsifier.layer_sparsity()["a.weight"] == 0
    assert sparsifier.masks.kept() == 300
