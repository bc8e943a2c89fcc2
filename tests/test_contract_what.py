"""The public contract of the dynamic methods: what is dropped, what grows and how it starts."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, RMSprop
from toys import (
    CONSTANT,
    GROWING,
    OddNet,
    backward,
    budget,
    changed,
    copies,
    cosine,
    one_layer,
    options_of,
    random_gradients,
    stack,
    train,
)

import sparsewright as sw


@pytest.mark.parametrize("name", ["momentum", "adam", "rmsprop"])
@pytest.mark.parametrize("method", GROWING)
def test_new_connections_start_at_zero_with_zero_optimizer_state(method: str, name: str) -> None:
    model = OddNet()
    makers: dict[str, Callable[[], Optimizer]] = {
        "momentum": lambda: SGD(model.parameters(), lr=0.05, momentum=0.9),
        "adam": lambda: Adam(model.parameters(), lr=0.01),
        "rmsprop": lambda: RMSprop(model.parameters(), lr=0.01, momentum=0.9),
    }
    optimizer = makers[name]()
    options = options_of(method, update_interval=2, update_replaces_step=False, initial_sparsity=0.4)
    sparsifier = sw.create(method, model, optimizer, sparsity=0.7, total_steps=20, **options)
    grown = 0
    for step in range(20):
        before = copies(sparsifier)
        train(model, optimizer, [step])
        for label, mask in sparsifier.masks.items():
            new = mask & ~before[label]
            grown += int(new.sum())
            parameter = model.get_parameter(label)
            assert not parameter[new].any()
            for key, value in optimizer.state[parameter].items():
                if value.shape == parameter.shape:
                    assert not value[new].any(), key
    assert grown > 10


def test_a_connection_dropped_and_regrown_keeps_weight_and_state() -> None:
    results = []
    for method in ("rigl-itop", "static"):
        model, weight = one_layer(10, 10)
        optimizer = SGD(model.parameters(), lr=1e-5, momentum=0.9)
        # ERK on one layer is uniform, and both draw the same start masks.
        sparsifier = sw.create(
            method, model, optimizer, sparsity=0.5, total_steps=20, **options_of(method, update_interval=2)
        )
        mask = sparsifier.masks["layer.weight"]
        start = mask.clone()
        for _ in range(4):
            # Largest where a kept weight is smallest: all that is dropped comes back.
            weight.grad = torch.where(mask, 1 / weight.detach().abs().clamp_min(1e-3), 1e-6)
            optimizer.step()
        assert torch.equal(mask, start)
        if method == "rigl-itop":
            assert sparsifier.topology_version == 2
        results.append((weight.detach().clone(), optimizer.state[weight]["momentum_buffer"].clone()))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert results[0][1][start].all()


def test_a_connection_pruned_by_the_ramp_and_regrown_starts_at_zero() -> None:
    model, weight = one_layer(10, 10)
    optimizer = SGD(model.parameters(), lr=1e-6, momentum=0.9)
    sparsifier = sw.GraNet(model, optimizer, sparsity=0.5, total_steps=20, update_interval=2, prune_end=2)
    order = weight.detach().abs().reshape(-1).argsort()
    pruned = torch.zeros(100, dtype=torch.bool)
    pruned[order[:50]] = True
    pruned = pruned.reshape(10, 10)
    for _ in range(2):
        weight.grad = 1 / weight.detach().abs().clamp_min(1e-3)
        optimizer.step()
    mask = sparsifier.masks["layer.weight"]
    revived = mask & pruned
    assert int(revived.sum()) == math.ceil(cosine(0.5, 0.005, 2, 20) * 50)
    assert not weight[revived].any()
    assert not optimizer.state[weight]["momentum_buffer"][revived].any()
    assert mask.sum() == 50


MOMENTA: dict[str, tuple[Callable[[list[nn.Parameter]], Optimizer], str]] = {
    "sgd-buffer": (lambda params: SGD(params, lr=0.0, momentum=0.9), "early"),
    "nesterov-buffer": (lambda params: SGD(params, lr=0.0, momentum=0.9, nesterov=True), "early"),
    "plain-sgd": (lambda params: SGD(params, lr=0.0), "early"),
    "rmsprop": (lambda params: RMSprop(params, lr=0.0), "early"),
    "rmsprop-momentum": (lambda params: RMSprop(params, lr=0.0, momentum=0.9), "early"),
    "adam": (lambda params: Adam(params, lr=0.0), "late"),
    "adamw": (lambda params: AdamW(params, lr=0.0), "late"),
    "amsgrad": (lambda params: Adam(params, lr=0.0, amsgrad=True), "late"),
    "nadam": (lambda params: NAdam(params, lr=0.0), "late"),
}


@pytest.mark.parametrize("save", [False, True], ids=["straight", "saved"])
@pytest.mark.parametrize("name", MOMENTA)
def test_momentum_growth_reads_the_right_moment(name: str, save: bool) -> None:
    """A large early gradient and a small late one: a first moment prefers the first, Adam's ratio the second."""
    make, wanted = MOMENTA[name]

    def build() -> tuple[nn.Module, nn.Parameter, Optimizer, sw.Sparsifier]:
        model, weight = one_layer(8, 10)
        optimizer = make([weight])
        options = {"drop_fraction": 0.1, "drop_schedule": "constant", "update_interval": 4}
        return model, weight, optimizer, sw.SNFS(model, optimizer, sparsity=0.5, total_steps=100, **options)

    model, weight, optimizer, sparsifier = build()
    before = sparsifier.masks["layer.weight"].clone()
    off = (~before).reshape(-1).nonzero().squeeze(1)
    picks = {"early": off[:4], "late": off[10:14]}
    for step in range(4):
        if save and step == 3:
            states = [copy.deepcopy(item.state_dict()) for item in (model, optimizer, sparsifier)]
            model, weight, optimizer, sparsifier = build()
            for item, state in zip((sparsifier, optimizer, model), reversed_states(states), strict=True):
                item.load_state_dict(state)
        grad = torch.zeros(80)
        grad[picks["early"]] = 100.0 if step == 0 else 0.0
        grad[picks["late"]] = 1.0 if step == 3 else 0.0
        weight.grad = grad.reshape(8, 10)
        optimizer.step()
    grown = sparsifier.masks["layer.weight"] & ~before
    assert grown.reshape(-1).nonzero().squeeze(1).tolist() == picks[wanted].tolist()


