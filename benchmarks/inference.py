"""Networks with random zeros on every inference engine of this machine, in turn in one run.

    python benchmarks/inference.py [--networks resnet50 mlp ...] [--sparsities 0.8 0.9 0.95 0.98] [--threads 2]
        [--batch 1] [--engines eager onnxruntime ...] [--layers]

All weights with two or more dimensions but the first layer's are pruned by magnitude to the sparsity, layer by layer.
Weights are random: which ones are zero, and not their values, decides the time. The bound is what the non-zero
multiply-adds would take at the peak that a matrix product reaches on this machine, or what reading the kept weights and
their places would (2 or 4 bytes each) as fast as a block of this size is read, whichever is larger; reading and writing
activations is not in it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsewright.analysis import layer_table
from sparsewright.bench import ENGINES, BenchResult, bench_network, machine
from sparsewright.models import create_model
from sparsewright.runtime import Compilation
from sparsewright.runtime.choosing import SHORT_PLACES

SPARSITIES = (0.8, 0.9, 0.95, 0.98)


@dataclass(frozen=True)
class Case:
    """A network and the shape of one input."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


def _mlp() -> nn.Module:
    return nn.Sequential(*(layer for _ in range(3) for layer in (nn.Linear(4096, 4096), nn.ReLU())))


def _of_registry(name: str, size: int, channels: int = 3, classes: int = 10) -> Callable[[], nn.Module]:
    return lambda: create_model(name, num_classes=classes, in_channels=channels, image_size=size)


CASES = {
    "resnet50": Case(_of_registry("torchvision:resnet50", 224, classes=1000), (3, 224, 224)),
    "resnet50-cifar": Case(_of_registry("resnet50-cifar", 32), (3, 32, 32)),
    "vgg19-cifar": Case(_of_registry("vgg19", 32), (3, 32, 32)),
    "mobilenet_v2": Case(_of_registry("torchvision:mobilenet_v2", 224, classes=1000), (3, 224, 224)),
    "lenet300": Case(_of_registry("lenet300", 28, channels=1), (1, 28, 28)),
    "mlp": Case(_mlp, (4096,)),
}


def prune(model: nn.Module, sparsity: float) -> None:
    """Zero the smallest weights of each layer but the first."""
    weights = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    for weight in weights[1:]:
        removed = int(sparsity * weight.numel())
        if removed:
            threshold = weight.detach().abs().flatten().kthvalue(removed).values
            weight.data[weight.detach().abs() <= threshold] = 0


def peak_flops() -> float:
    """FLOPs a second of a large matrix product, the best of ten."""
    left, right = torch.randn(1536, 1536), torch.randn(1536, 1536)
    return 2 * 1536**3 / _best(lambda: left @ right)


