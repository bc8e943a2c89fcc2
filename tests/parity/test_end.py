"""Level 4: the sparsity reached is exact, whatever the trace reaches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from sparsewright.distribution import erdos_renyi_kernel

from .traces import ITOP, RAMPED, RPG, TRACES, Replay, Trace, load, replay


def budget(ours: Replay) -> int:
    """The number of kept weights that the library promises."""
    return round((1 - ours.sparsifier.target_sparsity) * ours.sparsifier.masks.total())


def kept_by_layer(ours: Replay) -> dict[str, int]:
    return {name: int(mask.count_nonzero()) for name, mask in ours.sparsifier.masks.items()}


def largest_remainder(ideal: Mapping[str, float], total: int) -> dict[str, int]:
    counts = {name: math.floor(value + 1e-9) for name, value in ideal.items()}
    by_remainder = sorted(ideal, key=lambda name: counts[name] - ideal[name])
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def ideal_counts(trace: Trace, ours: Replay) -> dict[str, float]:
    """Kept weights per layer before rounding, for the layer-wise distributions."""
    sizes = trace.sizes
    *others, last = trace.layers
    if trace.uniform:
        kept_last = 0.2 * sizes[last]
        density = (trace.schedule["density_at_ramp_end"] * sum(sizes.values()) - kept_last) / (
            sum(sizes.values()) - sizes[last]
        )
        return {**{name: density * sizes[name] for name in others}, last: kept_last}
    if trace.name == "rpg_uniform":
        return {name: (1 - sparsity) * sizes[name] for name, sparsity in trace.meta["layer_sparsity_at_start"].items()}
    densities = erdos_renyi_kernel(trace.shapes, trace.schedule["density"])
    return {name: density * sizes[name] for name, density in densities.items()}


@pytest.mark.parametrize("name", TRACES)
def test_end_is_exact_from_own_start_masks(golden: Path, name: str) -> None:
    ours = replay(golden, name, own_start_masks=True)
    assert ours.sparsifier.masks.kept() == budget(ours)


@pytest.mark.parametrize("name", RAMPED)
def test_end_of_a_ramp_is_exact_from_the_start_masks_of_the_trace(golden: Path, name: str) -> None:
    ours = replay(golden, name)
    assert ours.sparsifier.masks.kept() == budget(ours)


@pytest.mark.parametrize("name", [*ITOP, *RPG])
def test_constant_sparsity_keeps_the_written_counts(golden: Path, name: str) -> None:
    trace, ours = load(golden, name), replay(golden, name)
    assert kept_by_layer(ours) == {layer: int(mask.count_nonzero()) for layer, mask in trace.mask(-1).items()}


@pytest.mark.parametrize("name", [*(name for name in RAMPED if "uniform" in name), *ITOP, *RPG])
def test_end_is_exact_in_every_layer(golden: Path, name: str) -> None:
    trace, ours = load(golden, name), replay(golden, name, own_start_masks=True)
    assert kept_by_layer(ours) == largest_remainder(ideal_counts(trace, ours), budget(ours))


@pytest.mark.parametrize("name", TRACES)
def test_finalized_model_has_the_zeros_of_the_masks(golden: Path, name: str) -> None:
    ours = replay(golden, name, own_start_masks=True)
    assert ours.sparsifier.finished
    parameters = dict(ours.model.named_parameters())
    for layer, mask in ours.sparsifier.masks.items():
        assert not parameters[layer][~mask].any()
        assert parameters[layer][mask].all()


@pytest.mark.parametrize("name", RAMPED)
def test_counts_stay_exact_once_the_ramp_has_ended(golden: Path, name: str) -> None:
    trace, ours = load(golden, name), replay(golden, name)
    last = -(-trace.schedule["ramp_end_step"] // trace.interval) * trace.interval
    for step in range(last - 1, trace.steps):
        assert sum(int(mask.count_nonzero()) for mask in ours.masks[step].values()) == budget(ours), f"step {step}"
