"""Level 1: the pure functions, on the state before each event and with the trace's counts, do what the original did."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sparsewright import growth, scores, topology
from sparsewright.distribution import erdos_renyi_kernel, uniform, with_fixed
from sparsewright.masks import zero_outside_
from sparsewright.selection import kth_largest

from .traces import ITOP, RPG, SWAPPING, TRACES, Trace, backward, build_model, build_optimizer, load

TOLERANCE = 1e-5  # of the tensor's maximum

Tensors = dict[str, Tensor]


def prune(trace: Trace, event: int, weights: Tensors, masks: Tensors) -> Tensors:
    """Gradual pruning to the number of weights that the trace keeps: in each layer, or jointly by the threshold of the
    trace, above which one weight fewer lies than the original asked for.
    """
    counts = trace.counts("prune_nonzeros_after", event)
    score = {name: scores.magnitude(weights[name]) for name in masks}
    if trace.uniform:
        return {name: topology.select_among(score[name], mask, counts[name]) for name, mask in masks.items()}
    k = int(trace.arrays["prune_num_keep"][event])
    threshold = trace.arrays["prune_threshold"][event].item()
    assert kth_largest(list(score.values()), k).item() == pytest.approx(threshold, rel=1e-5)
    active = {name: score[name].masked_fill(~mask, -torch.inf) for name, mask in masks.items()}
    return topology.prune_globally(active, sum(counts.values()), minimum=0)


def swap(
    weights: Tensors, grads: Tensors, masks: Tensors, dropped: Mapping[str, int], grown: Mapping[str, int]
) -> Tensors:
    """Drop by magnitude and grow by gradient in each layer."""
    result: Tensors = {}
    for name, mask in masks.items():
        left = topology.drop_weights(scores.magnitude(weights[name]), mask, dropped[name])
        result[name] = topology.grow_weights(growth.gradient(grads[name]), left, grown[name])
    return result


def rpg_counts(trace: Trace, event: int, masks: Tensors) -> tuple[dict[str, int], dict[str, int]]:
    """Weights dropped and grown in an update of the RPG code: K = int((1-S)n) stay, P = int((1-S)nf) of them new."""
    fraction = trace.arrays["update_drop_fraction"][event].item()
    after = trace.counts("update_nonzeros_after", event)
    dropped, grown = {}, {}
    for name, mask in masks.items():
        sparsity = trace.meta["layer_sparsity_at_start"][name]
        grown[name] = int((1 - sparsity) * mask.numel() * fraction) if sparsity > 0 else 0
        dropped[name] = int(mask.count_nonzero()) - (after[name] - grown[name])
    return dropped, grown


def mask_all(weights: Tensors, momentum: Tensors, masks: Tensors) -> None:
    for name, mask in masks.items():
        zero_outside_(weights[name], mask)
        zero_outside_(momentum[name], mask)


def apply_event(trace: Trace, step: int, weights: Tensors, momentum: Tensors) -> Tensors:
    """Do the topology update that is due after a step, if any, on weights and momentum; returns the new masks."""
    masks, grads = trace.mask(step - 1), trace.grad(step)
    if (event := trace.event("prune", step)) is not None:
        masks = prune(trace, event, weights, masks)
        mask_all(weights, momentum, masks)
    if (event := trace.event("swap", step)) is not None:
        count = trace.counts("swap_num_dropped", event)
        masks = swap(weights, grads, masks, count, count)
    if (event := trace.event("update", step)) is not None:
        masks = swap(weights, grads, masks, *rpg_counts(trace, event, masks))
    mask_all(weights, momentum, masks)
    return masks


def assert_close(actual: Tensor, expected: Tensor, what: str) -> None:
    error = float((actual - expected).abs().max())
    assert error <= TOLERANCE * float(expected.abs().max()), f"{what} differs by {error}"


@pytest.mark.parametrize("name", TRACES)
def test_each_step_gives_identical_masks_weights_and_momentum(golden: Path, name: str) -> None:
    trace = load(golden, name)
    model = build_model(trace)
    optimizer = build_optimizer(trace, model)
    weights = {key: parameter.data for key, parameter in model.named_parameters()}
    buffers: Tensors = {}
    moved = trace.arrays.get("optimizer_stepped")
    for step in range(trace.steps):
        # Every step starts from the recorded state, so that one step's error cannot hide in the next. Momentum that
        # the trace leaves out is carried on.
        for key, value in trace.weight(step - 1).items():
            weights[key].copy_(value)
        for key, value in (trace.momentum(step - 1) or {}).items():
            buffers[key].copy_(value)
        if moved is None or moved[step]:
            backward(trace, model, step)
            optimizer.step()
            buffers = {
                key: optimizer.state[parameter]["momentum_buffer"] for key, parameter in model.named_parameters()
            }
            mask_all(weights, buffers, trace.mask(step - 1))
        masks = apply_event(trace, step, weights, buffers)
        for key, mask in trace.mask(step).items():
            assert torch.equal(masks[key], mask), f"mask of {key} in step {step}"
        for key, value in trace.weight(step).items():
            assert_close(weights[key], value, f"weight {key} in step {step}")
        for key, value in (trace.momentum(step) or {}).items():
            assert_close(buffers[key], value, f"momentum of {key} in step {step}")


@pytest.mark.parametrize("name", SWAPPING)
def test_dropped_counts_are_the_ceiling_of_fraction_times_kept(golden: Path, name: str) -> None:
    trace = load(golden, name)
    for event, step in enumerate(trace.arrays["swap_steps"].tolist()):
        fraction = trace.arrays["drop_fraction"][step].item()
        kept = trace.counts("swap_nonzeros_before", event)
        dropped = {key: topology.drop_count(count, fraction, "up") for key, count in kept.items()}
        assert dropped == trace.counts("swap_num_dropped", event)


# Layer-wise densities.


def networks(golden: Path, source: str) -> dict[str, tuple[dict[str, Sequence[int]], dict[float, list[float]]]]:
    """Network -> (shapes by layer, densities of its layers by overall density)."""
    content = json.loads((golden / f"erk_densities_{source}.json").read_text())
    return {
        network: (
            {str(index): tuple(shape) for index, shape in enumerate(entry["shapes"])},
            {float(density): values for density, values in entry["densities"].items()},
        )
        for network, entry in content.items()
    }


def truncated_budget(shapes: Mapping[str, Sequence[int]], density: float, dense: set[str]) -> int:
    """Weights kept by the RPG code's ERK, which truncates each layer's share."""
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    return sum(n - int(n * (1 - density)) if name in dense else int(n * density) for name, n in sizes.items())


NETWORKS = (
    "resnet50_imagenet",
    "resnet56_cifar10",
    "vgg19_bn_cifar10",
    "lenet5",
    "lenet_300_100",
    "trace_mlp",
    "trace_cnn",
)


@pytest.mark.parametrize("source", ["granet", "rpg"])
def test_every_network_of_the_erk_files_is_compared(golden: Path, source: str) -> None:
    assert set(networks(golden, source)) == set(NETWORKS)


@pytest.mark.parametrize("network", NETWORKS)
def test_erk_densities_of_granet(golden: Path, network: str) -> None:
    shapes, by_density = networks(golden, "granet")[network]
    for density, expected in by_density.items():
        assert list(erdos_renyi_kernel(shapes, density).values()) == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
def test_erk_densities_of_rpg_at_its_truncated_budget(golden: Path, network: str) -> None:
    shapes, by_density = networks(golden, "rpg")[network]
    total = sum(math.prod(shape) for shape in shapes.values())
    for density, expected in by_density.items():
        dense = {name for name, value in zip(shapes, expected, strict=True) if value == 1}
        reached = truncated_budget(shapes, density, dense) / total
        assert list(erdos_renyi_kernel(shapes, reached).values()) == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
def test_erk_of_rpg_loses_less_than_one_weight_per_layer(golden: Path, network: str) -> None:
    shapes, by_density = networks(golden, "rpg")[network]
    for density, expected in by_density.items():
        ours = erdos_renyi_kernel(shapes, density)
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        theirs = dict(zip(shapes, expected, strict=True))
        lost = sum(sizes[name] * (ours[name] - theirs[name]) for name in shapes)
        assert abs(lost) < len(shapes), f"density {density}: {lost}"


@pytest.mark.parametrize("name", [*ITOP, "granet_sparse_to_sparse_mlp", "granet_sparse_to_sparse_cnn"])
def test_erk_densities_of_start_masks(golden: Path, name: str) -> None:
    trace = load(golden, name)
    density = trace.schedule.get("density", trace.schedule.get("density_at_ramp_start"))
    expected = trace.meta["start_layer_densities"]
    assert erdos_renyi_kernel(trace.shapes, density) == pytest.approx(expected, rel=0, abs=1e-12)


def test_erk_start_sparsity_of_rpg(golden: Path) -> None:
    trace = load(golden, "rpg_erk")
    reached = truncated_budget(trace.shapes, trace.schedule["density"], set()) / sum(trace.sizes.values())
    expected = trace.meta["layer_sparsity_at_start"]
    ours = {name: 1 - value for name, value in erdos_renyi_kernel(trace.shapes, reached).items()}
    assert ours == pytest.approx(expected, rel=0, abs=1e-12)


def test_uniform_start_sparsity_of_rpg(golden: Path) -> None:
    trace = load(golden, "rpg_uniform")
    first, *_, last = trace.layers
    dense = trace.sizes[first] + trace.sizes[last]
    total = sum(trace.sizes.values())
    density = (dense + trace.schedule["density"] * (total - dense)) / total
    ours = with_fixed(trace.shapes, density, {first: 1.0, last: 1.0}, uniform)
    expected = trace.meta["layer_sparsity_at_start"]
    assert {name: 1 - value for name, value in ours.items()} == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize("name", RPG)
def test_start_counts_of_rpg(golden: Path, name: str) -> None:
    trace = load(golden, name)
    for layer, mask in trace.mask(-1).items():
        size = trace.sizes[layer]
        assert int(mask.count_nonzero()) == size - int(trace.meta["layer_sparsity_at_start"][layer] * size)