def reading_time(size: int) -> float:
    """Seconds that reading a block of so many bytes takes, from a cache if it fits in one, the best of ten."""
    block = torch.ones(max(1, size // 4))
    return max(0.0, _best(block.sum) - _best(block[:1].sum))


def _best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def rows(name: str, sparsity: float, result: BenchResult, bound: str) -> list[str]:
    """Lines of the table."""
    base = next((row for row in result.rows if row.engine == "onnxruntime" and row.latency), None)
    lines = []
    for row in result.rows:
        start = [name, f"{sparsity:g}", str(row.batch), ENGINES[row.engine].label]
        if row.latency is None:
            lines.append(f"| {' | '.join([*start, row.failure, '', '', '', ''])} |")
            continue
        spread = f"{row.latency.lower_quartile_ms:.3f} - {row.latency.upper_quartile_ms:.3f}"
        eager = "" if row.speedup is None else f"{row.speedup:.2f}"
        runtime = f"{base.latency.median_ms / row.latency.median_ms:.2f}" if base and base.latency else ""
        difference = "" if row.difference is None else f"{row.difference:.0e}"
        cells = [*start, f"{row.latency.median_ms:.3f} ({spread})", eager, runtime, difference]
        lines.append(f"| {' | '.join([*cells, bound if row.engine == 'sparsewright' else ''])} |")
    return lines


@dataclass(frozen=True)
class LayerBound:
    """What a layer's kept weights cost at least."""

    flops: float
    bytes: int


def layer_bounds(model: nn.Module, sample: Tensor, batch: int) -> dict[str, LayerBound]:
    """By the name of the weight."""
    table = layer_table(model, sample.unsqueeze(0))
    modules = dict(model.named_modules())
    bounds = {}
    for row in table:
        module = modules[row.name.removesuffix(".weight")]
        short = isinstance(module, nn.Linear) and batch == 1 and module.in_features <= SHORT_PLACES
        place = 0 if row.nonzero == row.weights else 2 if short else 4
        bounds[row.name] = LayerBound(batch * (row.flops_sparse or 0), row.nonzero * (4 + place))
    return bounds


def lower_bound(bounds: Iterable[LayerBound], peak: float) -> float:
    """Milliseconds that layers take at least."""
    flops, size = (sum(values) for values in zip(*((bound.flops, bound.bytes) for bound in bounds), strict=True))
    return 1000 * max(flops / peak, reading_time(int(size)))


def layer_rows(made: Compilation, bounds: dict[str, LayerBound], least: dict[str, float]) -> Iterator[str]:
    """Lines of the table of layers; the times are those by which the kernels were chosen."""
    yield "\n| layer | sparsity | kernel | ms | bound, ms | GFLOP/s of non-zeros |\n|---|--:|---|--:|--:|--:|"
    for layer in made.layers:
        bound, milliseconds = bounds[layer.layer], layer.milliseconds.get(layer.kernel)
        shown = ("", "") if not milliseconds else (f"{milliseconds:.3f}", f"{bound.flops / milliseconds / 1e6:.0f}")
        start = f"| {layer.layer} | {layer.sparsity:.3f} | {layer.kernel}"
        yield f"{start} | {shown[0]} | {least[layer.layer]:.3f} | {shown[1]} |"
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Sparse networks on the inference engines of this machine.")
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--sparsities", nargs="+", type=float, default=list(SPARSITIES))
    parser.add_argument("--engines", nargs="+", default=[name for name in ENGINES if ENGINES[name].installed])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="of measuring each network and sparsity (default: 8)"
    )
    parser.add_argument("--layers", action="store_true", help="the kernels of each layer too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    peak = peak_flops()
    print(f"{machine()}; torch {torch.__version__}, {arguments.threads} threads")
    large = 2**28
    print(f"matrix product {peak / 1e9:.0f} GFLOP/s, reading {large / reading_time(large) / 1e9:.1f} GB/s\n")
    print(
        "| network | sparsity | batch | engine | ms (quartiles) | of eager | of ONNX Runtime | difference | bound, ms |"
    )
    print("|---|--:|--:|---|--:|--:|--:|--:|--:|", flush=True)
    for name in arguments.networks:
        for sparsity in arguments.sparsities:
            measure(name, sparsity, arguments, peak)


def measure(name: str, sparsity: float, arguments: argparse.Namespace, peak: float) -> None:
    """One network at one sparsity."""
    model = CASES[name].make().eval()
    prune(model, sparsity)
    sample = torch.randn(CASES[name].shape)
    for batch in arguments.batch:
        # Before the engines, whose threads may spin afterwards.
        bounds = layer_bounds(model, sample, batch)
        bound = f"{lower_bound(bounds.values(), peak):.2f}"
        each = {layer: lower_bound([of_layer], peak) for layer, of_layer in bounds.items() if arguments.layers}
        result = bench_network(
            model,
            sample,
            batches=[batch],
            threads=[arguments.threads],
            engines=arguments.engines,
            seconds=arguments.seconds,
        )
        print("\n".join(rows(name, sparsity, result, bound)), flush=True)
        for made in result.compilations.values() if arguments.layers else ():
            print("\n".join(layer_rows(made, bounds, each)), flush=True)


if __name__ == "__main__":
    main()
