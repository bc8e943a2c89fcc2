"""GReg-1 and GReg-2 against their traces, on the four levels: rules, schedules, replay, and the end."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sparsewright as sw
from sparsewright.groups import find_groupings, number_removed, ratio_apart
from sparsewright.growing_penalty import updated_average

from .traces import Trace, backward, build_model, build_optimizer, load

TRACES = ("greg1_weight", "greg1_filter", "greg1_channel", "greg2_weight", "greg2_filter", "greg2_channel")
STRUCTURED = tuple(name for name in TRACES if not name.endswith("weight"))
TOLERANCE = 1e-5  # of the tensor's maximum
PENALTY_TOLERANCE = 1e-6


def weights_before(trace: Trace, step: int, layer: str) -> Tensor:
    return trace.arrays[f"weight/{layer}.weight"][step - 1] if step else trace.arrays[f"init/{layer}.weight"]


def recorded_penalty(trace: Trace, step: int, layer: str) -> Tensor:
    """The penalty of a step in the weight's shape; the trace has (out, in) for groups and flat entries for weights."""
    shape = trace.arrays[f"init/{layer}.weight"].shape
    reg = trace.arrays[f"reg/{layer}"][step]
    return reg.reshape(shape) if reg.dim() == 1 else reg.reshape(*reg.shape, *[1] * (len(shape) - 2)).expand(shape)


def layers_of(trace: Trace) -> list[str]:
    return trace.meta["layers"]


def granularity(trace: Trace) -> str:
    return trace.meta["group"]


def attach(trace: Trace, model: nn.Module, optimizer: torch.optim.Optimizer) -> sw.GReg1 | sw.GReg2:
    meta = trace.meta
    options = {
        "sparsity": {f"{name}.weight": ratio for name, ratio in meta["fraction_pruned_per_layer"].items()},
        "granularity": granularity(trace),
        "reg_step": meta["reg_increment_push"],
        "reg_interval": meta["update_interval_steps"],
        "reg_limit": meta["reg_ceiling"],
        "magnitude_ratio_limit": meta["magnitude_ratio_ceiling"],
        "stabilize_steps": meta["stabilize_steps"],
    }
    if meta["method"] == "GReg-1":
        return sw.GReg1(model, optimizer, **options)
    return sw.GReg2(
        model,
        optimizer,
        pick_step=meta["reg_increment_pick"],
        pick_limit=meta["reg_ceiling_pick"],
        recover_penalty=meta["reg_value_kept"],
        **options,
    )


def later_stop(trace: Trace) -> int | None:
    """The step in which the original pushes a layer once more, as it tests later layers by their former averages.

    Chosen otherwise in section 7 of the traces' README: here the current averages of all layers count.
    """
    stops = {trace.meta["events"]["step_finished_pushing"][layer] for layer in layers_of(trace)} - {0}
    if trace.meta["method"] == "GReg-2" or len(stops) == 1:
        return None
    return max(stops)


@dataclass
class Replay:
    """What a sparsifier did with a trace's gradients; lists are indexed by step."""

    sparsifier: sw.GReg1 | sw.GReg2
    model: nn.Module
    penalties: list[dict[str, Tensor]] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    phases: list[dict[str, str]] = field(default_factory=list)
    phase: list[str] = field(default_factory=list)
    finished: list[bool] = field(default_factory=list)
    averages: list[dict[str, float | None]] = field(default_factory=list)


@cache
def replay(folder: Path, name: str) -> Replay:
    trace = load(folder, name)
    model = build_model(trace)
    optimizer = build_optimizer(trace, model)
    result = Replay(attach(trace, model, optimizer), model)
    for step in range(trace.steps):
        backward(trace, model, step)
        optimizer.step()
        result.penalties.append({key: value.clone() for key, value in result.sparsifier.penalties.items()})
        result.weights.append({key: value.detach().clone() for key, value in model.named_parameters()})
        result.phases.append(dict(result.sparsifier.layer_phases))
        result.phase.append(result.sparsifier.phase)
        result.finished.append(result.sparsifier.finished)
        result.averages.append({key: layer.average for key, layer in result.sparsifier._layers.items()})
    result.sparsifier.finalize()
    return result


