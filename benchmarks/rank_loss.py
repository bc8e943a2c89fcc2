"""What the rank loss of all layers costs and how exact it is: ``rank_losses`` beside one full SVD per layer.

    python benchmarks/rank_loss.py [--model torchvision:resnet50] [--sparsity 0 0.9 0.98] [--residual-energy 0.2]
        [--threads 2] [--repeats 3] [--device cpu]

The weights are those of the network's convolutions as it is initialised, pruned by magnitude over all layers jointly.
Timed in turn in one run, ``--repeats`` times; medians are compared:

- ``rank_losses``, which decomposes the Gram matrices in double precision;
- one SVD per layer in sequence, as in the published code: ``torch.linalg.svd`` in single precision with
  ``full_matrices=False``, the approximation of the chosen rank, and the gradient;
- the bare ``torch.linalg.svd(matrix)`` per layer, which computes all right singular vectors, once.

The gradients of both are compared with those by the SVD in double precision: the largest relative error of a layer, in
the Frobenius norm. So is k.
"""

from __future__ import annotations

import argparse
import platform
import sys
from statistics import median

import torch
from step_overhead import Bench
from torch import Tensor

from sparsewright import low_rank
from sparsewright.low_rank import rank_losses
from sparsewright.models import create_model
from sparsewright.scores import magnitude
from sparsewright.topology import prune_globally


def by_svd(weight: Tensor, energy: float, precision: torch.dtype) -> tuple[int, Tensor]:
    """k and gradient of one weight by the full SVD."""
    matrix = weight.flatten(1).to(precision)
    norm = matrix.norm()
    normalised = matrix / norm
    left, values, right = torch.linalg.svd(normalised, full_matrices=False)
    tails = values.flip(0).square().cumsum(0)
    k = len(values) - 1 - int((tails - energy).abs().argmin())
    residual = normalised - (left[:, :k] * values[:k]) @ right[:k]
    gradient = -2 * (residual - residual.square().sum() * normalised) / norm
    return k, gradient.reshape(weight.shape)


def weights_of(model: str, sparsity: float, device: torch.device) -> dict[str, Tensor]:
    """The convolutions of a network, pruned."""
    network = create_model(model, num_classes=1000, seed=0)
    weights = {name: p.detach().to(device) for name, p in network.named_parameters() if p.dim() == 4}
    kept = round((1 - sparsity) * sum(weight.numel() for weight in weights.values()))
    masks = prune_globally({name: magnitude(weight) for name, weight in weights.items()}, kept, minimum=1)
    return {name: weight * masks[name] for name, weight in weights.items()}


def largest_error(
    found: dict[str, tuple[int, Tensor]], exact: dict[str, tuple[int, Tensor]], norms: dict[str, float]
) -> tuple[float, int]:
    """The largest relative error of a layer's gradient where k agrees, and in how many layers it does not."""
    errors = [0.0]
    differing = 0
    for name, (k, gradient) in found.items():
        if k != exact[name][0]:
            differing += 1
            continue
        expected = exact[name][1]
        # Relative to what the gradient of a weight of this norm can be; where next to nothing is left out it is 0.
        largest = max(float(expected.norm()), 1e-6 / norms[name])
        errors.append(float((gradient.double() - expected).norm()) / largest)
    return max(errors), differing


def compare(sparsity: float, arguments: argparse.Namespace) -> None:
    device = torch.device(arguments.device)
    weights = weights_of(arguments.model, sparsity, device)
    energy = arguments.residual_energy
    fallbacks: list[int] = []
    by_full_svd = low_rank.cut_by_svd
    low_rank.cut_by_svd = lambda *given: fallbacks.append(1) or by_full_svd(*given)
    ours = {name: (found.k, found.gradient) for name, found in rank_losses(weights, energy)}
    low_rank.cut_by_svd = by_full_svd
    exact = {name: by_svd(weight, energy, torch.float64) for name, weight in weights.items()}
    plain = {name: by_svd(weight, energy, torch.float32) for name, weight in weights.items()}
    norms = {name: float(weight.norm()) for name, weight in weights.items()}
    bench = Bench(device, "wall")
    ours_seconds, plain_seconds = [], []
    for _ in range(arguments.repeats):
        ours_seconds.append(bench.seconds(lambda: dict(rank_losses(weights, energy))))
        plain_seconds.append(
            bench.seconds(lambda: [by_svd(weight, energy, torch.float32) for weight in weights.values()])
        )
    bare = bench.seconds(lambda: [torch.linalg.svd(weight.flatten(1)) for weight in weights.values()])
    count = sum(weight.numel() for weight in weights.values())
    print(f"{arguments.model}, {len(weights)} layers, {count:,} weights, sparsity {sparsity:g}, energy {energy:g}")
    print(f"  rank_losses        {describe(ours_seconds)}, {len(fallbacks)} layers by the full SVD")
    print(f"  one SVD per layer  {describe(plain_seconds)}")
    print(f"  bare SVD           {bare:.2f} s")
    ratios = [seconds / median(ours_seconds) for seconds in (median(plain_seconds), bare)]
    print(f"  ratios             {ratios[0]:.2f}x and {ratios[1]:.2f}x")
    for name, found in (("rank_losses", ours), ("one SVD per layer", plain)):
        error, differing = largest_error(found, exact, norms)
        print(f"  {name}: largest relative error of a gradient {error:.1e}, other k in {differing} layers")


def describe(seconds: list[float]) -> str:
    return f"{median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="torchvision:resnet50")
    parser.add_argument("--sparsity", type=float, nargs="+", default=[0.0, 0.9, 0.98])
    parser.add_argument("--residual-energy", type=float, default=0.2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"Python {sys.version.split()[0]}, torch {torch.__version__}, {platform.machine()}, {arguments.threads} threads"
    )
    for sparsity in arguments.sparsity:
        compare(sparsity, arguments)


if __name__ == "__main__":
    main()
