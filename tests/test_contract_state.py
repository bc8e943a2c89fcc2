"""The public contract, sentence by sentence: what a saved state holds and refuses, and how a sparsifier ends."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD
from toys import OddNet, backward

import sparsewright as sw


def made(method: str = "rigl-itop", **options: Any) -> tuple[nn.Module, SGD, sw.Sparsifier]:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = {"sparsity": 0.7, "total_steps": 12, "update_interval": 3, **options}
    return model, optimizer, sw.create(method, model, optimizer, **options)


def test_a_state_made_with_numpy_numbers_holds_plain_values() -> None:
    options = {
        "sparsity": np.float64(0.7),
        "total_steps": np.int64(12),
        "update_interval": np.int64(3),
        "update_end": np.float64(0.5),
        "initial_sparsity": np.float32(0.5),
        "drop_fraction": np.float64(0.25),
        "distribution": {"*": np.float64(0.7)},
    }
    _, _, sparsifier = made("granet", **options)
    file = io.BytesIO()
    torch.save(sparsifier.state_dict(), file)
    file.seek(0)
    _, _, other = made("granet", **options)
    other.load_state_dict(torch.load(file, weights_only=True))


@pytest.mark.parametrize("damage", ["mask", "random_state", "average"])
def test_a_state_that_does_not_fit_changes_nothing(damage: str) -> None:
    model = OddNet()
    sparsifier = sw.SNFS(model, SGD(model.parameters(), lr=0.1), sparsity=0.7, total_steps=12, update_interval=3)
    state = sparsifier.state_dict()
    name = next(iter(sparsifier.masks))
    if damage == "mask":
        del state["masks"][name]
    elif damage == "random_state":
        state["random_state"] = torch.zeros(3, dtype=torch.uint8)
        state["averages"] = {key: value + 1 for key, value in state["averages"].items()}
    else:
        state["averages"][name] = torch.zeros(1)
    before = sparsifier.state_dict()
    live = dict(sparsifier.masks)
    with pytest.raises(ValueError, match=r"mask|random state|average"):
        sparsifier.load_state_dict(state)
    after = sparsifier.state_dict()
    assert all(torch.equal(before["averages"][key], after["averages"][key]) for key in before["averages"])
    assert torch.equal(before["random_state"], after["random_state"])
    assert all(sparsifier.masks[key] is mask for key, mask in live.items())


def test_something_else_than_a_state_is_refused() -> None:
    _, _, sparsifier = made()
    with pytest.raises(ValueError, match="not a sparsifier's state"):
        sparsifier.load_state_dict(None)  # type: ignore[arg-type]


def test_a_detached_sparsifier_still_applies_its_masks_but_takes_no_state() -> None:
    model, optimizer, sparsifier = made()
    state = sparsifier.state_dict()
    for step in range(12):
        backward(model, step)
        optimizer.step()
    sparsifier.detach()
    with torch.no_grad():
        for parameter in sparsifier.parameters.values():
            parameter.fill_(1.0)
    with pytest.raises(ValueError, match="detached"):
        sparsifier.load_state_dict(state)
    sparsifier.finalize()
    for name, parameter in sparsifier.parameters.items():
        assert torch.equal(parameter != 0, sparsifier.masks[name])


@pytest.mark.parametrize("base", [sw.Sparsifier, sw.DynamicSparsifier])
def test_the_bases_are_no_methods(base: type[sw.Sparsifier]) -> None:
    model = OddNet()
    with pytest.raises(TypeError, match="base of the methods"):
        base(model, SGD(model.parameters(), lr=0.1), sparsity=0.5, total_steps=10)


def test_masks_have_the_memory_format_of_their_weights() -> None:
    model = nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)
    optimizer = SGD(model.parameters(), lr=0.1)
    sparsifier = sw.Static(model, optimizer, sparsity=0.5)
    assert sparsifier.masks["weight"].stride() == model.weight.stride()
    sparsifier.load_state_dict(sparsifier.state_dict())
    assert sparsifier.masks["weight"].stride() == model.weight.stride()


def test_under_weight_normalisation_directions_are_sparsified_and_lengths_are_not() -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        model = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(20, 30)), nn.Linear(30, 5))
    sparsifier = sw.Static(model, SGD(model.parameters(), lr=0.1), sparsity=0.5)
    assert set(sparsifier.masks) == {"0.weight_v", "1.weight"}
    assert "not the weight" in sparsifier.scope_report()["0.weight_g"]


def test_nothing_grows_at_the_last_step_even_where_a_ramp_leaves_a_layer_short() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 300), nn.Linear(300, 300), nn.Linear(300, 5))
    optimizer = SGD(model.parameters(), lr=0.01)
    sparsifier = sw.create(
        "granet-uniform",
        model,
        optimizer,
        sparsity=0.8,
        initial_sparsity=0.78,
        prune_end=1.0,
        last_layer_density=None,
        total_steps=4,
        update_interval=4,
    )
    before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    for _ in range(4):
        model(torch.randn(8, 20)).square().mean().backward()
        optimizer.step()
    for name, mask in sparsifier.masks.items():
        assert not (mask & ~before[name]).any()
    assert sparsifier.masks.kept() == round((1 - 0.8) * sparsifier.masks.total())


@pytest.mark.parametrize(
    ("method", "options", "named"),
    [
        ("granet-uniform", {"distribution": {"*": 0.7}}, "last_layer_density"),
        ("gmp", {"last_layer_density": 0.0}, "last_layer_density"),
        ("rigl", {"dense_first_layer": True, "distribution": {"*": 0.7}}, "dense_first_layer"),
        ("granet", {"grow": None, "redistribute": "momentum"}, "redistribute"),
        ("static", {"seed": 2**63, "total_steps": None}, "seed"),
        ("rigl", {"include": 5}, "include"),
    ],
)
def test_an_option_without_effect_or_of_the_wrong_kind_is_named(method: str, options: dict, named: str) -> None:
    if method == "static":
        options = {**options, "sparsity": 0.5}
        model = OddNet()
        with pytest.raises(ValueError, match=named):
            sw.create(method, model, SGD(model.parameters(), lr=0.1), **options)
        return
    with pytest.raises((ValueError, TypeError), match=named):
        made(method, **options)


def test_given_masks_without_any_weight_are_refused() -> None:
    model = OddNet()
    scope = sw.MaskSet.from_zeros(model)
    empty = sw.MaskSet({name: torch.zeros_like(mask) for name, mask in scope.items()})
    with pytest.raises(ValueError, match="no weight"):
        sw.Static(model, SGD(model.parameters(), lr=0.1), masks=empty)
