"""What ``sparsewright eval`` prints of a network by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsewright.formats import flops, percent, seconds


def published_pairs(result: Mapping[str, Any]) -> dict[str, str]:
    """The lines of the result of ``evaluate_published``."""
    top5 = result["top5_accuracy"]
    dense, sparse = result["flops_dense"], result["flops_sparse"]
    lines = {
        "model": f"{result['model']} with {result['num_classes']:,} classes",
        "weights": _source(result["model"], result["checkpoint"]),
        "not matched": result["checkpoint"]["mismatch"] if result["checkpoint"] else "",
        "data": f"{result['images']:,} test images of {result['data']}",
        "accuracy": f"{result['accuracy']:.2f} %",
        "top-5 accuracy": "" if top5 is None else f"{top5:.2f} %",
        "loss": f"{result['loss']:.4f}",
        "sparsity": f"{percent(result['sparsity'])} of the layers' weights are exactly zero",
        "parameters": f"{result['nonzero_parameters']:,} non-zero of {result['parameters']:,}",
        "inference FLOPs": f"{flops(sparse)} of {flops(dense)} dense ({percent(sparse / dense)})" if dense else "",
        "speed": f"{result['images_per_second']:.1f} images/s on {result['device']} with the loading of the images, "
        f"{seconds(result['seconds'])} in all",
    }
    return {name: line for name, line in lines.items() if line}


def _source(model: str, checkpoint: Mapping[str, Any] | None) -> str:
    if checkpoint is None:
        return (
            "those that the name asks for" if "@" in model else "random, for want of --weights: the accuracy is chance"
        )
    under = f" under {checkpoint['key']}" if checkpoint["key"] else ""
    return f"{checkpoint['file']}, {checkpoint['matched']:,} tensors{under}"
