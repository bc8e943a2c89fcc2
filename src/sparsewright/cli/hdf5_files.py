"""Export the weights of a run, and show what an exported file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from sparsewright.analysis import LayerRow, table_totals
from sparsewright.cli.destinations import check_destination
from sparsewright.cli.tables import print_json, print_layers, print_pairs
from sparsewright.export import HDF5_SUFFIXES, load_hdf5, read_hdf5_metadata, save_hdf5
from sparsewright.formats import percent


def export_hdf5(target: Path, out: Path | None, *, force: bool, as_json: bool) -> None:
    """Write the final weights of a run to an HDF5 file, and print its size beside that of the dense weights.

    Raises:
        FileNotFoundError: there is no such run, it is not finished, or the folder to write into is missing.
        FileExistsError: the file exists and ``force`` is false.
        IsADirectoryError: ``out`` is a folder.
        ValueError: the run's files are damaged, or ``out`` has no suffix of HDF5.
        SaveError: writing failed.
    """
    # To look into a file, the trainer's packages, which are slow to import, are not needed.
    from sparsewright.training import load_run
    from sparsewright.training.weights import WEIGHTS, first_names, read_metadata

    weights = target / WEIGHTS if target.is_dir() else target
    run = load_run(target)
    path = check_destination(out or weights.with_suffix(HDF5_SUFFIXES[0]), HDF5_SUFFIXES, force=force)
    tensors = first_names(run.model)
    # A summary tells of the final weights only, whatever other weights lie beside it.
    summary = run.summary if weights.name == WEIGHTS else None
    save_hdf5(path, tensors, read_metadata(weights) | _facts(run.recipe.name, summary))
    written, dense = path.stat().st_size, sum(tensor.nbytes for tensor in tensors.values())
    if as_json:
        print_json({"target": target, "file": path, "format": "hdf5", "bytes": written, "dense_bytes": dense})
    else:
        print_pairs(
            {
                "recipe": run.recipe.name,
                "file": str(path),
                "bytes": f"{written:,} of {dense:,} dense ({percent(written / dense)})",
            }
        )


def show_hdf5(target: Path, *, as_json: bool) -> None:
    """Print shape and zeros of every dataset of an HDF5 file, then totals.

    Raises:
        FileNotFoundError: there is no such file.
        HDF5Error: it is damaged, or holds something other than flat numeric datasets.
    """
    tensors, metadata = load_hdf5(target), read_hdf5_metadata(target)
    rows = [_row(name, tensor) for name, tensor in tensors.items()]
    totals = _totals(rows)
    if as_json:
        shown = {
            "target": target,
            "metadata": metadata,
            "datasets": [_fields(row) for row in rows],
            "totals": {name: _fields(row) for name, row in totals.items()},
        }
        print_json(shown)
        return
    known = {name: str(metadata[name]) for name in ("recipe", "method") if name in metadata} if metadata else {}
    if known:
        print_pairs(known)
        print()
    print_layers(rows, list(totals.values()), title="dataset")


def _facts(recipe: str, summary: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"recipe": recipe} | {name: summary[name] for name in ("method", "sparsity") if summary and name in summary}


def _row(name: str, tensor: Tensor) -> LayerRow:
    # Torch counts in bool what it does not count in unsigned integers of more than 8 bits.
    weights, nonzero = tensor.numel(), int(tensor.bool().count_nonzero())
    return LayerRow(name, tuple(tensor.shape), weights, nonzero, sparsity=1 - nonzero / weights if weights else 0.0)


def _totals(rows: Sequence[LayerRow]) -> dict[str, LayerRow]:
    """Sums over the layers' weights and over everything; one over no weights is left out."""
    layers = [row for row in rows if len(row.shape) >= 2]
    sums = {"layers": (layers, "2 or more dimensions"), "all": (rows, "all")}
    return {key: table_totals(some, name) for key, (some, name) in sums.items() if any(row.weights for row in some)}


def _fields(row: LayerRow) -> dict[str, Any]:
    return {name: value for name, value in asdict(row).items() if not name.startswith("flops")}
