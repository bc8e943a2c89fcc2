"""Evaluating a network by its name, with the weights of a checkpoint that somebody published."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sparsewright.analysis import layer_table, table_totals
from sparsewright.data.evaluation import EvaluationImages, open_evaluation
from sparsewright.training.launch import launch, without_noise
from sparsewright.training.published_model import build_published
from sparsewright.training.published_weights import PublishedWeights, read_published
from sparsewright.training.scoring import score
from sparsewright.training.weight_match import WeightMatch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

BATCH_SIZE = 64
MOST_WORKERS = 8


@dataclass(frozen=True)
class _Job:
    model: str
    weights: PublishedWeights | None
    partial: bool
    precision: str
    data: dict[str, Any]


def evaluate_published(
    model: str,
    data: str,
    *,
    weights: Path | None = None,
    partial: bool = False,
    classes: str | None = None,
    batch_size: int = BATCH_SIZE,
    limit: int | None = None,
    workers: int | None = None,
    image_size: int | None = None,
    data_dir: Path = Path("data"),
    device: str = "auto",
    precision: str = "32",
    download: bool = True,
) -> dict[str, Any]:
    """Accuracy, loss, sparsity, FLOPs and speed of a network on test images.

    Args:
        model: a name from ``list_models()``.
        data: a name from ``list_datasets()``; how an image folder is prepared says ``open_evaluation``.
        weights: a checkpoint, as ``read_published`` reads them. None for the weights that the model's name asks for, or
            for random ones of seed 0.
        partial: evaluate although the weights do not fit; what they lack stays random.
        classes: the classes of the network where an image folder holds only some of them: a file with the names of
            their folders in the order of the outputs, one a line, or "imagenet". None: those of the data.
        batch_size: images in a batch.
        limit: how many images at most; None for all.
        workers: processes that decode an image folder; None for one per core, 8 at most.
        image_size: of an image folder; None for 224.
        data_dir, device, download: as for ``train``.
        precision: "32" or "bf16" (mixed).

    Returns:
        model, data, precision, device; accuracy and top5_accuracy (per cent; the latter None with five classes or
        fewer), loss, images, num_classes; parameters, nonzero_parameters; weights, nonzero_weights and sparsity of the
        layers' weights; flops_dense and flops_sparse of one image; seconds and images_per_second, with the loading of
        the images; checkpoint: None, or its file, key, matched, missing, unexpected, misshapen, mistyped, and the
        latter four in words as mismatch.

    Raises:
        ValueError: a name or number is not usable, the weights do not fit the model (the error counts and names what is
            missing, unexpected, or of another shape or type), weights or outputs are not finite, or network and data do
            not have the same number of classes.
        FileNotFoundError, ImportError, OSError: files or packages are missing.
    """
    if weights is not None and "@" in model:
        raise ValueError(f"model {model} brings weights of its own, and {weights} is given too; leave one of them out")
    if partial and weights is None:
        raise ValueError("partial says what to do with weights that do not fit, and none are given")
    published = read_published(weights) if weights is not None else None
    opening = {
        "name": data,
        "data_dir": Path(data_dir),
        "batch_size": batch_size,
        "classes": classes,
        "limit": limit,
        "download": download,
        "workers": min(MOST_WORKERS, os.cpu_count() or 1) if workers is None else workers,
        "image_size": image_size,
    }
    with without_noise():
        job = _Job(model, published, partial, precision, opening)
        return launch(_evaluate, job, device=device, devices=1, precision=precision)


def _evaluate(fabric: Fabric, job: _Job) -> dict[str, Any]:
    if fabric.world_size > 1:
        raise ValueError("a model by its name is evaluated in one process, not under torchrun")
    images = open_evaluation(**job.data, device=fabric.device)
    model, match = build_published(job.model, images, job.weights, partial=job.partial)
    counts = _counts(model, images)
    scores = score(fabric, model.to(fabric.device), images)
    return {
        "model": job.model,
        "checkpoint": None if job.weights is None or match is None else _report(job.weights, match),
        "data": images.name,
        "device": fabric.device.type,
        "precision": job.precision,
        "images": scores.images,
        "num_classes": images.num_classes,
        "accuracy": scores.accuracy,
        "top5_accuracy": scores.top5_accuracy,
        "loss": scores.loss,
        **counts,
        "seconds": scores.seconds,
        "images_per_second": scores.images / scores.seconds,
    }


def _report(weights: PublishedWeights, match: WeightMatch) -> dict[str, Any]:
    return {
        "file": str(weights.path),
        "key": weights.key,
        "matched": len(match.matched),
        "missing": match.missing,
        "unexpected": match.unexpected,
        "misshapen": {name: {"file": there, "model": here} for name, (there, here) in match.misshapen.items()},
        "mistyped": {name: {"file": there, "model": here} for name, (there, here) in match.mistyped.items()},
        "mismatch": match.describe(),
    }


def _counts(model: nn.Module, images: EvaluationImages) -> dict[str, Any]:
    example = torch.zeros(1, images.in_channels, images.image_size, images.image_size)
    totals = table_totals(layer_table(model, example))
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "nonzero_parameters": sum(int(torch.count_nonzero(parameter)) for parameter in model.parameters()),
        "weights": totals.weights,
        "nonzero_weights": totals.nonzero,
        "sparsity": totals.sparsity,
        "flops_dense": totals.flops_dense,
        "flops_sparse": totals.flops_sparse,
    }
