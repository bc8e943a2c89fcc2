"""``sparsewright inspect``: the layers of a file of weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsewright.cli.options import AsJson, Device

if TYPE_CHECKING:
    from sparsewright.analysis import RankRow

DEFAULT_BATCHES = (1, 64)


def inspect(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="RUN_OR_FILE", help="A run folder, a model.safetensors or .sparse file in one, or an HDF5 file."
        ),
    ],
    rank: Annotated[bool, typer.Option("--rank", help="Show the ranks of the weights instead.")] = False,
    latency: Annotated[bool, typer.Option("--latency", help="Measure the time per batch as well.")] = False,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Images at a time for --latency; may be repeated.", show_default="1 and 64"),
    ] = None,
    device: Annotated[
        Device | None, typer.Option(help="What --latency measures on.", show_default=Device.cpu.value)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Layer by layer: shape, non-zero weights, sparsity and share of the inference FLOPs; then the totals.

    Zeros are counted in the saved file; a weight that the mask keeps can be zero too. FLOPs are per sample, two for
    each multiply-accumulate; a layer's share is of the FLOPs that the zeros leave.

    Of a run with a shrink stage, the layers are those of the smaller network; parameters and FLOPs of it and of the
    network that it was made from, and the ratio of their FLOPs, come after.

    --latency measures milliseconds per batch of that network and of the saved one, in turn in one run: the median, the
    quartiles, and the ratio of the medians, unless the layers of both have the same sizes: zeros that are still there
    make nothing faster. The number of CPU threads is torch's (OMP_NUM_THREADS).

    Of an HDF5 file (.hdf5, .h5), whoever wrote it, every dataset is shown, buffers included. It does not say what
    network the weights are of, so there are no FLOPs.

    --rank reads each weight as a matrix, filters x rest, and shows its singular values above rounding (rank), that
    number over the smaller side of the matrix (ratio), the number of the largest that hold 90, 95 and 99 % of the
    squared norm, stable rank and effective rank; then the means over the layers. Of an HDF5 file these are the datasets
    of floating-point numbers with 2 or more dimensions.

    \b
    Examples:
      sparsewright inspect runs/first
      sparsewright inspect runs/first/model.safetensors --json
      sparsewright inspect runs/first --rank
      sparsewright inspect runs/first --latency --batch 1 --batch 64
      sparsewright inspect runs/first/model.hdf5
    """
    from sparsewright.export import is_hdf5

    if not latency and (batch or device is not None):
        raise ValueError("--batch and --device have no effect without --latency")
    if rank and latency:
        raise ValueError("--rank shows ranks alone; leave it out to measure with --latency")
    if rank:
        _show_ranks(target, as_json=as_json)
        return
    if is_hdf5(target) and not target.is_dir():
        if latency:
            raise ValueError(f"{target} does not hold the network that --latency would measure; give the run")
        from sparsewright.cli.hdf5_files import show_hdf5

        show_hdf5(target, as_json=as_json)
        return
    _show_run(target, (batch or list(DEFAULT_BATCHES)) if latency else [], device or Device.cpu, as_json=as_json)


def _show_run(target: Path, batches: list[int], device: Device, *, as_json: bool) -> None:
    import torch

    from sparsewright.analysis import layer_table, table_totals
    from sparsewright.cli import run_sizes, tables
    from sparsewright.training import load_run
    from sparsewright.training.launch import resolve_device

    run = load_run(target)
    rows = layer_table(run.model, torch.zeros(1, *run.input_shape))
    size = run_sizes.compare_sizes(run) if run.shrunk else None
    times = run_sizes.compare_latencies(run, batches, torch.device(resolve_device(device.value))) if batches else None
    if as_json:
        shown = {"target": str(target), "layers": rows, "totals": table_totals(rows)}
        tables.print_json(shown | ({"size": size} if size else {}) | ({"latency": times} if times else {}))
        return
    tables.print_layers(rows)
    if size is not None:
        typer.echo()
        tables.print_pairs(run_sizes.size_pairs(size))
    if times is not None:
        typer.echo()
        run_sizes.print_latencies(times)


def _show_ranks(target: Path, *, as_json: bool) -> None:
    from sparsewright.analysis import rank_averages
    from sparsewright.cli import tables

    rows = _rank_rows(target)
    if as_json:
        tables.print_json({"target": target, "layers": rows, "averages": rank_averages(rows)})
    else:
        tables.print_ranks(rows)


def _rank_rows(target: Path) -> list[RankRow]:
    from sparsewright.analysis import rank_rows, rank_table
    from sparsewright.export import is_hdf5, load_hdf5

    if not is_hdf5(target) or target.is_dir():
        from sparsewright.training import load_run

        return rank_table(load_run(target).model)
    matrices = {
        name: tensor
        for name, tensor in load_hdf5(target).items()
        if tensor.ndim >= 2 and tensor.numel() and tensor.is_floating_point()
    }
    if not matrices:
        raise ValueError(f"{target} holds no dataset of floating-point numbers with 2 or more dimensions")
    return rank_rows(matrices)
