"""Compact files of sparse networks: a state_dict in safetensors, each tensor without its zeros.

Any reader of safetensors opens the file; its metadata say how a tensor is put together (:data:`ABOUT`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sparsewright.checks import join_names
from sparsewright.export.sparse_tensor import (
    DENSE,
    HALF_TYPES,
    StoredTensor,
    check_storable,
    claimed_bytes,
    most_bytes,
    restore,
    store,
)
from sparsewright.extras import explain_missing
from sparsewright.files import write_atomically

SPARSE_SUFFIX = ".sparse"

METADATA_KEY = "sparsewright"
FORMAT, VERSION = "sparse state_dict", 1

ABOUT = """\
"tensors" lists the tensors of a state_dict in their order; "parts" names the entries of this file that hold one. \
dense: "values" is the tensor. sparse: "values" holds its entries that are not zero in row-major order, "mask" says \
which those are, and "negative zeros", if there, which zeros are -0.0. A bit mask: bit i % 8 (lowest first) of byte i \
// 8 stands for entry i. gaps: the number of entries before each of the "count" chosen ones since the last, Rice- \
coded: first, for each of the "shift" low bits from the lowest on, one bit map with this bit of every number; then \
one bit map with the rest of each number in unary, as zeros ended by a one; each bit map fills whole bytes, lowest \
bit first. Values of a type that not every reader has (complex, 8-bit floating-point, larger unsigned) are kept as \
bytes. "same as": another name of a tensor before. "checksum": CRC-32 of the text of {"metadata", \
"tensors", "version"} (JSON, keys sorted, no spaces) and the parts in order."""


class SparseFileError(ValueError):
    """A file that is damaged, or not a sparse file of this library."""


def save_sparse(
    tensors: Mapping[str, Tensor],
    file: Path | str,
    *,
    values: str | None = None,
    signed_zeros: bool = True,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a state_dict without its zeros; the same tensors and metadata give the same bytes.

    Each tensor is kept as a bit mask, as coded gaps or dense, whichever is smallest. A tensor under several names is
    written once.

    Args:
        tensors: such as ``model.state_dict()``, of any types, shapes and devices.
        file: a former file there is replaced.
        values: "float16" or "bfloat16" rounds the values of floating-point tensors with two or more dimensions (biases
            and statistics keep theirs); :func:`load_sparse` gives them back in their own type. None keeps every bit.
        signed_zeros: whether -0.0 comes back as -0.0. A product with a mask leaves many behind, whose signs can take
            more room than the weights; False makes zeros of sparse tensors plain 0.
        metadata: whatever JSON can hold, for :func:`read_sparse_metadata`.

    Raises:
        ModuleNotFoundError: safetensors is not installed.
        SaveError: writing failed; a former file is intact.
        TypeError: no mapping, something in it that is no tensor with plain values, or metadata that JSON cannot hold.
        ValueError: no tensors, an unknown type of values, or a value too large for it.
    """
    if values is not None and values not in HALF_TYPES:
        raise ValueError(f"values must be one of {join_names(HALF_TYPES)} or None, got {values!r}")
    if not isinstance(tensors, Mapping):
        name = type(tensors).__name__
        raise TypeError(f"tensors must map names to tensors, as model.state_dict() does, got {name}")
    if not tensors:
        raise ValueError("there are no tensors to save")
    entries, parts = _encoded(tensors, values, signed_zeros)
    header: dict[str, Any] = {"format": FORMAT, "version": VERSION, "about": ABOUT}
    header |= {"tensors": entries, "metadata": dict(metadata or {})}
    header["checksum"] = _checksum(header, parts)
    content = _safetensors().torch.save(parts, metadata={METADATA_KEY: json.dumps(header)})
    write_atomically(Path(file), lambda stream: stream.write(content))


def load_sparse(file: Path | str) -> dict[str, Tensor]:
    """Read the state_dict that :func:`save_sparse` wrote: names in their order, shapes, types, every bit of the values.

    Args:
        file: the path of a file.

    Returns:
        Name -> dense tensor on the CPU; names of one tensor share it, as in a ``state_dict()``.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: safetensors is not installed.
        SparseFileError: a ValueError: the file is damaged or not a sparse file. No more memory is taken than the size
            of the file can account for.
    """
    header, parts = _read(Path(file))
    try:
        return _decoded(header, parts)
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise SparseFileError(f"{file} is damaged: its header lacks something or has it in the wrong form") from error
    except ValueError as error:
        raise SparseFileError(f"{file} is damaged: {error}") from error


