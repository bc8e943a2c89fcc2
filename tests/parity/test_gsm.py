"""GSM against its traces, on the four levels: rules, schedule, replay through the public API, and the end."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import sparsewright as sw
from sparsewright import topology
from sparsewright.methods.gsm import gate_gradients
from sparsewright.scores import magnitude

from .traces import Trace, backward, build_model, load

TRACES = ("gsm_mlp_nesterov", "gsm_mlp_plain", "gsm_cnn_nesterov", "gsm_cnn_plain")
TOLERANCE = 1e-5  # of the tensor's maximum
OVERLAP = 0.90


def build_optimizer(trace: Trace, model: nn.Module) -> torch.optim.SGD:
    """As the original: no weight decay on biases."""
    settings = trace.meta["optimizer"]
    groups = [
        {"params": [p], "weight_decay": settings["weight_decay_bias" if "bias" in name else "weight_decay"]}
        for name, p in model.named_parameters()
    ]
    return torch.optim.SGD(groups, **{key: settings[key] for key in ("lr", "momentum", "nesterov", "dampening")})


def before(trace: Trace, step: int) -> dict[str, torch.Tensor]:
    """All parameters as they were before a step."""
    if step == 0:
        return {name: trace.arrays[f"init/{name}"] for name in trace.parameters}
    return trace.weight(step - 1)


def gate_in_trace(trace: Trace, step: int) -> dict[str, torch.Tensor]:
    return {name: trace.arrays[f"gate/{name}"][step] for name in trace.layers}


def new_sparsifier(trace: Trace) -> tuple[nn.Module, torch.optim.SGD, sw.GSM]:
    model = build_model(trace)
    optimizer = build_optimizer(trace, model)
    return model, optimizer, sw.GSM(model, optimizer, sparsity=1 - trace.meta["density"], total_steps=trace.steps)


def overlap(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    both = sum(int((ours[name] & mask).count_nonzero()) for name, mask in theirs.items())
    return both / sum(int((ours[name] | mask).count_nonzero()) for name, mask in theirs.items())


@pytest.mark.parametrize("name", TRACES)
def test_every_gate_and_threshold_from_the_recorded_state(golden: Path, name: str) -> None:
    trace = load(golden, name)
    for step in range(trace.steps):
        weights, gradients = before(trace, step), trace.grad(step)
        gated = {layer: gradients[layer].clone() for layer in trace.layers}
        threshold = gate_gradients(weights, gated, trace.meta["num_active_per_step"])
        assert threshold == trace.arrays["gate_threshold"][step], f"step {step}"
        for layer, gate in gate_in_trace(trace, step).items():
            # The traces' gradients are never 0, so that what is left of them is the gate.
            assert torch.equal(gated[layer], gradients[layer] * gate), f"{layer} in step {step}"


@pytest.mark.parametrize("name", TRACES)
def test_every_step_from_the_recorded_state(golden: Path, name: str) -> None:
    trace = load(golden, name)
    model, optimizer, _ = new_sparsifier(trace)
    parameters = dict(model.named_parameters())
    for step in range(trace.steps):
        with torch.no_grad():
            for key, value in before(trace, step).items():
                parameters[key].copy_(value)
            for key, value in (trace.momentum(step - 1) or {}).items() if step else ():
                optimizer.state[parameters[key]]["momentum_buffer"].copy_(value)
        backward(trace, model, step)
        optimizer.step()
        for key, value in trace.weight(step).items():
            assert (parameters[key] - value).abs().max() <= TOLERANCE * value.abs().max(), f"{key} in step {step}"
        for key, value in (trace.momentum(step) or {}).items():
            momentum = optimizer.state[parameters[key]]["momentum_buffer"]
            assert (momentum - value).abs().max() <= TOLERANCE * value.abs().max(), f"momentum of {key}, step {step}"


@pytest.mark.parametrize("name", TRACES)
def test_the_final_mask_from_the_recorded_weights(golden: Path, name: str) -> None:
    trace = load(golden, name)
    theirs = {layer: trace.arrays[f"final_mask/{layer}"] for layer in trace.layers}
    last = trace.weight(trace.steps - 1)
    kept = sum(int(mask.count_nonzero()) for mask in theirs.values())
    ours = topology.prune_globally({layer: magnitude(last[layer]) for layer in theirs}, kept, minimum=0)
    assert all(torch.equal(ours[layer], mask) for layer, mask in theirs.items())


@cache
def replay(folder: Path, name: str) -> tuple[sw.GSM, dict[str, torch.Tensor], list[dict[str, torch.Tensor]]]:
    """The finalized sparsifier, the weights just before its prune, and the gate of every step."""
    trace = load(folder, name)
    model, optimizer, sparsifier = new_sparsifier(trace)
    gates = []
    for step in range(trace.steps):
        backward(trace, model, step)
        optimizer.step()
        gates.append({layer: p.grad != 0 for layer, p in sparsifier.parameters.items() if p.grad is not None})
    weights = {key: value.detach().clone() for key, value in model.named_parameters()}
    sparsifier.finalize()
    return sparsifier, weights, gates


@pytest.mark.parametrize("name", TRACES)
def test_each_step_lets_as_many_gradients_through(golden: Path, name: str) -> None:
    trace, (_, _, gates) = load(golden, name), replay(golden, name)
    for step, gate in enumerate(gates):
        assert sum(int(mask.count_nonzero()) for mask in gate.values()) == trace.meta["num_active_per_step"], step
        assert overlap(gate, gate_in_trace(trace, step)) >= OVERLAP, step


@pytest.mark.parametrize("name", TRACES)
def test_weights_after_the_last_step_agree_to_one_per_cent(golden: Path, name: str) -> None:
    trace, (_, weights, _) = load(golden, name), replay(golden, name)
    for key, expected in trace.weight(trace.steps - 1).items():
        assert (weights[key] - expected).norm() <= 0.01 * expected.norm(), key


@pytest.mark.parametrize("name", TRACES)
def test_the_end_is_exact(golden: Path, name: str) -> None:
    trace, (sparsifier, _, _) = load(golden, name), replay(golden, name)
    assert sparsifier.finished
    assert sparsifier.masks.kept() == round(trace.meta["density"] * trace.meta["num_gated_weights"])
    theirs = {layer: trace.arrays[f"final_mask/{layer}"] for layer in trace.layers}
    assert overlap(dict(sparsifier.masks), theirs) >= OVERLAP
