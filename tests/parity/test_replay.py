"""Level 3: whole traces through the public API, gradient by gradient, from the traces' start masks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from .traces import TRACES, Replay, Trace, load, replay

OVERLAP = 0.90
WEIGHT = 1e-4  # of the tensor's maximum


def compared_steps(trace: Trace) -> range:
    """Iterations up to the last due update before the ramp's end, and on until the next; all of them without a ramp."""
    end = trace.schedule.get("ramp_end_step")
    return range(trace.steps if end is None else -(-end // trace.interval) * trace.interval - 1)


def events_so_far(trace: Trace, step: int) -> int:
    return sum(event <= step for event in trace.event_steps)


def overlap(trace: Trace, ours: Replay, step: int) -> float:
    """Intersection over union of the kept sets of all layers together."""
    both = either = 0
    for name, mask in trace.mask(step).items():
        both += int((mask & ours.masks[step][name]).count_nonzero())
        either += int((mask | ours.masks[step][name]).count_nonzero())
    return both / either


def relative_error(trace: Trace, ours: Replay, step: int, name: str) -> torch.Tensor:
    """Difference of each weight, as a fraction of the tensor's maximum."""
    expected = trace.weight(step)[name]
    return (ours.weights[step][name] - expected).abs() / expected.abs().max()


@pytest.mark.parametrize("name", TRACES)
def test_kept_sets_overlap(golden: Path, name: str) -> None:
    trace, ours = load(golden, name), replay(golden, name)
    overlaps = {step: overlap(trace, ours, step) for step in compared_steps(trace)}
    worst = min(overlaps, key=overlaps.__getitem__)
    assert overlaps[worst] >= OVERLAP, f"step {worst}"


@pytest.mark.parametrize("name", TRACES)
def test_layer_counts_differ_by_at_most_one_weight_per_event(golden: Path, name: str) -> None:
    trace, ours = load(golden, name), replay(golden, name)
    for step in compared_steps(trace):
        for layer, mask in trace.mask(step).items():
            difference = int(ours.masks[step][layer].count_nonzero()) - int(mask.count_nonzero())
            assert abs(difference) <= events_so_far(trace, step), f"{layer} in step {step}"


@pytest.mark.parametrize("name", TRACES)
def test_weights_agree_where_a_layer_keeps_the_same_set(golden: Path, name: str) -> None:
    trace, ours = load(golden, name), replay(golden, name)
    agreeing = 0
    for step in range(trace.steps):
        for layer, mask in trace.mask(step).items():
            if torch.equal(mask, ours.masks[step][layer]):
                agreeing += 1
                assert relative_error(trace, ours, step, layer).max() <= WEIGHT, f"{layer} in step {step}"
    # Before the first event all layers agree, so that the assertion above cannot be empty.
    assert agreeing >= min(trace.event_steps) * len(trace.layers)


@pytest.mark.parametrize("name", TRACES)
def test_commonly_kept_weights_agree_but_for_one_per_event(golden: Path, name: str) -> None:
    """A weight more or less at one event may be regrown with another history; all others are the same."""
    trace, ours = load(golden, name), replay(golden, name)
    for step in compared_steps(trace):
        differing = 0
        for layer, mask in trace.mask(step).items():
            both = mask & ours.masks[step][layer]
            differing += int((relative_error(trace, ours, step, layer)[both] > WEIGHT).count_nonzero())
        assert differing <= events_so_far(trace, step), f"step {step}"


@pytest.mark.parametrize("name", TRACES)
def test_biases_agree_throughout(golden: Path, name: str) -> None:
    trace, ours = load(golden, name), replay(golden, name)
    biases = [key for key in trace.parameters if key not in trace.layers]
    assert biases
    for step in range(trace.steps):
        for key in biases:
            assert relative_error(trace, ours, step, key).max() <= WEIGHT, f"{key} in step {step}"


@pytest.mark.parametrize("name", TRACES)
def test_masked_weights_are_zero_after_every_step(golden: Path, name: str) -> None:
    trace, ours = load(golden, name), replay(golden, name)
    for step in range(trace.steps):
        for layer, mask in ours.masks[step].items():
            assert not ours.weights[step][layer][~mask].any(), f"{layer} in step {step}"
