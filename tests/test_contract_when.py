"""The public contract of the dynamic methods: when the topology is updated, and what happens to that step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer
from toys import (
    CONSTANT,
    DENSE_START,
    DYNAMIC,
    GROWING,
    RAMPS,
    OddNet,
    backward,
    budget,
    changed,
    copies,
    moment,
    one_layer,
    options_of,
    random_gradients,
    stack,
    train,
    weights_of,
)

import sparsewright as sw

# When.


@pytest.mark.parametrize("uniform", [False, True], ids=["global", "uniform"])
@pytest.mark.parametrize("family", ["gmp", "granet"])
@pytest.mark.parametrize(
    ("total", "interval", "start", "end", "update_end"),
    [
        (40, 5, 0, 0.5, 1.0),
        (40, 5, 0, 20, 40),
        (40, 5, 7, 23, 1.0),
        (40, 4, 0.25, 0.8, 1.0),
        (40, 4, 10, 30, 1.0),
        (37, 6, 0, 0.5, 1.0),
        (40, 7, 0.1, 1.0, 1.0),
        (40, 10, 0, 1.0, 1.0),
        (40, 4, 0, 30, 18),
        (40, 4, 3, 0.9, 0.5),
        (40, 10, 10, 19, 1.0),
        (40, 10, 10, 10, 1.0),
        (40, 1, 0, 0.29, 1.0),
        (100, 3, 0, 0.29, 0.29),
    ],
)
def test_ramp_formulas(
    family: str, uniform: bool, total: int, interval: int, start: float, end: float, update_end: float
) -> None:
    model = stack({"a": (31, 40), "b": (40, 50), "c": (8, 9, 3, 3)})
    weights = sum(parameter.numel() for parameter in model.parameters())
    optimizer = SGD(model.parameters(), lr=0.01)
    sparsity, initial = 0.9, 0.2
    sparsifier = sw.create(
        f"{family}-uniform" if uniform else family,
        model,
        optimizer,
        sparsity=sparsity,
        total_steps=total,
        last_layer_density=None,
        update_interval=interval,
        prune_start=start,
        prune_end=end,
        update_end=update_end,
        initial_sparsity=initial,
    )
    first, last, frozen = moment(start, total), moment(end, total), moment(update_end, total)
    due = [c for c in range(1, total + 1) if c % interval == 0 and first <= c <= frozen]
    complete = next((c for c in due if c >= last), due[-1])
    kept = weights if family == "gmp" else budget(initial, weights)
    assert sparsifier.masks.kept() == kept
    for c in range(1, total + 1):
        random_gradients(model, c)
        optimizer.step()
        if c in due:
            if uniform:
                x = (c - first) / (last - first) if last > first else 1.0
            else:
                span = last // interval - first // interval
                x = (c // interval - first // interval) / span if span else 0.0
            x = 1.0 if c >= complete else min(max(x, 0.0), 1.0)
            kept = min(budget(sparsity + (initial - sparsity) * (1 - x) ** 3, weights), weights)
        assert sparsifier.masks.kept() == kept, c
        if family == "gmp":
            assert sparsifier.finished == (c >= complete)
    assert kept == budget(sparsity, weights)


@pytest.mark.parametrize(
    "options",
    [
        {"total_steps": 1500, "update_interval": 1000, "prune_end": 0.5},
        {"total_steps": 100, "update_interval": 10, "prune_start": 11, "prune_end": 19},
        {"total_steps": 100, "update_interval": 10, "update_end": 9},
        {"total_steps": 100, "update_interval": 10, "prune_start": 50, "prune_end": 60, "update_end": 40},
        {"total_steps": 100, "update_interval": 10, "prune_end": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("method", DENSE_START)
def test_a_schedule_without_an_update_in_the_pruning_window_is_refused(method: str, options: dict[str, Any]) -> None:
    model, _ = one_layer()
    with pytest.raises(ValueError, match="update_interval"):
        sw.create(method, model, SGD(model.parameters()), sparsity=0.5, last_layer_density=None, **options)


@pytest.mark.parametrize("method", CONSTANT)
def test_a_schedule_without_any_update_is_refused(method: str) -> None:
    model, _ = one_layer()
    with pytest.raises(ValueError, match="update_interval"):
        sw.create(method, model, SGD(model.parameters()), sparsity=0.5, total_steps=50, update_interval=51)


@pytest.mark.parametrize("update_end", [0.5, 20], ids=["fraction", "steps"])
@pytest.mark.parametrize("method", [*CONSTANT, "granet"])
def test_updates_come_at_multiples_and_update_end_is_inclusive(method: str, update_end: float) -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = options_of(method, update_interval=5, update_end=update_end, min_drop_fraction=0.2, prune_end=5)
    sparsifier = sw.create(method, model, optimizer, sparsity=0.5, total_steps=40, **options)
    moved = []
    for step in range(40):
        before, version = copies(sparsifier), sparsifier.topology_version
        train(model, optimizer, [step])
        if changed(before, sparsifier):
            moved.append(sparsifier.step_count)
            assert sparsifier.topology_version > version
    assert moved == [5, 10, 15, 20]
    assert sparsifier.finished


def test_a_moment_is_a_fraction_as_float_and_steps_as_int() -> None:
    settings = []
    for update_end, prune_start, prune_end in [(0.9, 0.1, 0.5), (36, 4, 20)]:
        model, _ = one_layer()
        optimizer = SGD(model.parameters(), lr=0.1)
        moments_ = {"update_end": update_end, "prune_start": prune_start, "prune_end": prune_end}
        sparsifier = sw.GraNet(model, optimizer, sparsity=0.8, total_steps=40, update_interval=4, **moments_)
        for step in range(40):
            random_gradients(model, step)
            optimizer.step()
        settings.append(sparsifier.masks["layer.weight"].clone())
    assert torch.equal(settings[0], settings[1])
    model, _ = one_layer()
    with pytest.raises(ValueError, match="update_interval"):
        sw.GraNet(model, SGD(model.parameters()), sparsity=0.8, total_steps=40, update_interval=4, prune_end=1)


@pytest.mark.parametrize("method", GROWING)
def test_nothing_grows_at_step_total_steps(method: str) -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = options_of(
        method, update_interval=4, update_end=1.0, prune_end=1.0, min_drop_fraction=0.3, update_replaces_step=False
    )
    sparsifier = sw.create(method, model, optimizer, sparsity=0.7, total_steps=20, **options)
    train(model, optimizer, range(16))
    moved = copies(sparsifier)
    train(model, optimizer, range(16, 19))
    assert not changed(moved, sparsifier)
    train(model, optimizer, range(19, 20))
    for name, mask in sparsifier.masks.items():
        assert not (mask & ~moved[name]).any(), name
    assert changed(moved, sparsifier) == (method in DENSE_START)
    assert sparsifier.masks.kept() == budget(0.7, sparsifier.masks.total())
    assert sparsifier.finished


# update_replaces_step.


@pytest.mark.parametrize("name", ["momentum", "adam"])
@pytest.mark.parametrize("method", ["rigl", "granet", "gmp", "snfs"])
def test_update_replaces_step(method: str, name: str) -> None:
    model = OddNet()
    makers: dict[str, Callable[..., Optimizer]] = {"momentum": SGD, "adam": AdamW}
    extra = {"momentum": 0.9} if name == "momentum" else {}
    optimizer = makers[name](model.parameters(), lr=0.05, weight_decay=0.01, **extra)
    options = options_of(method, update_interval=3, prune_end=0.75, update_end=0.75, update_replaces_step=True)
    sparsifier = sw.create(method, model, optimizer, sparsity=0.6, total_steps=20, **options)
    for step in range(20):
        before, masks = weights_of(model), copies(sparsifier)
        state = copy.deepcopy(optimizer.state_dict()["state"])
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        assert sparsifier.step_count == step + 1
        update = (step + 1) % 3 == 0 and step + 1 <= 15
        assert all((parameter.grad is None) == update for parameter in model.parameters()), step
        for label, parameter in model.named_parameters():
            mask = masks[label] & sparsifier.masks[label] if label in masks else torch.ones_like(parameter) > 0
            # A weight that the ramp pruned and the event regrew is kept throughout, and 0.
            mask &= parameter != 0
            assert torch.equal(parameter[mask], before[label][mask]) == update, (step, label)
        if update and name == "adam":
            steps = [entry["step"].item() for entry in optimizer.state_dict()["state"].values()]
            assert steps == [entry["step"].item() for entry in state.values()]


class Restless(SGD):
    """Decays every weight, gradient or not."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.mul_(0.99)
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=group["lr"])