def reversed_states(states: list[Any]) -> list[Any]:
    model, optimizer, sparsifier = states
    return [sparsifier, optimizer, model]


def test_methods_that_read_a_moment_leave_it_unmasked() -> None:
    model, weight = one_layer()
    optimizer = Adam(model.parameters(), lr=0.01, amsgrad=True)
    sparsifier = sw.SNFS(model, optimizer, sparsity=0.8, total_steps=20, update_interval=10)
    for step in range(5):
        random_gradients(model, step)
        optimizer.step()
        off = ~sparsifier.masks["layer.weight"]
        assert not weight[off].any()
        state = optimizer.state[weight]
        assert state["exp_avg"][off].all()
        assert state["exp_avg_sq"][off].all()
        assert not state["max_exp_avg_sq"][off].any()


@pytest.mark.parametrize("method", ["rigl-itop", "granet", "set"])
def test_momentum_growth_is_an_option_of_every_growing_method(method: str) -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    options = options_of(method, update_interval=2, grow="momentum", redistribute="momentum")
    sparsifier = sw.create(method, model, optimizer, sparsity=0.7, total_steps=20, **options)
    start = copies(sparsifier)
    train(model, optimizer, range(20))
    assert changed(start, sparsifier)
    assert sparsifier.masks.kept() == budget(0.7, sparsifier.masks.total())


@pytest.mark.parametrize("rule", ["magnitude", "nonzeros", "momentum"])
@pytest.mark.parametrize("method", [*CONSTANT, "granet"])
def test_redistribution_keeps_the_total(method: str, rule: str) -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = options_of(method, update_interval=2, redistribute=rule, initial_sparsity=0.5, prune_end=6)
    sparsifier = sw.create(method, model, optimizer, sparsity=0.6, total_steps=30, **options)
    start = {name: int(mask.sum()) for name, mask in sparsifier.masks.items()}
    for step in range(30):
        train(model, optimizer, [step])
        if method in CONSTANT or step >= 5:
            assert sparsifier.masks.kept() == budget(0.6, sparsifier.masks.total())
        assert all(mask.any() for mask in sparsifier.masks.values())
    # RigL drops in proportion to the non-zeros here, and so regrows what it dropped.
    if (method, rule) != ("rigl", "nonzeros"):
        assert {name: int(mask.sum()) for name, mask in sparsifier.masks.items()} != start


