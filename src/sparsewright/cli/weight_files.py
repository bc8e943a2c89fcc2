"""Export weights to compact sparse files and to dense safetensors, from a run or from a file of either kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from sparsewright.cli.destinations import check_destination
from sparsewright.cli.tables import print_json, print_pairs
from sparsewright.export.sparse import FORMAT, SPARSE_SUFFIX, load_sparse, read_sparse_metadata, save_sparse
from sparsewright.files import write_atomically
from sparsewright.formats import percent
from sparsewright.training.folder import WEIGHTS
from sparsewright.training.loaded_run import unfinished
from sparsewright.training.weights import METADATA_KEY, file_metadata, read_tensors

DENSE_SUFFIX = ".safetensors"


def export_sparse(
    target: Path, out: Path | None, half: str | None, *, signed_zeros: bool, force: bool, as_json: bool
) -> None:
    """Write weights without their zeros, and print the size beside that of the dense weights.

    Raises:
        FileNotFoundError: there is no such run or file, it is not finished, or the folder to write into is missing.
        FileExistsError: the file exists and ``force`` is false.
        IsADirectoryError: ``out`` is a folder.
        ValueError: files are damaged, or ``out`` does not end in .sparse.
        SaveError: writing failed.
    """
    source, tensors, metadata = _read(target)
    path = out or source.with_suffix(SPARSE_SUFFIX)
    _refuse_itself(source, path)
    check_destination(path, (SPARSE_SUFFIX,), force=force)
    save_sparse(tensors, path, values=half, signed_zeros=signed_zeros, metadata=metadata)
    _report(target, path, "sparse", tensors, as_json=as_json)


def export_dense(target: Path, out: Path | None, *, force: bool, as_json: bool) -> None:
    """Write weights as plain safetensors, each tensor under its first name.

    Raises:
        As :func:`export_sparse`, for .safetensors.
    """
    source, tensors, metadata = _read(target)
    path = out or source.with_suffix(DENSE_SUFFIX)
    _refuse_itself(source, path)
    check_destination(path, (DENSE_SUFFIX,), force=force)
    first = {id(tensor): name for name, tensor in reversed(tensors.items())}
    once = {name: tensor.contiguous() for name, tensor in tensors.items() if first[id(tensor)] == name}
    text = {METADATA_KEY: json.dumps(metadata, sort_keys=True)} if metadata else None
    content = safetensors.torch.save(once, metadata=text)
    write_atomically(path, lambda stream: stream.write(content))
    _report(target, path, "safetensors", tensors, as_json=as_json)


def _refuse_itself(source: Path, path: Path) -> None:
    if path.exists() and path.samefile(source):
        raise ValueError(f"{source} is what is exported; choose another file with --out")


def _read(target: Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """The file that weights come from, they themselves, and what is known about them."""
    source = target / WEIGHTS if target.is_dir() else target
    if not source.is_file():
        raise FileNotFoundError(f"there is no {source}{unfinished(source)}")
    if source.suffix not in (DENSE_SUFFIX, SPARSE_SUFFIX):
        raise ValueError(f"{source} is neither a run nor a {DENSE_SUFFIX} or {SPARSE_SUFFIX} file")
    metadata = {} if source.suffix == SPARSE_SUFFIX else file_metadata(source) or {}
    # A sparse file is a safetensors file, and may be called that.
    if source.suffix == SPARSE_SUFFIX or metadata.get("format") == FORMAT:
        return source, load_sparse(source), read_sparse_metadata(source)
    return source, read_tensors(source), metadata


def _report(target: Path, path: Path, format_: str, tensors: Mapping[str, Tensor], *, as_json: bool) -> None:
    once = {id(tensor): tensor for tensor in tensors.values()}.values()
    written, dense = path.stat().st_size, sum(tensor.nbytes for tensor in once)
    weights = [tensor for tensor in once if tensor.dim() >= 2]
    total = sum(tensor.numel() for tensor in weights)
    kept = sum(int(tensor.count_nonzero()) for tensor in weights)
    if as_json:
        facts = {"target": target, "file": path, "format": format_, "bytes": written, "dense_bytes": dense}
        print_json(facts | {"weights": total, "nonzero": kept})
        return
    print_pairs(
        {
            "file": str(path),
            "bytes": f"{written:,} of {dense:,} dense ({percent(written / dense) if dense else 'nothing'})",
            "weights": f"{kept:,} of {total:,} are not zero" if total else "none with two or more dimensions",
        }
    )