def test_optimizers_that_move_without_gradients_are_refused_with_update_replaces_step() -> None:
    model = OddNet()
    optimizer = Restless(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"Restless.*update_replaces_step"):
        sw.RigL(model, optimizer, sparsity=0.5, total_steps=20, update_interval=2)
    sparsifier = sw.RigL(model, optimizer, sparsity=0.5, total_steps=20, update_interval=2, update_replaces_step=False)
    train(model, optimizer, range(4))
    assert sparsifier.step_count == 4


def test_update_replaces_step_with_several_optimizers() -> None:
    model = OddNet()
    groups = [[p for p in model.parameters() if p.dim() > 2], [p for p in model.parameters() if p.dim() <= 2]]
    optimizers = [SGD(groups[0], lr=0.1, momentum=0.9), AdamW(groups[1], lr=0.1)]
    sparsifier = sw.RigL(model, optimizers, sparsity=0.5, total_steps=20, update_interval=2)
    for step in range(6):
        before = weights_of(model)
        model.zero_grad()
        backward(model, step)
        for optimizer in optimizers:
            optimizer.step()
        update = (step + 1) % 2 == 0
        assert all((parameter.grad is None) == update for parameter in model.parameters())
        assert torch.equal(model.fc.bias, before["fc.bias"]) == update
    assert sparsifier.step_count == 6


