"""Run ``sparsewright bench`` and show what was measured."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsewright.bench import ENGINES, BenchResult, BenchRow, bench_network, machine
from sparsewright.cli.destinations import check_destination
from sparsewright.cli.lists import listed, listed_whole
from sparsewright.cli.tables import print_json, print_pairs, print_table
from sparsewright.export.sparse import save_sparse
from sparsewright.files import write_text
from sparsewright.formats import percent
from sparsewright.report.bench_picture import write_picture
from sparsewright.report.bench_section import BenchRecord, BenchSizes
from sparsewright.report.run_report import write_run_report
from sparsewright.runtime import Compilation
from sparsewright.runtime.compiled import LEFT_DENSE, TIMED_ONLY
from sparsewright.runtime.library import kernels
from sparsewright.training import load_run
from sparsewright.training.folder import BENCH
from sparsewright.training.weights import first_names

SUFFIXES = (".png", ".json")


def run_bench(
    target: Path,
    *,
    batch: str,
    threads: str | None,
    engines: str | None,
    layers: bool,
    seconds: float,
    out: Path | None,
    report: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Measure, print, and write what was asked for.

    Raises:
        FileNotFoundError, FileExistsError, IsADirectoryError, ValueError: there is no such run, its files are damaged,
            ``out`` cannot be written, or an option is not a list of what it should be.
        EngineError: no engine can run the network.
        SaveError: writing failed.
    """
    batches, counts = _positive(batch, "--batch"), [torch.get_num_threads()]
    if threads is not None:
        counts = _positive(threads, "--threads")
    names = [name for name in ENGINES if ENGINES[name].installed] if engines is None else listed(engines, "--engines")
    if missing := [name for name in names if name in ENGINES and not ENGINES[name].installed]:
        package = ENGINES[missing[0]].package
        raise ValueError(f"--engines {missing[0]}: {package} is not installed; install it with: pip install {package}")
    # A misspelt SPARSEWRIGHT_KERNELS is told of before anything is measured.
    kernels()
    path = None if out is None else check_destination(out, SUFFIXES, force=force)
    if report and not target.is_dir():
        raise ValueError(f"--report is for a run folder, and {target} is a file")
    run = load_run(target)
    result = bench_network(
        run.model,
        torch.randn(run.input_shape),
        batches=batches,
        threads=counts,
        engines=names,
        seconds=seconds,
        progress=_progress,
    )
    record = _record(run.recipe.name, result, file_sizes(run.model))
    if as_json:
        print_json({"target": target, **record})
    else:
        print_bench(result, record, layers=layers)
    if path is not None:
        _write(path, run.recipe.name, record)
        _progress(f"written to {path}")
    if report:
        write_text(target / BENCH, json.dumps(record, indent=1) + "\n")
        _progress(f"report {write_run_report(target)}")


def file_sizes(model: nn.Module) -> BenchSizes:
    """How large the weights of a network are as files: as they are in memory, and as compact files."""
    tensors = first_names(model)
    dense = sum(tensor.nbytes for tensor in tensors.values())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.sparse"
        save_sparse(tensors, file, signed_zeros=False)
        exact = file.stat().st_size
        try:
            save_sparse(tensors, file, values="float16", signed_zeros=False)
        except ValueError:
            # A weight is too large for 16 bits.
            return BenchSizes(dense=dense, sparse=exact, sparse_float16=None)
        return BenchSizes(dense=dense, sparse=exact, sparse_float16=file.stat().st_size)


def print_bench(result: BenchResult, record: dict[str, Any], *, layers: bool) -> None:
    """The table of engines, the sizes of files and, if asked for, the kernels of each layer."""
    columns = ["engine", "batch", "threads", "median ms", "quartiles ms", "speed-up", "difference"]
    print_table(columns, [_cells(row) for row in result.rows], right=columns[1:])
    for row in result.rows:
        if row.failure:
            print(f"{ENGINES[row.engine].label}: {row.failure}")
    print()
    print_pairs({"machine": record["machine"], **_size_pairs(BenchSizes.model_validate(record["sizes"]))})
    for (batch, threads), made in result.compilations.items():
        _print_compilation(batch, threads, made, layers=layers)


def _print_compilation(batch: int, threads: int, made: Compilation, *, layers: bool) -> None:
    print(f"\nsparsewright, batch {batch}, {threads} thread{'' if threads == 1 else 's'}: {made.engine}")
    if made.reason:
        print(f"not on kernels: {made.reason}")
    if made.through_torch:
        print(f"through torch: {', '.join(made.through_torch)}")
    if layers and made.layers:
        if made.engine == LEFT_DENSE:
            print(TIMED_ONLY)
        rows = [
            [layer.layer, percent(layer.sparsity), layer.kernel, _times(layer.milliseconds)] for layer in made.layers
        ]
        print_table(["layer", "sparsity", "kernel", "ms of each kernel"], rows, right=["sparsity"])


def _record(name: str, result: BenchResult, sizes: BenchSizes) -> dict[str, Any]:
    return {
        "kind": "bench",
        "date": date.today().isoformat(),
        "machine": machine(),
        "recipe": name,
        "sizes": sizes.model_dump(),
        "rows": [{**asdict(row), "label": ENGINES[row.engine].label} for row in result.rows],
        "compilations": [
            {"batch": batch, "threads": threads, **asdict(made)}
            for (batch, threads), made in result.compilations.items()
        ],
    }


def _size_pairs(sizes: BenchSizes) -> dict[str, str]:
    def part(size: int) -> str:
        return f"{size:,} ({percent(size / sizes.dense)} of dense)"

    pairs = {"dense weights, bytes": f"{sizes.dense:,}", "sparse file, bytes": part(sizes.sparse)}
    if sizes.sparse_float16 is not None:
        pairs["with 16-bit values"] = part(sizes.sparse_float16)
    return pairs


def _cells(row: BenchRow) -> list[str]:
    cells = [ENGINES[row.engine].label, f"{row.batch}", f"{row.threads}"]
    if row.latency is None:
        return [*cells, "failed", "", "", ""]
    quartiles = f"{row.latency.lower_quartile_ms:.3f} to {row.latency.upper_quartile_ms:.3f}"
    speedup = "" if row.speedup is None else f"{row.speedup:.2f}x"
    difference = "" if row.difference is None else f"{row.difference:.0e}"
    return [*cells, f"{row.latency.median_ms:.3f}", quartiles, speedup, difference]


def _times(milliseconds: Any) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in milliseconds.items())


def _positive(text: str, option: str) -> list[int]:
    numbers = listed_whole(text, option)
    if min(numbers) < 1:
        raise ValueError(f"{option} is a list of whole numbers from 1 on, got {text!r}")
    return numbers


def _progress(message: str) -> None:
    print(f"{message} ...", file=sys.stderr)


def _write(path: Path, name: str, record: dict[str, Any]) -> None:
    if path.suffix.lower() == ".json":
        write_text(path, json.dumps(record, indent=1) + "\n")
    else:
        write_picture(path, name, BenchRecord.model_validate(record).rows)
