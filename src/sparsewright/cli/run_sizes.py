"""How large a run's network is, and how fast, beside the one that it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from sparsewright.analysis import Latency, layer_flops, measure_latency
from sparsewright.cli.tables import flops, percent, print_table, share
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
        ratio: median of the first over that of the second; above 1 the saved network is the faster one.
    """

    batch: int
    original: Latency
    saved: Latency
    ratio: float


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


def compare_latencies(run: LoadedRun, batches: Sequence[int], device: torch.device) -> list[LatencyRow]:
    """Milliseconds per batch before and after, measured in turn on ``device``; random images and weights do."""
    networks = {_DENSE: run.dense_network().to(device), _SAVED: run.model.to(device)}
    rows = []
    for batch in batches:
        found: Mapping[str, Latency] = measure_latency(networks, torch.randn(batch, *run.input_shape, device=device))
        original, saved = found[_DENSE], found[_SAVED]
        rows.append(LatencyRow(batch, original, saved, original.median / saved.median))
    return rows


def print_latencies(rows: Sequence[LatencyRow]) -> None:
    """One line per batch size: medians, quartiles, and the ratio."""
    columns = ["batch", "original ms", "quartiles", "saved ms", "quartiles", "ratio"]
    cells = [[f"{row.batch}", *_cells(row.original), *_cells(row.saved), f"{row.ratio:.2f}x"] for row in rows]
    print_table(columns, cells, right=columns)


def _cells(latency: Latency) -> list[str]:
    return [f"{latency.median:.3f}", f"{latency.low:.3f} to {latency.high:.3f}"]
