"""Read the numerical traces of the original code, build their tiny models, and replay them through the public API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import sparsewright as sw

GRANET = (
    "granet_dense_to_sparse_mlp",
    "granet_dense_to_sparse_cnn",
    "granet_sparse_to_sparse_mlp",
    "granet_sparse_to_sparse_cnn",
    "granet_uniform_dense_to_sparse_cnn",
)
ITOP = ("rigl_itop_mlp", "rigl_itop_cnn")
GMP = ("gmp_mlp", "gmp_cnn", "gmp_uniform_cnn")
RPG = ("rpg_erk", "rpg_uniform")
RAMPED = (*GRANET, *GMP)
SWAPPING = (*GRANET, *ITOP)
TRACES = (*GRANET, *ITOP, *GMP, *RPG)

_METHODS = {"GraNet": "granet", "GraNet_uniform": "granet-uniform", "GMP": "gmp", "GMP_uniform": "gmp-uniform"}


@dataclass(frozen=True)
class Trace:
    """One trace file; step -1 is the start, step t is the state after loop iteration t."""

    name: str
    meta: Mapping[str, Any]
    arrays: Mapping[str, Tensor]

    @property
    def steps(self) -> int:
        return self.meta["steps"]

    @property
    def layers(self) -> list[str]:
        """Names of the weights that the method acts on."""
        if self.meta["method"].startswith("GReg"):
            return [f"{layer}.weight" for layer in self.meta["layers"]]
        return self.meta["layers_gated" if "layers_gated" in self.meta else "layers_masked"]

    @property
    def schedule(self) -> Mapping[str, Any]:
        return self.meta["schedule"]

    @property
    def interval(self) -> int:
        return self.schedule["update_interval_steps"]

    @property
    def uniform(self) -> bool:
        """Whether the ramp prunes each layer alike."""
        return self.meta["method"].endswith("_uniform")

    @cached_property
    def parameters(self) -> list[str]:
        return [key.removeprefix("init/") for key in self.arrays if key.startswith("init/")]

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(self.arrays[f"init/{name}"].shape) for name in self.layers}

    @cached_property
    def sizes(self) -> dict[str, int]:
        return {name: self.arrays[f"init/{name}"].numel() for name in self.layers}

    @cached_property
    def event_steps(self) -> set[int]:
        """Iterations that changed the topology in the original."""
        keys = ("prune_steps", "swap_steps", "update_steps")
        return {int(step) for key in keys if key in self.arrays for step in self.arrays[key]}

    def event(self, kind: str, step: int) -> int | None:
        """Index of the event of a kind ("prune", "swap", "update") that happens in a step."""
        steps = self.arrays.get(f"{kind}_steps")
        return None if steps is None or step not in steps.tolist() else steps.tolist().index(step)

    def counts(self, key: str, event: int) -> dict[str, int]:
        """A row of a count array, by layer."""
        return dict(zip(self.layers, self.arrays[key][event].tolist(), strict=True))

    def grad(self, step: int) -> dict[str, Tensor]:
        return {name: self.arrays[f"grad/{name}"][step] for name in self.parameters}

    def mask(self, step: int) -> dict[str, Tensor]:
        if step >= 0:
            return {name: self.arrays[f"mask/{name}"][step] for name in self.layers}
        ones = {name: torch.ones(shape, dtype=torch.bool) for name, shape in self.shapes.items()}
        return {name: self.arrays.get(f"mask0/{name}", ones[name]) for name in self.layers}

    def weight(self, step: int) -> dict[str, Tensor]:
        if step >= 0:
            return {name: self.arrays[f"weight/{name}"][step] for name in self.parameters}
        masks = self.mask(-1)
        init = {name: self.arrays[f"init/{name}"] for name in self.parameters}
        return {name: value * masks[name] if name in masks else value for name, value in init.items()}

    def momentum(self, step: int) -> dict[str, Tensor] | None:
        """SGD's buffers after a step, or None where the trace does not store them."""
        steps = self.arrays["momentum_steps"].tolist()
        if step not in steps:
            return None
        return {name: self.arrays[f"momentum/{name}"][steps.index(step)] for name in self.parameters}


@cache
def load(folder: Path, name: str) -> Trace:
    with np.load(folder / f"{name}.npz") as file:
        meta = json.loads(str(file["meta"]))
        arrays = {key: torch.from_numpy(np.ascontiguousarray(file[key])) for key in file.files if key != "meta"}
    return Trace(name, meta, arrays)


