"""Level 2: fractions, target densities and event steps as functions of the step, and the deviations that we choose."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from sparsewright.schedule import CubicRamp, DropFraction, UpdateTimes
from sparsewright.sharing import LayerShares

from .traces import GMP, GRANET, ITOP, RAMPED, RPG, SWAPPING, Trace, load, new_sparsifier, replay

EXACT = 1e-12  # room for another order of the same float64 operations


def first_due(trace: Trace, step: int) -> int:
    """The first multiple of the interval that is not before a step."""
    return -(-step // trace.interval) * trace.interval


def updates_of(golden: Path, name: str) -> set[int]:
    """Completed steps after which the sparsifier changed its topology."""
    return {index + 1 for index, updated in enumerate(replay(golden, name).updated) if updated}


def events_of(trace: Trace) -> set[int]:
    """Completed steps after which the original changed its topology."""
    return {step + 1 for step in trace.event_steps}


# Drop fraction.


@pytest.mark.parametrize("name", SWAPPING)
def test_drop_fraction_at_every_step(golden: Path, name: str) -> None:
    trace = load(golden, name)
    drop = trace.meta["drop"]
    pure = DropFraction(drop["fraction_at_start"], drop["fraction_min"], drop["cosine_period_steps"])
    sparsifier = new_sparsifier(trace)
    expected = trace.arrays["drop_fraction"].tolist()
    assert [pure.at(step) for step in range(1, trace.steps + 1)] == pytest.approx(expected, rel=0, abs=EXACT)
    assert [sparsifier.drop_fraction(step) for step in range(1, trace.steps + 1)] == pytest.approx(
        expected, rel=0, abs=EXACT
    )


@pytest.mark.parametrize("name", RPG)
def test_drop_fraction_of_rpg_at_every_update(golden: Path, name: str) -> None:
    trace = load(golden, name)
    stop = trace.schedule["stop_topology_step"]
    sparsifier = new_sparsifier(trace, update_end=stop)
    pure = DropFraction(trace.meta["drop"]["fraction_at_start"], 0.0, stop)
    steps = [step + 1 for step in trace.arrays["update_steps"].tolist()]
    expected = trace.arrays["update_drop_fraction"].tolist()
    assert [pure.at(step) for step in steps] == pytest.approx(expected, rel=0, abs=EXACT)
    assert [sparsifier.drop_fraction(step) for step in steps] == pytest.approx(expected, rel=0, abs=EXACT)
    assert sparsifier.drop_fraction(stop) == pytest.approx(0.0, abs=EXACT)


# Target density.


@pytest.mark.parametrize("name", [name for name in RAMPED if "uniform" not in name])
def test_target_density_at_every_event(golden: Path, name: str) -> None:
    trace = load(golden, name)
    schedule = trace.schedule
    sparsifier = new_sparsifier(trace)
    pure = CubicRamp(
        1 - schedule["density_at_ramp_start"],
        1 - schedule["density_at_ramp_end"],
        schedule["ramp_start_step"],
        schedule["ramp_end_step"],
        last=first_due(trace, schedule["ramp_end_step"]),
        interval=trace.interval,
    )
    steps = [step + 1 for step in trace.arrays["prune_steps"].tolist()]
    expected = trace.arrays["prune_target_density"].tolist()
    assert [1 - pure.sparsity(step) for step in steps] == pytest.approx(expected, rel=0, abs=EXACT)
    assert [1 - sparsifier.scheduled_sparsity(step) for step in steps] == pytest.approx(expected, rel=0, abs=EXACT)


@pytest.mark.parametrize("name", [name for name in RAMPED if "uniform" in name])
def test_layer_densities_at_every_event_of_a_uniform_ramp(golden: Path, name: str) -> None:
    trace = load(golden, name)
    sparsifier = new_sparsifier(trace)
    parameters: dict[str, nn.Parameter] = sparsifier.parameters
    shares = LayerShares(parameters, sparsifier.options, sparsifier.target_sparsity)
    *others, last = trace.layers
    steps = [step + 1 for step in trace.arrays["prune_steps"].tolist()]
    sparsities = [sparsifier.scheduled_sparsity(step) for step in steps]
    assert min(sparsities) < 0.8 < max(sparsities)
    for sparsity, expected in zip(sparsities, trace.arrays["prune_layer_density_except_last"].tolist(), strict=True):
        densities = shares.densities(sparsity, "uniform")
        assert [densities[name] for name in others] == pytest.approx([expected] * len(others), rel=0, abs=EXACT)
        assert densities[last] == pytest.approx(0.2 if sparsity >= 0.8 else expected, rel=0, abs=EXACT)


@pytest.mark.parametrize("name", RAMPED)
def test_the_ramp_includes_its_end_point(golden: Path, name: str) -> None:
    trace = load(golden, name)
    sparsifier = new_sparsifier(trace)
    end = first_due(trace, trace.schedule["ramp_end_step"])
    assert [sparsifier.scheduled_sparsity(step) for step in (end, trace.steps)] == [sparsifier.target_sparsity] * 2


# Event steps.


@pytest.mark.parametrize("name", GMP)
def test_pruning_steps_of_gmp(golden: Path, name: str) -> None:
    trace = load(golden, name)
    ours, theirs = updates_of(golden, name), events_of(trace)
    # Our ramp goes on to its end point, where the original stops one or two events earlier.
    assert {step for step in ours if step <= max(theirs)} == theirs
    assert ours - theirs == set(
        range(max(theirs) + trace.interval, first_due(trace, trace.schedule["ramp_end_step"]) + 1, trace.interval)
    )


@pytest.mark.parametrize("name", GRANET)
def test_exchange_steps_of_granet(golden: Path, name: str) -> None:
    trace = load(golden, name)
    # Nothing grows at the very last step, where it could not train any more.
    assert updates_of(golden, name) == events_of(trace) - {trace.steps}


@pytest.mark.parametrize("name", ITOP)
def test_exchange_steps_of_rigl_itop(golden: Path, name: str) -> None:
    trace = load(golden, name)
    assert trace.steps in events_of(trace)
    assert updates_of(golden, name) == events_of(trace) - {trace.steps}


@pytest.mark.parametrize("name", RPG)
def test_update_steps_of_rpg_and_steps_of_the_optimizer(golden: Path, name: str) -> None:
    trace = load(golden, name)
    assert updates_of(golden, name) == events_of(trace)
    assert replay(golden, name).moved == trace.arrays["optimizer_stepped"].tolist()


@pytest.mark.parametrize("name", SWAPPING)
def test_update_times_are_the_multiples_of_the_interval(golden: Path, name: str) -> None:
    trace = load(golden, name)
    times = UpdateTimes(trace.interval, trace.schedule.get("ramp_start_step", 0), trace.steps)
    assert {step for step in range(trace.steps + 1) if times.due(step)} == events_of(trace)


# Start masks.


@pytest.mark.parametrize("name", [*ITOP, *RPG, *GRANET])
def test_own_start_masks_have_the_exact_count(golden: Path, name: str) -> None:
    trace = load(golden, name)
    sparsifier = new_sparsifier(trace)
    start = 1 - trace.schedule["density_at_ramp_start"] if name in GRANET else sparsifier.target_sparsity
    assert sparsifier.masks.kept() == round((1 - start) * sparsifier.masks.total())


@pytest.mark.parametrize("name", RPG)
def test_own_start_counts_are_within_one_weight_of_rpg(golden: Path, name: str) -> None:
    trace = load(golden, name)
    sparsifier = new_sparsifier(trace)
    for layer, mask in trace.mask(-1).items():
        assert abs(int(sparsifier.masks[layer].count_nonzero()) - int(mask.count_nonzero())) <= 1


@pytest.mark.parametrize("name", GMP)
def test_gmp_starts_dense(golden: Path, name: str) -> None:
    trace = load(golden, name)
    assert new_sparsifier(trace).sparsity() == 0
    assert new_sparsifier(trace, initial_sparsity=0.5).sparsity() == 0