@pytest.mark.parametrize("rule", ["magnitude", "nonzeros", "momentum"])
def test_redistribution_follows_its_rule(rule: str) -> None:
    model = stack({"a": (30, 30), "b": (30, 30)})
    optimizer = SGD(model.parameters(), lr=0.0, momentum=0.9)
    sparsity = {"a.*": 0.5, "b.*": 0.75} if rule == "nonzeros" else {"a.*": 0.7, "b.*": 0.7}
    sparsifier = sw.RigL(
        model,
        optimizer,
        sparsity=0.625 if rule == "nonzeros" else 0.7,
        total_steps=100,
        update_interval=2,
        distribution=sparsity,
        redistribute=rule,
        drop_schedule="constant",
        update_replaces_step=False,
    )
    weights = {name: model.get_parameter(f"{name}.weight") for name in "ab"}
    with torch.no_grad():
        for name, size in (("a", 3.0), ("b", 1.0)):
            # Equal sizes up to a hair, so that means are known and nothing ties.
            hair = torch.linspace(0.999, 1.001, 900).reshape(30, 30)
            weights[name].copy_(torch.where(sparsifier.masks[f"{name}.weight"], size * hair, 0.0))
    before = {name: int(sparsifier.masks[f"{name}.weight"].sum()) for name in "ab"}
    for _ in range(2):
        for name, size in (("a", 1.0), ("b", 4.0)):
            grad = size * torch.linspace(0.999, 1.001, 900).reshape(30, 30)
            weights[name].grad = grad
        optimizer.step()
    after = {name: int(sparsifier.masks[f"{name}.weight"].sum()) for name in "ab"}
    dropped = {name: int(0.3 * kept) for name, kept in before.items()}
    whole = sum(dropped.values())
    share_of_a = {"magnitude": 3 / 4, "momentum": 1 / 5, "nonzeros": before["a"] / sum(before.values())}[rule]
    assert sum(after.values()) == sum(before.values())
    assert abs(after["a"] - (before["a"] - dropped["a"] + whole * share_of_a)) < 1


@pytest.mark.parametrize("method", CONSTANT)
def test_an_update_keeps_the_count_that_it_finds(method: str) -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sw.create(method, model, optimizer, sparsity=0.7, total_steps=30, update_interval=2)
    for name, kept in (("conv2.weight", 200), ("narrow.weight", 2)):
        mask = sparsifier.masks[name]
        mask.zero_()
        mask.view(-1)[:kept] = True
    total = sparsifier.masks.kept()
    counts = {name: int(mask.sum()) for name, mask in sparsifier.masks.items()}
    written = copies(sparsifier)
    for step in range(30):
        train(model, optimizer, [step])
        assert sparsifier.masks.kept() == total
        if method != "snfs":
            assert {name: int(mask.sum()) for name, mask in sparsifier.masks.items()} == counts
    assert changed(written, sparsifier)


@pytest.mark.parametrize("method", ["granet", "granet-uniform", "gmp", "gmp-uniform"])
def test_after_the_ramp_hand_written_masks_keep_their_count(method: str) -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = options_of(method, update_interval=2, prune_end=4)
    sparsifier = sw.create(method, model, optimizer, sparsity=0.7, total_steps=20, **options)
    train(model, optimizer, range(6))
    sparsifier.masks["conv2.weight"].fill_(True)
    total = sparsifier.masks.kept()
    train(model, optimizer, range(6, 20))
    assert sparsifier.masks.kept() == total


@pytest.mark.parametrize("method", ["granet", "granet-uniform"])
def test_a_ramp_event_regrows_a_shortfall(method: str) -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = options_of(method, update_interval=4)
    sparsifier = sw.create(method, model, optimizer, sparsity=0.5, total_steps=20, **options)
    train(model, optimizer, range(4))
    for mask in sparsifier.masks.values():
        mask.view(-1)[: mask.numel() * 4 // 5] = False
    train(model, optimizer, range(4, 8))
    total = sparsifier.masks.total()
    x = 8 / 10 if method == "granet-uniform" else 1.0
    assert sparsifier.masks.kept() == budget(0.5 - 0.5 * (1 - x) ** 3, total)


@pytest.mark.parametrize("method", GROWING)
def test_a_layer_without_gradient_neither_drops_nor_grows(method: str) -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = options_of(method, update_interval=2, initial_sparsity=0.7, min_drop_fraction=0.3, prune_end=10)
    sparsifier = sw.create(method, model, optimizer, sparsity=0.7, total_steps=20, **options)
    train(model, optimizer, range(12))
    before = copies(sparsifier)
    optimizer.zero_grad()
    optimizer.step()
    backward(model, 13)
    model.conv2.weight.grad = None
    optimizer.step()
    assert sparsifier.step_count == 14
    assert torch.equal(sparsifier.masks["conv2.weight"], before["conv2.weight"])
    assert changed(before, sparsifier)


@pytest.mark.parametrize("method", ["granet-uniform", "gmp-uniform", "granet", "gmp"])
def test_ramp_totals_are_exact_with_a_layer_that_has_no_gradient(method: str) -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = options_of(method, update_interval=2, initial_sparsity=0.78)
    sparsifier = sw.create(method, model, optimizer, sparsity=0.8, total_steps=20, **options)
    total = sparsifier.masks.total()
    for step in range(20):
        optimizer.zero_grad()
        backward(model, step)
        model.conv2.weight.grad = model.fc.weight.grad = None
        optimizer.step()
        if (step + 1) % 2 == 0 and step < 10:
            x = (step + 1) / 10
            assert sparsifier.masks.kept() == budget(0.8 - 0.02 * (1 - x) ** 3, total), step
    assert sparsifier.masks.kept() == budget(0.8, total)