def build_model(trace: Trace) -> nn.Module:
    """The trace's network, holding the start weights (dense; the start masks are not applied)."""
    if trace.meta["model"] == "mlp":
        layers = {"fc1": nn.Linear(20, 16), "fc2": nn.Linear(16, 12), "fc3": nn.Linear(12, 5)}
    else:
        layers = {
            "conv1": nn.Conv2d(3, 8, 3, bias=False),
            "conv2": nn.Conv2d(8, 16, 3, bias=False),
            "conv3": nn.Conv2d(16, 16, 1, bias=False),
            trace.layers[-1].removesuffix(".weight"): nn.Linear(16, 10),
        }
    model = nn.Module()
    for name, layer in layers.items():
        model.add_module(name, layer)
    model.load_state_dict({name: trace.arrays[f"init/{name}"] for name in trace.parameters})
    return model


def build_optimizer(trace: Trace, model: nn.Module) -> torch.optim.SGD:
    settings = trace.meta["optimizer"]
    keys = ("lr", "momentum", "nesterov", "weight_decay", "dampening")
    return torch.optim.SGD(model.parameters(), **{key: settings[key] for key in keys})


def backward(trace: Trace, model: nn.Module, step: int) -> None:
    """Backpropagate the loss whose gradient is the one that the trace prescribes."""
    grad = trace.grad(step)
    model.zero_grad()
    sum((parameter * grad[name]).sum() for name, parameter in model.named_parameters()).backward()


def attach(trace: Trace, model: nn.Module, optimizer: torch.optim.Optimizer, **changes: Any) -> sw.DynamicSparsifier:
    """The sparsifier that does what the trace's original does, with its settings; start masks are its own."""
    method, options = settings_of(trace)
    sparsifier = sw.create(method, model, optimizer, total_steps=trace.steps, **{**options, **changes})
    assert isinstance(sparsifier, sw.DynamicSparsifier)
    return sparsifier


def new_sparsifier(trace: Trace, **changes: Any) -> sw.DynamicSparsifier:
    """A sparsifier at step 0, for questions about its schedule."""
    model = build_model(trace)
    return attach(trace, model, build_optimizer(trace, model), **changes)


def settings_of(trace: Trace) -> tuple[str, dict[str, Any]]:
    """Registry name and options that stand for a trace's original."""
    schedule, drop = trace.schedule, trace.meta.get("drop")
    options: dict[str, Any] = {"update_interval": trace.interval}
    if drop:
        options["drop_fraction"] = drop["fraction_at_start"]
    if trace.name in RPG:
        # An update due exactly at update_end happens, while the original's stop step is exclusive.
        stop = schedule["stop_topology_step"]
        options["update_end"] = stop - 1 if stop % trace.interval == 0 else stop
        options["sparsity"] = 1 - schedule["density"]
        if trace.name == "rpg_uniform":
            layers = trace.meta["layer_sparsity_at_start"]
            options["distribution"] = layers
            zeros = sum(layers[name] * size for name, size in trace.sizes.items())
            options["sparsity"] = zeros / sum(trace.sizes.values())
        return "rigl", options
    if trace.name in ITOP:
        return "rigl-itop", {**options, "sparsity": 1 - schedule["density"]}
    return _METHODS[trace.meta["method"]], {
        **options,
        "sparsity": 1 - schedule["density_at_ramp_end"],
        "initial_sparsity": 1 - schedule["density_at_ramp_start"],
        "prune_start": schedule["ramp_start_step"],
        "prune_end": schedule["ramp_end_step"],
    }


@dataclass
class Replay:
    """What a sparsifier did with a trace's gradients; lists are indexed by iteration.

    Attributes:
        sparsifier, model: after the last step, finalized.
        masks, weights: after each iteration.
        updated: whether the topology was updated in the iteration.
        moved: whether the optimizer moved the last layer's bias in it.
    """

    sparsifier: sw.DynamicSparsifier
    model: nn.Module
    masks: list[dict[str, Tensor]]
    weights: list[dict[str, Tensor]]
    updated: list[bool]
    moved: list[bool]


@cache
def replay(folder: Path, name: str, own_start_masks: bool = False) -> Replay:
    """Run a whole trace through the public API, from the trace's start masks or from the sparsifier's own."""
    trace = load(folder, name)
    model = build_model(trace)
    optimizer = build_optimizer(trace, model)
    sparsifier = attach(trace, model, optimizer)
    parameters = dict(model.named_parameters())
    if not own_start_masks:
        with torch.no_grad():
            for layer, mask in trace.mask(-1).items():
                sparsifier.masks[layer].copy_(mask)
            for parameter, value in trace.weight(-1).items():
                parameters[parameter].copy_(value)
    result = Replay(sparsifier, model, [], [], [], [])
    bias = parameters[trace.layers[-1].replace("weight", "bias")]
    for step in range(trace.steps):
        backward(trace, model, step)
        version, before = sparsifier.topology_version, bias.detach().clone()
        optimizer.step()
        result.updated.append(sparsifier.topology_version != version)
        result.moved.append(not torch.equal(before, bias))
        result.masks.append({layer: mask.clone() for layer, mask in sparsifier.masks.items()})
        result.weights.append({key: value.detach().clone() for key, value in parameters.items()})
    sparsifier.finalize()
    return result
