"""The public contract, sentence by sentence: errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import SGD
from toys import (
    OddNet,
    stack,
    weights_of,
)

import sparsewright as sw


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sparsity": "0.9"}, TypeError, "sparsity"),
        ({"sparsity": True}, TypeError, "sparsity"),
        ({"sparsity": None}, TypeError, "sparsity"),
        ({"total_steps": 0}, ValueError, "total_steps"),
        ({"total_steps": -3}, ValueError, "total_steps"),
        ({"total_steps": 10.5}, TypeError, "total_steps"),
        ({"total_steps": None}, TypeError, "total_steps"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 1.5}, TypeError, "seed"),
        ({"update_interval": 0}, ValueError, "update_interval"),
        ({"update_interval": 2.0}, TypeError, "update_interval"),
        ({"update_end": 1.5}, ValueError, "update_end"),
        ({"update_end": 21}, ValueError, "update_end"),
        ({"update_end": "80ep"}, TypeError, "update_end"),
        ({"prune_start": -1}, ValueError, "prune_start"),
        ({"prune_end": -0.5}, ValueError, "prune_end"),
        ({"prune_start": 0.8, "prune_end": 0.5}, ValueError, "prune_start"),
        ({"initial_sparsity": 1.0}, ValueError, "initial_sparsity"),
        ({"initial_sparsity": 0.95}, ValueError, "initial_sparsity"),
        ({"drop_fraction": 1.5}, ValueError, "drop_fraction"),
        ({"drop_fraction": float("nan")}, ValueError, "drop_fraction"),
        ({"drop_fraction": 0.1, "min_drop_fraction": 0.2}, ValueError, "min_drop_fraction"),
        ({"drop_schedule": "cosin"}, ValueError, "cosin.*|.*cosine"),
        ({"drop": "biggest"}, ValueError, "magnitude.*set.*threshold"),
        ({"grow": "gradients"}, ValueError, "gradient.*momentum.*random.*None"),
        ({"redistribute": "layers"}, ValueError, "None.*magnitude.*nonzeros.*momentum"),
        ({"distribution": "erdos"}, ValueError, "global.*|.*uniform"),
        ({"distribution": {"nothing.*": 0.5}}, ValueError, "nothing"),
        ({"distribution": {"fc.*": 1.5}}, ValueError, "fc"),
        ({"distribution": {}}, ValueError, "distribution"),
        ({"min_kept_per_layer": -1}, ValueError, "min_kept_per_layer"),
        ({"last_layer_density": 2.0}, ValueError, "last_layer_density"),
        ({"update_replaces_step": 1}, TypeError, "update_replaces_step"),
    ],
    ids=str,
)
def test_errors_name_what_is_wrong(options: dict[str, Any], error: type[Exception], message: str) -> None:
    model = OddNet()
    before = weights_of(model)
    optimizer = SGD(model.parameters(), lr=0.1)
    arguments = {"sparsity": 0.9, "total_steps": 20, "update_interval": 2, **options}
    with pytest.raises(error, match=message):
        sw.GraNet(model, optimizer, **arguments)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    # Nothing is left attached.
    sw.GraNet(model, optimizer, sparsity=0.9, total_steps=20, update_interval=2).detach()


@pytest.mark.parametrize(
    ("option", "nearest"),
    [
        ("update_intervall", "update_interval"),
        ("drop_fracton", "drop_fraction"),
        ("total_step", "total_steps"),
        ("sparsty", "sparsity"),
        ("exlude", "exclude"),
        ("includes", "include"),
    ],
)
@pytest.mark.parametrize("method", ["granet", "rigl", "set"])
def test_unknown_options_are_errors_with_the_nearest_name(method: str, option: str, nearest: str) -> None:
    model = OddNet()
    (info,) = sw.list_methods(method)
    arguments = {"sparsity": 0.9, "total_steps": 20, "update_interval": 2, option: 1}
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=rf"{option}.*'{nearest}'"):
        sw.create(method, model, optimizer, **arguments)
    with pytest.raises(TypeError, match=rf"{option}.*'{nearest}'"):
        info.cls(model, optimizer, **arguments)


@pytest.mark.parametrize("method", sorted({info.cls.__name__: info.name for info in sw.list_methods()}.values()))
def test_a_misspelt_sparsity_is_named_and_a_missing_one_missed(method: str) -> None:
    model = OddNet()
    (info,) = sw.list_methods(method)
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"'sparcity'; did you mean 'sparsity'\?"):
        info.cls(model, optimizer, sparcity=0.9, total_steps=20)
    with pytest.raises((TypeError, ValueError), match=rf"{info.cls.__name__} needs (a )?sparsity"):
        info.cls(model, optimizer, total_steps=20)


@pytest.mark.parametrize(
    ("method", "option"),
    [
        ("static", "update_interval"),
        ("gmp", "grow"),
        ("gmp", "initial_distribution"),
        ("rigl", "prune_end"),
        ("set", "criterion"),
    ],
)
def test_options_of_other_methods_are_errors(method: str, option: str) -> None:
    model = OddNet()
    with pytest.raises(TypeError, match=option):
        sw.create(method, model, SGD(model.parameters(), lr=0.1), sparsity=0.5, total_steps=20, **{option: 1})


def test_unknown_methods_are_errors_with_the_nearest_name() -> None:
    model = OddNet()
    with pytest.raises(ValueError, match=r"'granett'.*'granet'"):
        sw.create("granett", model, SGD(model.parameters(), lr=0.1), sparsity=0.5, total_steps=20)


def test_a_budget_below_the_minima_names_both_numbers() -> None:
    model = stack({f"layer{index}": (5, 5) for index in range(4)})
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"\b2\b.*\b4\b"):
        sw.RigL(model, optimizer, sparsity=0.98, total_steps=100, update_interval=10)
    with pytest.raises(ValueError, match=r"\b10\b.*\b20\b"):
        sw.GraNet(model, optimizer, sparsity=0.9, total_steps=100, update_interval=10, min_kept_per_layer=5)
