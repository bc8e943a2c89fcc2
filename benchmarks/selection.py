"""What the exact selection costs: ``kth_largest`` over many tensors beside torch on their concatenation.

    python benchmarks/selection.py [--sizes 300_000 25_000_000 100_000_000] [--threads 2] [--repeats 7]

The scores are |w * dL/dw| of random weights and gradients in tensors shaped like those of a ResNet for small images, of
the width that gives the number asked for: ResNet-20 below a million, ResNet-50 above. Everything is timed in turn in
one run, ``--repeats`` rounds of it, and the medians are compared, for k = n/10 and k = n/60:

- ``kth_largest`` that computes the scores itself, piece by piece, as GSM does at every step;
- ``kth_largest`` over ready scores, one tensor per weight;
- ``torch.topk`` (also without sorting what it has found), ``torch.kthvalue`` and ``torch.sort`` over the ready scores
  in one tensor, and what making that tensor costs: the products and the concatenation.

All of them must find the same value. The peak of memory is that of torch's allocator above the level at the start, in
bytes per score; it is given for ``kth_largest`` alone, since ``torch.topk`` takes its memory elsewhere.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from statistics import median

import torch
from step_overhead import Bench
from torch import Tensor

import sparsewright as sw
from sparsewright.scores import saliency
from sparsewright.selection import Elementwise, kth_largest

FRACTIONS = (10, 60)
OURS, OURS_READY = "kth_largest, with products", "kth_largest, ready scores"
PRODUCTS, JOINING = "products", "concatenation"
TOPK, TOPK_UNSORTED, KTHVALUE, SORT = "torch.topk", "torch.topk, sorted=False", "torch.kthvalue", "torch.sort"


@dataclass
class Problem:
    """Weights and gradients, and their scores in one tensor and as a view of it per weight."""

    weights: list[Tensor]
    gradients: list[Tensor]
    joined: Tensor
    ready: list[Tensor]


@dataclass
class Times:
    """Times of one piece of work, in seconds."""

    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(self.seconds)

    def __str__(self) -> str:
        low, high = min(self.seconds), max(self.seconds)
        return f"{in_milliseconds(self.median)} ms ({in_milliseconds(low)} to {in_milliseconds(high)})"


def in_milliseconds(seconds: float) -> str:
    """With three digits, or all before the point."""
    milliseconds = 1e3 * seconds
    decimals = 2 if milliseconds < 10 else 1 if milliseconds < 100 else 0
    return f"{milliseconds:,.{decimals}f}"


def resnet20_shapes(width: int) -> list[tuple[int, ...]]:
    """Shapes of the weights of a ResNet-20 whose first stage has ``width`` channels; 16 is usual."""
    shapes: list[tuple[int, ...]] = [(width, 3, 3, 3)]
    channels = width
    for inner in (width, 2 * width, 4 * width):
        for _ in range(3):
            shapes += [(inner, channels, 3, 3), (inner, inner, 3, 3)]
            channels = inner
    return [*shapes, (10, channels)]


def resnet50_shapes(width: int) -> list[tuple[int, ...]]:
    """Shapes of the weights of a ResNet-50 whose first stage has ``width`` channels inside its blocks; 64 is usual."""
    shapes: list[tuple[int, ...]] = [(width, 3, 3, 3)]
    channels = width
    for inner, blocks in zip((width, 2 * width, 4 * width, 8 * width), (3, 4, 6, 3), strict=True):
        for block in range(blocks):
            shapes += [(inner, channels, 1, 1), (inner, inner, 3, 3), (4 * inner, inner, 1, 1)]
            if block == 0:
                shapes.append((4 * inner, channels, 1, 1))
            channels = 4 * inner
    return [*shapes, (10, channels)]


def shapes_for(number: int) -> list[tuple[int, ...]]:
    """The narrowest such network with at least this number of weights."""
    network = resnet20_shapes if number < 1_000_000 else resnet50_shapes
    width = 1
    while sum(prod(shape) for shape in network(width)) < number:
        width += 1
    return network(width)


def make_problem(number: int) -> Problem:
    generator = torch.Generator().manual_seed(0)
    weights: list[Tensor] = []
    gradients: list[Tensor] = []
    for shape in shapes_for(number):
        weights.append(torch.randn(shape, generator=generator) * (2 / prod(shape[1:])) ** 0.5)
        # Layers differ in the size of their gradients by orders of magnitude.
        scale = 10 ** (-3 + 2 * float(torch.rand((), generator=generator)))
        gradients.append(torch.randn(shape, generator=generator) * scale)
    joined = torch.cat([saliency(*pair).flatten() for pair in zip(weights, gradients, strict=True)])
    parts = joined.split([weight.numel() for weight in weights])
    ready = [part.view(weight.shape) for part, weight in zip(parts, weights, strict=True)]
    return Problem(weights, gradients, joined, ready)


def select_products(problem: Problem, k: int) -> Tensor:
    pairs = zip(problem.weights, problem.gradients, strict=True)
    return kth_largest([Elementwise(saliency, weight, gradient) for weight, gradient in pairs], k)


def preparations(problem: Problem) -> dict[str, Callable[[], object]]:
    """What does not depend on k: the making of the tensor that torch selects from, and a sort of it."""
    return {
        PRODUCTS: lambda: [saliency(*pair) for pair in zip(problem.weights, problem.gradients, strict=True)],
        JOINING: lambda: torch.cat([score.flatten() for score in problem.ready]),
        SORT: lambda: problem.joined.sort(descending=True),
    }


def selections(problem: Problem, k: int) -> dict[str, Callable[[], Tensor]]:
    """All that finds the k-th largest score; each returns it."""
    joined = problem.joined
    return {
        OURS: lambda: select_products(problem, k),
        OURS_READY: lambda: kth_largest(problem.ready, k),
        TOPK: lambda: joined.topk(k).values[-1],
        TOPK_UNSORTED: lambda: joined.topk(k, sorted=False).values.amin(),
        KTHVALUE: lambda: joined.kthvalue(joined.numel() - k + 1).values,
    }


def check(problem: Problem, k: int) -> None:
    found = {name: select().item() for name, select in selections(problem, k).items()}
    if len(set(found.values())) > 1:
        raise SystemExit(f"the selections differ for k = {k}: {found}")


def measure(bench: Bench, problem: Problem, repeats: int) -> dict[tuple[str, int], Times]:
    """Times by name and n/k (0 for what does not depend on k): everything in turn, round after round."""
    number = problem.joined.numel()
    work: dict[tuple[str, int], Callable[[], object]] = {(name, 0): do for name, do in preparations(problem).items()}
    for fraction in FRACTIONS:
        check(problem, number // fraction)
        work |= {(name, fraction): do for name, do in selections(problem, number // fraction).items()}
    results = {key: Times() for key in work}
    for done in range(repeats):
        for key, do in work.items():
            results[key].seconds.append(bench.seconds(do))
        print(f"  {number:,} scores: round {done + 1} of {repeats}", file=sys.stderr, flush=True)
    return results


def print_tables(bench: Bench, problem: Problem, results: dict[tuple[str, int], Times]) -> None:
    number = problem.joined.numel()
    products, joining = results[PRODUCTS, 0], results[JOINING, 0]
    peak = bench.memory(lambda: select_products(problem, number // FRACTIONS[0])).peak
    print(
        f"\n### {number:,} scores in {len(problem.weights)} tensors\n\n"
        f"To make the one tensor: products {products}, concatenation {joining}. Peak memory of kth_largest with "
        f"products: {peak / number:.2f} bytes per score."
    )
    for fraction in FRACTIONS:
        ours, ours_ready = results[OURS, fraction], results[OURS_READY, fraction]
        columns = [f"k = n/{fraction}", "time", "ratio, ready scores", "ratio, all included", "ratio, least favourable"]
        print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        print(f"| {OURS} | {ours} | - | - | - |\n| {OURS_READY} | {ours_ready} | - | - | - |")
        for name in (TOPK, TOPK_UNSORTED, KTHVALUE, SORT):
            times = results[name, 0 if name == SORT else fraction]
            together = products.median + joining.median + times.median
            ratios = (times.median / ours_ready.median, together / ours.median, times.median / ours.median)
            print(f"| {name} | {times} | {' | '.join(f'{ratio:.1f}' for ratio in ratios)} |")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time and memory of the exact selection beside torch's.")
    add = parser.add_argument
    add("--sizes", type=int, nargs="+", default=[300_000, 25_000_000, 100_000_000], help="numbers of scores")
    add("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: all)")
    add("--repeats", type=int, default=7, help="rounds, of which the median counts (default: 7)")
    add("--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time, for a machine in use")
    options = parser.parse_args()
    if options.repeats < 1 or min(options.sizes) < 1 or options.threads < 1:
        parser.error("--sizes, --threads and --repeats must be at least 1")
    if options.clock == "cpu" and options.threads != 1:
        parser.error("--clock cpu adds up the time of all threads: it needs --threads 1")
    return options


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    bench = Bench(torch.device("cpu"), options.clock)
    print(
        f"sparsewright {sw.__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{platform.machine()}, {torch.get_num_threads()} threads, {options.clock} clock, median of {options.repeats}; "
        f"load average {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    for size in options.sizes:
        problem = make_problem(size)
        print_tables(bench, problem, measure(bench, problem, options.repeats))
    print(f"\nLoad average at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
