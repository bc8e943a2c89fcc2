"""How large a run's network is, and how fast, beside the one that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sparsewright.analysis import Latency, layer_flops, measure_latency
from sparsewright.cli.tables import print_table
from sparsewright.formats import flops, percent, share
from sparsewright.training import LoadedRun

_DENSE, _SAVED = "original", "saved"


@dataclass(frozen=True)
class Size:
    """A network before and after a shrink stage.

    Attributes:
        parameters, parameters_dense: their number, biases and norms included.
        flops, flops_dense: of the forward pass of one sample.
        theoretical_speedup: ``flops_dense`` over ``flops``.
    """

    parameters: int
    parameters_dense: int
    flops: int
    flops_dense: int
    theoretical_speedup: float


@dataclass(frozen=True)
class LatencyRow:
    """Times of one batch size.

    Attributes:
        batch: samples at a time.
        original: of the recipe's network as it was before anything was removed.
        saved: of the run's network.
        ratio: median of the first over that of the second; above 1 the saved network is the faster one. None where
            their layers have the same sizes.
    """

    batch: int
    original: Latency
    saved: Latency
    ratio: float | None


@dataclass(frozen=True)
class LatencyComparison:
    """Times before and after, and what they were measured on.

    Attributes:
        device: "cpu", or "cuda" with the name of the GPU.
        threads: CPU threads of torch; None on a GPU.
        same_sizes: whether the layers of both networks have the same sizes, so that they differ by chance alone.
        batches: one row per batch size.
    """

    device: str
    threads: int | None
    same_sizes: bool
    batches: Sequence[LatencyRow]


def compare_sizes(run: LoadedRun) -> Size:
    """Parameters and FLOPs before and after."""
    dense, example = run.dense_network(), torch.zeros(1, *run.input_shape)
    before, after = (sum(layer_flops(network, example).values()) for network in (dense, run.model))
    parameters, parameters_dense = (sum(p.numel() for p in network.parameters()) for network in (run.model, dense))
    return Size(parameters, parameters_dense, after, before, before / after)


def size_pairs(size: Size) -> dict[str, str]:
    """The lines of ``compare_sizes`` for people."""
    left = size.flops / size.flops_dense
    return {
        "parameters": share(size.parameters, size.parameters_dense),
        "inference FLOPs": f"{flops(size.flops)} of {flops(size.flops_dense)} ({percent(left)})",
        "speed-up in theory": f"{size.theoretical_speedup:.2f}x",
    }


def compare_latencies(run: LoadedRun, batches: Sequence[int], device: torch.device) -> LatencyComparison:
    """Milliseconds per batch before and after, measured in turn on ``device``; random images and weights do."""
    networks = {_DENSE: run.dense_network().to(device), _SAVED: run.model.to(device)}
    same = _shapes(networks[_DENSE]) == _shapes(networks[_SAVED])
    rows = []
    for batch in batches:
        found: Mapping[str, Latency] = measure_latency(networks, torch.randn(batch, *run.input_shape, device=device))
        original, saved = found[_DENSE], found[_SAVED]
        rows.append(LatencyRow(batch, original, saved, None if same else original.median_ms / saved.median_ms))
    name = f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
    return LatencyComparison(name, torch.get_num_threads() if device.type == "cpu" else None, same, rows)


def print_latencies(times: LatencyComparison) -> None:
    """What was measured on, then one line per batch size: medians, quartiles, and the ratio."""
    threads = "" if times.threads is None else f", {times.threads} thread{'' if times.threads == 1 else 's'}"
    print(f"time per batch on {times.device}{threads}")
    columns = ["batch", "original ms", "quartiles ms", "saved ms", "quartiles ms", "ratio"]
    shown = columns[:-1] if times.same_sizes else columns
    print_table(shown, [_row_cells(row) for row in times.batches], right=shown)
    if times.same_sizes:
        print("both networks have the same layer sizes: their times differ by chance, and zeros make torch no faster")


def _row_cells(row: LatencyRow) -> list[str]:
    ratio = [] if row.ratio is None else [f"{row.ratio:.2f}x"]
    return [f"{row.batch}", *_cells(row.original), *_cells(row.saved), *ratio]


def _cells(latency: Latency) -> list[str]:
    return [f"{latency.median_ms:.3f}", f"{latency.lower_quartile_ms:.3f} to {latency.upper_quartile_ms:.3f}"]


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in network.named_parameters()}