def read_sparse_metadata(file: Path | str) -> dict[str, Any]:
    """What :func:`save_sparse` was given as metadata; empty for none.

    Raises:
        FileNotFoundError, ModuleNotFoundError, SparseFileError: as in :func:`load_sparse`.
    """
    metadata = _read(Path(file))[0].get("metadata")
    if not isinstance(metadata, dict):
        raise SparseFileError(f"{file} is damaged: its metadata are not a table")
    return metadata


def _encoded(
    tensors: Mapping[str, Tensor], half: str | None, signed_zeros: bool
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    # A mapping may make its tensors as they are asked for; held here, no two have the same address.
    tensors = {name: tensors[name] for name in tensors}
    entries: dict[str, Any] = {}
    parts: dict[str, Tensor] = {}
    first: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
        check_storable(name, tensor)
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)
        place = (*place, tensor.is_conj(), tensor.is_neg())
        if tensor.numel() and place in first:
            entries[name] = {"same as": first[place]}
            continue
        first[place] = name
        stored = store(name, tensor, half, signed_zeros=signed_zeros)
        keys = _keys(name, stored, tensors)
        entries[name] = stored.entry | {"parts": keys}
        parts |= {keys[part]: tensor.contiguous() for part, tensor in stored.parts.items()}
    return entries, parts


def _keys(name: str, stored: StoredTensor, taken: Mapping[str, Tensor]) -> dict[str, str]:
    """Names in the file: a dense tensor keeps its own, parts of others get one that no tensor has."""
    if stored.entry["encoding"] == DENSE:
        return {"values": name}
    keys = {part: f"{name}::{part}" for part in stored.parts}
    while any(key in taken for key in keys.values()):
        keys = {part: f"{key}'" for part, key in keys.items()}
    return keys


def _decoded(header: Mapping[str, Any], parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    entries = header["tensors"]
    used = [key for entry in entries.values() for key in entry.get("parts", {}).values()]
    if sorted(used) != sorted(parts):
        raise ValueError("its tensors are not made of its parts, each used once")
    if sum(map(claimed_bytes, entries.values())) > most_bytes(parts.values()):
        raise ValueError("its bytes cannot hold tensors of these shapes")
    if _checksum(header, parts) != header["checksum"]:
        raise ValueError("its checksum is not that of its content")
    result: dict[str, Tensor] = {}
    for name, entry in entries.items():
        if "same as" in entry:
            result[name] = result[entry["same as"]]
            continue
        try:
            result[name] = restore(entry, {part: parts[key] for part, key in entry["parts"].items()})
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError, OverflowError) as error:
            raise ValueError(f"{name} cannot be restored ({type(error).__name__}: {error})") from error
    return result


def _checksum(header: Mapping[str, Any], parts: Mapping[str, Tensor]) -> int:
    covered = {name: header[name] for name in ("version", "tensors", "metadata")}
    checksum = zlib.crc32(json.dumps(covered, sort_keys=True, separators=(",", ":")).encode())
    for entry in header["tensors"].values():
        for key in entry.get("parts", {}).values():
            content = parts[key].contiguous().reshape(-1).view(torch.uint8)
            checksum = zlib.crc32(content.numpy().tobytes(), checksum)
    return checksum


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    safetensors = _safetensors()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as content:
            text = (content.metadata() or {}).get(METADATA_KEY, "{}")
            header = json.loads(text)
            parts = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, RuntimeError, ValueError, RecursionError) as error:
        raise SparseFileError(f"{path} is damaged or not a safetensors file") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise SparseFileError(f"{path} is not a sparse file: write one with save_sparse or export --format sparse")
    if header.get("version") != VERSION:
        raise SparseFileError(
            f"{path} has version {header.get('version')!r} of the format; this library reads {VERSION}"
        )
    return header, parts


def _safetensors() -> ModuleType:
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(explain_missing(error), name=error.name) from error
    return safetensors