@pytest.mark.parametrize("name", TRACES)
def test_the_choice_from_the_recorded_weights(golden: Path, name: str) -> None:
    trace = load(golden, name)
    model = build_model(trace)
    parameters = {f"{layer}.weight": model.get_parameter(f"{layer}.weight") for layer in layers_of(trace)}
    groupings = find_groupings(model, parameters, granularity(trace))  # type: ignore[arg-type]
    for layer in layers_of(trace):
        grouping = groupings[f"{layer}.weight"]
        ratio = trace.meta["fraction_pruned_per_layer"][layer]
        number = number_removed(ratio, grouping.count) if ratio else 0
        picked_at = (trace.meta["events"]["step_finished_picking"] or {}).get(layer, 0)
        for step, recorded in ((0, "l1_groups_at_start"), (picked_at, "pruned_groups")):
            if f"{recorded}/{layer}" not in trace.arrays:
                assert granularity(trace) == "weight", "only the traces of single weights lack the choice at the start"
                continue
            expected = trace.arrays[f"{recorded}/{layer}"].long()
            assert len(expected) == number
            if number:
                removed = grouping.smallest(weights_before(trace, step, layer), number)
                assert torch.equal(grouping.indices(removed), expected), f"{layer}, {recorded}"


@pytest.mark.parametrize("name", STRUCTURED)
def test_every_average_of_the_ratio_of_magnitudes_from_the_recorded_weights(golden: Path, name: str) -> None:
    trace = load(golden, name)
    model = build_model(trace)
    interval, events = trace.meta["update_interval_steps"], trace.meta["events"]
    parameters = {f"{layer}.weight": model.get_parameter(f"{layer}.weight") for layer in layers_of(trace)}
    groupings = find_groupings(model, parameters, granularity(trace))  # type: ignore[arg-type]
    for layer in layers_of(trace):
        recorded = trace.arrays[f"mag_ratio_avg/{layer}"].tolist()
        grouping, ratio = groupings[f"{layer}.weight"], trace.meta["fraction_pruned_per_layer"][layer]
        if not ratio:
            assert all(math.isnan(value) for value in recorded)
            continue
        number = number_removed(ratio, grouping.count)
        average = None
        for step in range(0, events["step_finished_pushing"][layer] + 1, interval):
            weight = weights_before(trace, step, layer)
            chosen_at = (
                0 if events["step_finished_picking"] is None else min(step, events["step_finished_picking"][layer])
            )
            removed = grouping.smallest(weights_before(trace, chosen_at, layer), number)
            apart = ratio_apart(*grouping.mean_magnitudes(weight, removed, number))
            average = updated_average(average, float(apart))
            assert average == pytest.approx(recorded[step], rel=1e-4), f"{layer} at {step}"


@pytest.mark.parametrize("name", TRACES)
def test_every_step_from_the_recorded_state_with_the_recorded_penalty(golden: Path, name: str) -> None:
    trace = load(golden, name)
    model = build_model(trace)
    optimizer = build_optimizer(trace, model)
    sparsifier = attach(trace, model, optimizer)
    parameters = dict(model.named_parameters())
    for step in range(trace.steps):
        momentum = trace.momentum(step - 1) if step else None
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.copy_(trace.arrays[f"weight/{key}"][step - 1] if step else trace.arrays[f"init/{key}"])
                if momentum is not None:
                    optimizer.state[parameter]["momentum_buffer"].copy_(momentum[key])
        backward(trace, model, step)
        optimizer.step()
        if step == later_stop(trace):
            break
        for layer in layers_of(trace):
            theirs = recorded_penalty(trace, step, layer)
            ours = sparsifier.penalties[f"{layer}.weight"].expand(theirs.shape)
            torch.testing.assert_close(ours, theirs, atol=PENALTY_TOLERANCE, rtol=0, msg=f"{layer} in step {step}")
        if step == 0 or momentum is not None:
            for key, parameter in parameters.items():
                theirs = trace.arrays[f"weight/{key}"][step]
                error = (parameter.detach() - theirs).abs().max() / theirs.abs().max()
                assert error <= TOLERANCE, f"{key} in step {step}"