# Updates on demand.


@pytest.mark.parametrize("method", DYNAMIC)
@pytest.mark.parametrize("step", [0, 3, 7, 12, 17, 20])
def test_update_topology_at_any_step(method: str, step: int) -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = options_of(method, update_interval=4, initial_sparsity=0.3, prune_end=10, update_end=16)
    sparsifier = sw.create(method, model, optimizer, sparsity=0.7, total_steps=20, **options)
    train(model, optimizer, range(step))
    optimizer.zero_grad()
    backward(model, step)
    before, version = copies(sparsifier), sparsifier.topology_version
    sparsifier.update_topology()
    total = sparsifier.masks.total()
    if method in RAMPS:
        x = min(step / 10 if method.endswith("uniform") else (step // 4) / 2, 1.0)
        assert sparsifier.masks.kept() == budget(0.7 + (0.3 - 0.7) * (1 - x) ** 3, total)
    elif method == "rpg":
        x = max(step // 4 - 1, 0) / 2
        assert sparsifier.masks.kept() == budget(1 - 0.3 ** min(x, 1.0), total)
    else:
        assert sparsifier.masks.kept() == budget(0.7, total)
    assert sparsifier.step_count == step
    if method in GROWING and step < 16 and sparsifier.sparsity() > 0:
        assert changed(before, sparsifier)
        assert sparsifier.topology_version > version
    if step == 20:
        assert all(not (mask & ~before[name]).any() for name, mask in sparsifier.masks.items())
    for name, mask in sparsifier.masks.items():
        assert not model.get_parameter(name)[~mask].any()


@pytest.mark.parametrize("method", GROWING)
def test_update_topology_needs_gradients(method: str) -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sw.create(
        method, model, optimizer, sparsity=0.7, total_steps=20, **options_of(method, update_interval=4)
    )
    with pytest.raises(ValueError, match="gradient"):
        sparsifier.update_topology()
