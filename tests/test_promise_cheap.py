"""Promise 5: a step costs little more than a dense one. Counted in operations and bytes; times are in benchmarks/."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import sparsewright as sw
from sparsewright.training.layer_log import LINES, LayerRecorder, read_layer_log

STEPS = 20
METHODS = sorted(info.name for info in sw.list_methods() if not info.cls.prunes_at_end)


class Recorder(TorchDispatchMode):
    """Counts the operators that run and the bytes of the tensors that they allocate."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operators += 1
        fresh = isinstance(result, torch.Tensor) and not any(
            isinstance(arg, torch.Tensor) and arg.untyped_storage().data_ptr() == result.untyped_storage().data_ptr()
            for arg in args
        )
        if fresh:
            self.largest = max(self.largest, result.untyped_storage().nbytes())
        return result


def make(method: str | None, optimizer: str = "momentum") -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 8))
    if optimizer == "adam":
        made: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    else:
        momentum = 0.9 if optimizer == "momentum" else 0.0
        made = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum, foreach=False)
    options = {"update_interval": 5} if method in dynamic_methods() else {}
    sparsifier = sw.create(method, model, made, sparsity=0.9, total_steps=STEPS, **options) if method else None
    return model, made, sparsifier


def dynamic_methods() -> list[str]:
    return [info.name for info in sw.list_methods() if issubclass(info.cls, sw.DynamicSparsifier)]


def backward(model: nn.Module) -> None:
    model(torch.randn(16, 64)).square().mean().backward()


def ordinary_step(method: str | None, optimizer: str = "momentum") -> Recorder:
    """Record the third step, on which no update is due."""
    model, made, _ = make(method, optimizer)
    for _ in range(2):
        backward(model)
        made.step()
    backward(model)
    with Recorder() as recorder:
        made.step()
    return recorder


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
@pytest.mark.parametrize("method", METHODS)
def test_promise_5_an_ordinary_step_adds_a_few_operators_per_layer(method: str, optimizer: str) -> None:
    added = ordinary_step(method, optimizer).operators - ordinary_step(None, optimizer).operators
    layers, masked_tensors = 3, 2 if optimizer == "momentum" else 3
    assert 0 < added <= 4 * layers * masked_tensors


@pytest.mark.parametrize("method", METHODS)
def test_promise_5_an_ordinary_step_copies_no_weights(method: str) -> None:
    largest_layer = 128 * 64 * 4
    assert ordinary_step(method).largest < largest_layer


@pytest.mark.parametrize("method", METHODS)
def test_promise_5_masks_cost_one_byte_a_weight_and_nothing_else_is_kept(method: str) -> None:
    model, made, sparsifier = make(method)
    for _ in range(STEPS):
        backward(model)
        made.step()
        made.zero_grad()
    weights = sum(parameter.numel() for parameter in sparsifier.parameters.values())
    assert kept_bytes(sparsifier) == weights


def test_promise_5_only_momentum_growth_without_a_momentum_keeps_four_bytes_more() -> None:
    _, _, sparsifier = make("snfs", optimizer="plain")
    weights = sum(parameter.numel() for parameter in sparsifier.parameters.values())
    assert kept_bytes(sparsifier) == 5 * weights


@pytest.mark.parametrize("granularity", ["weight", "filter"])
@pytest.mark.parametrize("method", ["greg-1", "greg-2"])
def test_promise_5_a_growing_penalty_is_one_operator_a_layer_and_keeps_what_its_card_says(
    method: str, granularity: str
) -> None:
    steps = []
    for options in (None, {"granularity": granularity, "reg_interval": 5}):
        model, made, _ = make(None)
        sparsifier: Any = sw.create(method, model, made, sparsity={"*": 0.5}, **options) if options else None
        backward(model)
        made.step()
        backward(model)
        with Recorder() as recorder:
            made.step()
        steps.append(recorder)
    layers, largest_layer = 3, 128 * 64 * 4
    assert steps[1].operators - steps[0].operators == layers
    assert steps[1].largest < largest_layer
    weights = sum(parameter.numel() for parameter in sparsifier.parameters.values())
    groups = weights if granularity == "weight" else 128 + 64 + 8
    # The penalty of each group, and a flag for each once they are chosen, which GReg-1's are from the start.
    assert kept_bytes(sparsifier) == groups * (5 if method == "greg-1" else 4)


@pytest.mark.parametrize("method", METHODS)
def test_promise_5_the_layer_log_does_nothing_in_steps_without_an_update(method: str, tmp_path: Path) -> None:
    model, made, sparsifier = make(method)
    log = LayerRecorder(tmp_path, total_steps=STEPS)
    log.look(0, sparsifier.masks, sparsifier.topology_version)
    ordinary = 0
    for step in range(1, STEPS + 1):
        before = sparsifier.topology_version
        backward(model)
        made.step()
        made.zero_grad()
        # A wait for the device is an operator too.
        with Recorder() as recorder:
            log.look(step, sparsifier.masks, sparsifier.topology_version)
        if sparsifier.topology_version == before:
            ordinary += 1
            assert recorder.operators == 0
    assert ordinary >= STEPS // 2


@pytest.mark.parametrize("total_steps", [600, LINES, LINES + 1, 2 * LINES - 1, 5 * LINES])
def test_promise_5_the_layer_log_has_about_a_thousand_lines_at_most_whatever_the_length(
    total_steps: int, tmp_path: Path
) -> None:
    log = LayerRecorder(tmp_path, total_steps)
    mask = torch.tensor([True, False])
    for step in range(total_steps + 1):
        log.look(step, {"a": mask if step % 2 else ~mask}, version=step)
    log.flush(total_steps)
    lines = read_layer_log(tmp_path).topology
    assert min(total_steps, LINES) // 2 < len(lines) <= LINES + 2
    assert sum(line.grown[0] for line in lines) == total_steps


def kept_bytes(sparsifier: sw.Sparsifier) -> int:
    """Bytes of all tensors reachable from a sparsifier, without the model's, the optimizer's and the random state."""
    foreign = {id(parameter) for parameter in sparsifier.parameters.values()}
    seen: set[int] = set()

    def size(value: Any) -> int:
        if id(value) in seen or id(value) in foreign or isinstance(value, (torch.optim.Optimizer, nn.Module)):
            return 0
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            return value.untyped_storage().nbytes()
        if isinstance(value, dict):
            return sum(size(item) for item in value.values())
        if isinstance(value, (list, tuple, set)):
            return sum(size(item) for item in value)
        return (
            size(vars(value)) if hasattr(value, "__dict__") and type(value).__module__.startswith("sparsewright") else 0
        )

    return size(sparsifier)