@pytest.mark.parametrize("name", TRACES)
def test_the_phases_change_when_the_original_s_do(golden: Path, name: str) -> None:
    trace = load(golden, name)
    ours, events = replay(golden, name), trace.meta["events"]
    interval = trace.meta["update_interval_steps"]

    def first(layer: str, phase: str) -> int:
        return next(step for step, phases in enumerate(ours.phases) if phases[f"{layer}.weight"] == phase)

    for layer in layers_of(trace):
        assert abs(first(layer, "stabilize") - events["step_finished_pushing"][layer]) <= interval
        if events["step_finished_picking"] is not None and trace.meta["fraction_pruned_per_layer"][layer]:
            assert first(layer, "push") == events["step_finished_picking"][layer]
    assert abs(ours.phase.index("stabilize") - events["step_all_finished"]) <= interval
    assert ours.finished.count(True) <= interval + 1
    assert ours.finished[-1]
    if trace.meta["magnitude_ratio_ceiling"] == 1000.0:
        assert ours.sparsifier.total_steps == trace.steps == ours.finished.index(True) + 1


@pytest.mark.parametrize("name", TRACES)
def test_the_replay_has_the_same_penalties_and_weights(golden: Path, name: str) -> None:
    trace, ours = load(golden, name), replay(golden, name)
    for step in range(later_stop(trace) or trace.steps):
        for layer in layers_of(trace):
            theirs = recorded_penalty(trace, step, layer)
            penalty = ours.penalties[step][f"{layer}.weight"].expand(theirs.shape)
            torch.testing.assert_close(penalty, theirs, atol=PENALTY_TOLERANCE, rtol=0, msg=f"{layer}, step {step}")
            weight, recorded = ours.weights[step][f"{layer}.weight"], trace.arrays[f"weight/{layer}.weight"][step]
            assert (weight - recorded).abs().max() <= 1e-4 * recorded.abs().max(), f"{layer}, step {step}"


@pytest.mark.parametrize("name", TRACES)
def test_the_end_removes_what_the_original_removes(golden: Path, name: str) -> None:
    trace, ours = load(golden, name), replay(golden, name)
    for layer in layers_of(trace):
        name_of_weight = f"{layer}.weight"
        expected = trace.arrays[f"pruned_groups/{layer}"].long()
        assert torch.equal(ours.sparsifier.pruned_groups[name_of_weight], expected)
        mask = ours.sparsifier.masks[name_of_weight]
        weight = ours.model.get_parameter(name_of_weight).detach()
        assert torch.equal(weight != 0, mask), "weights of the traces are never 0 by themselves"
        if granularity(trace) == "weight":
            assert torch.equal(mask, trace.arrays[f"final_mask/{layer}"].bool())
        else:
            dimension = 0 if granularity(trace) == "filter" else 1
            removed = {index for index in range(mask.shape[dimension]) if not mask.select(dimension, index).any()}
            assert removed == set(expected.tolist())


class Chained(nn.Module):
    """The trace's network with a forward pass, which the recording did without."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = layers.conv1, layers.conv2, layers.conv3
        self.fc = layers.fc

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.conv1(x))))
        return self.fc(torch.relu(self.conv3(x)).mean(dim=(2, 3)))


@pytest.mark.parametrize("name", STRUCTURED)
def test_the_smaller_network_is_the_one_that_the_original_rebuilds(golden: Path, name: str) -> None:
    trace, ours = load(golden, name), replay(golden, name)
    model = Chained(build_model(trace))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(trace.arrays[f"weight/{key}"][-1])
    small = sw.shrink(model, torch.randn(2, 3, 8, 8), ours.sparsifier.pruned_groups)
    for key, parameter in small.named_parameters():
        assert torch.equal(parameter.detach(), trace.arrays[f"compact/{key}"]), key
