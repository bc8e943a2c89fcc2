"""Weights in HDF5, as users of GSM exchange them (arXiv 1909.12778): one dataset per tensor at the top of the file.

A dataset goes by its tensor's name, with ``+`` for ``/``, which would nest it in groups. What this library knows about
the weights is JSON in one attribute of the file, which other readers do not see.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsewright.extras import explain_missing
from sparsewright.files import write_atomically
from sparsewright.scope import canonical_names

if TYPE_CHECKING:
    import h5py
    import numpy as np

HDF5_SUFFIXES = (".hdf5", ".h5")

ATTRIBUTE = "sparsewright"

COMPRESSED_FROM = 4096
"""Bytes of a tensor. Chunks and their index would make smaller ones larger."""

CHUNK_BYTES = 2**20
"""The default size of HDF5's chunk cache."""

# Chunk indices take kilobytes per dataset before this version of the format (2016), and have no checksums.
_FORMAT = ("v110", "v110")
_IN_NUMPY = (torch.float16, torch.float32, torch.float64)


class HDF5Error(ValueError):
    """A file that is not HDF5, is damaged, or holds something other than flat numeric datasets."""


def is_hdf5(path: Path) -> bool:
    """Whether a file of this name is taken for HDF5; it need not be there."""
    return path.suffix.lower() in HDF5_SUFFIXES


def save_hdf5(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Writes one dataset per tensor; the same tensors and metadata give the same bytes with the same HDF5 library.

    Floating-point types that numpy lacks (bfloat16, the 8-bit ones) are stored as float32, which holds their values
    exactly; all others keep their type. From 4 KiB on, datasets are compressed, so that zeros take next to no room.

    Args:
        path: a former file there is replaced.
        tensors: such as a ``state_dict()``, on any device. Prefixes that wrappers put before the names (``module.``
            and the like) are left out.
        metadata: whatever JSON can hold, for :func:`read_hdf5_metadata`; None stores none.

    Raises:
        SaveError: writing failed; a former file at ``path`` is intact.
        TypeError: a tensor that numpy cannot hold (sparse, quantised, without data), or metadata that JSON cannot.
        ValueError: no tensors, or a name that the file cannot hold.
        ModuleNotFoundError: h5py, or a package of the extra ``train``, is not installed.
    """
    content = _file_image(tensors, metadata)
    write_atomically(Path(path), lambda stream: stream.write(content.getbuffer()))


def load_hdf5(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a file by name, on the CPU; prefixes that wrappers put before the names are stripped.

    Takes files of :func:`save_hdf5`, whose tensors come in the order in which they were saved, files of GSM's original
    code, and any other of flat numeric datasets, in the order of their names.

    Raises:
        FileNotFoundError: there is no such file.
        HDF5Error: it is damaged or not HDF5, has groups or links, no datasets, or one that is not numeric.
        ModuleNotFoundError: h5py is not installed.
    """
    with _opened(Path(path)) as file:
        tensors = {key.replace("+", "/"): _read(file, key) for key in file}
    if not tensors:
        raise HDF5Error(f"{path} holds no datasets")
    names = canonical_names(tensors)
    return {names[name]: tensor for name, tensor in tensors.items()}


def read_hdf5_metadata(path: Path | str) -> dict[str, Any] | None:
    """What :func:`save_hdf5` was given as metadata; None for a file without.

    Raises:
        FileNotFoundError: there is no such file.
        HDF5Error: it is damaged or not HDF5, or the metadata is not ours.
        ModuleNotFoundError: h5py is not installed.
    """
    with _opened(Path(path)) as file:
        if ATTRIBUTE not in file.attrs:
            return None
        ours = file.attrs.get_id(ATTRIBUTE).dtype.kind == "S"
        text = file.attrs[ATTRIBUTE] if ours else b""
    try:
        metadata = json.loads(text)
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict):
        raise HDF5Error(f"{path}: the attribute {ATTRIBUTE} is damaged, or was not written by this library")
    return metadata


def _file_image(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None) -> BytesIO:
    import numpy as np

    if not tensors:
        raise ValueError("there are no tensors to save")
    names = canonical_names(tensors)
    image = BytesIO()
    with _h5py().File(image, "w", libver=_FORMAT, track_order=True, track_times=False) as file:
        for name, tensor in tensors.items():
            array = _to_array(name, tensor)
            file.create_dataset(_key(names[name]), data=array, track_times=False, **_layout(array))
        if metadata is not None:
            # HDF5 keeps text of variable length on a heap without checksums, where damage can make a reader hang.
            file.attrs[ATTRIBUTE] = np.bytes_(json.dumps(dict(metadata), sort_keys=True))
    return image


def _layout(array: np.ndarray) -> dict[str, Any]:
    if array.nbytes < COMPRESSED_FROM:
        return {}
    # Bytes of like significance side by side compress better, unless zeros lie between them: each run of zeros is then
    # broken once per byte of a value instead of once. Measured on random masks, 20 % of zeros are the break-even.
    few_zeros = float((array != 0).mean()) > 0.8
    return {"chunks": _chunk_shape(array.shape, array.itemsize), "compression": "gzip", "shuffle": few_zeros}


def _chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """The largest block of values in a row of memory that fits a chunk."""
    chunk = [1] * len(shape)
    room = CHUNK_BYTES // itemsize
    for dimension in reversed(range(len(shape))):
        chunk[dimension] = min(shape[dimension], room)
        room //= chunk[dimension]
    return tuple(chunk)


def _key(name: str) -> str:
    key = name.replace("/", "+")
    if "+" in name or "\0" in name or key in ("", "."):
        raise ValueError(f"a tensor named {name!r} cannot be stored: names are not empty, not '.', and have no '+'")
    return key


def _to_array(name: str, tensor: Tensor) -> np.ndarray:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    try:
        widened = tensor.is_floating_point() and tensor.dtype not in _IN_NUMPY
        return (tensor.float() if widened else tensor).numpy(force=True)
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{name} ({tensor.dtype}, {tensor.layout}) cannot be stored: {error}") from error


def _read(file: h5py.File, key: str) -> Tensor:
    import numpy as np

    dataset = _dataset(file, key)
    try:
        array = np.asarray(dataset[()])
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except TypeError as error:
        raise HDF5Error(f"{file.filename}: dataset {key} does not hold numbers of a type that torch has") from error


def _dataset(file: h5py.File, key: str) -> h5py.Dataset:
    h5py = _h5py()
    # Values that lie in other files could come from anywhere, so they are not followed.
    if not isinstance(file.get(key, getlink=True), h5py.HardLink):
        raise HDF5Error(f"{file.filename}: {key} is a link; only datasets in the file itself are read")
    node: Any = file[key]
    if isinstance(node, h5py.Group):
        raise HDF5Error(f"{file.filename}: {key} is a group; only datasets at the top level are read")
    if not isinstance(node, h5py.Dataset):
        raise HDF5Error(f"{file.filename}: {key} is not a dataset")
    if node.external or node.is_virtual:
        raise HDF5Error(f"{file.filename}: dataset {key} has its values in another file; only the file itself is read")
    return node


@contextmanager
def _opened(path: Path) -> Generator[Any, None, None]:
    """The open ``h5py.File``; what h5py raises at damaged places, of many types, becomes an HDF5Error."""
    h5py = _h5py()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except HDF5Error:
        raise
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        # With a number it is the system that refuses: no permission, a lock.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise HDF5Error(f"{path} is damaged or not an HDF5 file") from error


def _h5py() -> ModuleType:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(explain_missing(error), name=error.name) from error
    return h5py
