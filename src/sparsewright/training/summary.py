"""The numbers of a finished run."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from sparsewright.analysis.flops import inference_flops
from sparsewright.training.loop import TrainingError
from sparsewright.training.progress import Progress
from sparsewright.training.rank_log import logged_ranks
from sparsewright.training.recipe import Recipe
from sparsewright.training.shrinking import DenseNetwork

_PACKAGES = ("sparsewright", "torch", "torchvision", "lightning-fabric", "numpy", "safetensors")


def build_summary(
    recipe: Recipe,
    seed: int,
    model: nn.Module,
    progress: Progress,
    layer_flops: Mapping[str, float],
    dense: DenseNetwork,
) -> dict[str, Any]:
    """The content of summary.json, counted on the weights that are saved.

    ``sparsity`` and ``kept_parameters`` count masks, ``nonzero_parameters`` the values: a kept weight can be zero. All
    of them, and ``layers``, are of the network that is saved; what a shrink stage took out counts in the figures of the
    ``dense`` network. ``inference_flops_sparse`` leaves out zeros that masks hold; ``theoretical_speedup`` counts them,
    since they stay in the layers.

    Raises:
        TrainingError: a weight outside the masks is not zero.
    """
    masks = progress.masks
    _verify(model, masks)
    density = {name: mask.count_nonzero().item() / mask.numel() for name, mask in masks.items()}
    parameters = dict(model.named_parameters())
    total = sum(parameter.numel() for parameter in parameters.values())
    pruned = sum(mask.numel() - int(mask.count_nonzero()) for mask in masks.values())
    scoped = sum(mask.numel() for mask in masks.values())
    sparsity = pruned / scoped if scoped else 0.0
    flops_dense, flops_sparse = inference_flops(dense.layer_flops, {}), inference_flops(layer_flops, density)
    flops_of_layers = inference_flops(layer_flops, {})
    last = progress.metrics[-1] if progress.metrics else {}
    sparse_stages = [stage for stage in recipe.resolved_stages() if stage.needs_sparsity]
    return {
        "recipe": recipe.name,
        "method": sparse_stages[-1].method.name if sparse_stages else "static" if masks else "dense",
        "seed": seed,
        "target_sparsity": sparse_stages[-1].sparsity if sparse_stages else sparsity,
        "sparsity": sparsity,
        "test_accuracy": last.get("test_accuracy"),
        "test_loss": last.get("test_loss"),
        "test_accuracy_before_pruning": _accuracy_before_pruning(progress.metrics),
        "best_accuracy_after_schedule": progress.best_accuracy,
        "evaluated_on": "validation" if recipe.data.validation else "test",
        "epochs": progress.total_epochs,
        "steps": progress.total_steps,
        "shrunk": bool(progress.widths),
        "not_removed": progress.not_removed,
        "parameters": total,
        "parameters_dense": dense.parameters,
        "nonzero_parameters": sum(int(parameter.count_nonzero()) for parameter in parameters.values()),
        "kept_parameters": total - pruned,
        "layers": {
            name: {"shape": list(parameters[name].shape), "sparsity": 1.0 - density.get(name, 1.0)}
            for name in {**layer_flops, **density}
        },
        "inference_flops_dense": flops_dense,
        "inference_flops_sparse": flops_sparse,
        "theoretical_speedup": flops_dense / flops_of_layers if flops_of_layers else None,
        "training_flops_dense": progress.flops_dense,
        "training_flops_sparse": progress.flops_sparse,
        **logged_ranks(last),
        "train_seconds": progress.seconds,
        "versions": versions(),
    }


def _accuracy_before_pruning(lines: Sequence[Mapping[str, Any]]) -> float | None:
    """Test accuracy just before the last pruning in one shot; None without one, or where nothing was tested before."""
    pruned = [index for index, line in enumerate(lines) if line["kind"] == "prune"]
    return lines[pruned[-1] - 1]["test_accuracy"] if pruned and pruned[-1] > 0 else None


def versions() -> dict[str, str]:
    """Python and the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    found["torch"] = torch.__version__
    return found


def _verify(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        revived = int(parameters[name].detach()[~mask.to(parameters[name].device)].count_nonzero())
        if revived:
            raise TrainingError(f"{revived} pruned weights of {name} are not zero at the end of training")
