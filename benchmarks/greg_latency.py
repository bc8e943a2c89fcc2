"""Latency of the networks that GReg's structured recipes make, beside the dense ones, in one run.

    python benchmarks/greg_latency.py [--recipe cifar10/resnet56/greg1-2.55x ...] [--batch 1 64] [--threads 2]

Weights are random: they make no difference to the time. Both networks are timed in turn, in evaluation mode without
gradients; the ratio is that of the medians, and the quartiles show how far single rounds scatter.
"""

from __future__ import annotations

import argparse
import platform

import torch
from greg_speedup import build, size_of

from sparsewright.analysis import Latency, measure_latency

RECIPES = (
    "cifar10/resnet56/greg1-2.55x",
    "cifar10/resnet56/greg1-90",
    "cifar100/vgg19/greg1-8.84x",
    "imagenet/resnet34/greg1-1.32x",
    "imagenet/resnet50/greg1-2.31x",
)


def described(latency: Latency) -> str:
    return f"{latency.median_ms:.2f} ({latency.lower_quartile_ms:.2f} - {latency.upper_quartile_ms:.2f})"


def rows(recipe: str, batches: list[int], seconds: float) -> list[str]:
    """Lines of the table, one per batch size."""
    pair = build(recipe)
    fewer = size_of(pair.dense, pair.example).flops / size_of(pair.smaller, pair.example).flops
    lines = []
    for batch in batches:
        images = pair.example.repeat(batch, 1, 1, 1)
        found = measure_latency({"dense": pair.dense, "small": pair.smaller}, images, seconds=seconds)
        ratio = found["dense"].median_ms / found["small"].median_ms
        cells = [recipe, str(batch), described(found["dense"]), described(found["small"])]
        lines.append(f"| {' | '.join(cells)} | {ratio:.2f} | {fewer:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description="Latency before and after shrinking.")
    parser.add_argument("--recipe", nargs="+", default=list(RECIPES))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: all)")
    parser.add_argument("--seconds", type=float, default=8.0, help="per network and batch size, about (default: 8)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads\n")
    print("| network | batch | dense, ms (quartiles) | small, ms (quartiles) | ratio | fewer FLOPs |")
    print("|---|--:|--:|--:|--:|--:|")
    for recipe in arguments.recipe:
        for line in rows(recipe, arguments.batch, arguments.seconds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
