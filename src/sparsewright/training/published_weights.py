"""Reading the checkpoints that research projects publish, without running code from them."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsewright.checks import join_names
from sparsewright.export import is_hdf5, load_hdf5
from sparsewright.scope import canonical_names
from sparsewright.training.masks_file import refuse_masks
from sparsewright.training.shrinking import read_widths
from sparsewright.training.weights import read_tensors

KEYS = ("state_dict", "model_state_dict", "model", "net")
"""Where in a checkpoint the weights are looked for, in this order."""

SAFETENSORS_SUFFIX = ".safetensors"

_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
# What projects keep beside the weights: their arguments and a best accuracy. None of it runs code when it is read.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    type(np.dtype(np.float32)),
    type(np.dtype(np.float64)),
    _NUMPY_SCALAR,
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
]


@dataclass(frozen=True)
class PublishedWeights:
    """The weights of a checkpoint.

    Attributes:
        path: the file.
        key: the key of the file that they were under; None where the file is the state dict itself.
        tensors: name -> tensor on the CPU, without the prefixes of wrappers (``module.``, ``_orig_mod.``).
        others: names of the entries of the state dict that are no tensors.
        shrunk: whether the file says that its network was made smaller.
    """

    path: Path
    key: str | None
    tensors: Mapping[str, Tensor]
    others: tuple[str, ...] = ()
    shrunk: bool = False


def read_published(path: Path) -> PublishedWeights:
    """Reads a safetensors file, an HDF5 file, or a checkpoint that ``torch.save`` wrote.

    A checkpoint is a state dict, or a mapping with one under one of ``KEYS``. It is read with ``weights_only=True``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds no weights, or cannot be read without running code from it.
        ModuleNotFoundError: an HDF5 file, and h5py is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}" + (", but a folder" if path.is_dir() else ""))
    if is_hdf5(path):
        return PublishedWeights(path, None, load_hdf5(path), shrunk=bool(read_widths(path)))
    if path.suffix.lower() == SAFETENSORS_SUFFIX:
        refuse_masks(path)
        tensors = read_tensors(path)
        return _without_prefixes(path, None, tensors, shrunk=bool(read_widths(path)))
    key, state = find_state(path, _load(path))
    return _without_prefixes(path, key, state)


def find_state(path: Path, content: object) -> tuple[str | None, Mapping[str, Any]]:
    """The state dict in the ``content`` of a checkpoint, and the key that it is under.

    Raises:
        ValueError: there is none; the error names what is there instead.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds no weights: it is a {type(content).__name__}, not a state dict")
    for key in KEYS:
        if _holds_tensors(content.get(key)):
            return key, content[key]
    if _holds_tensors(content):
        return None, content
    found, keys = join_names(map(str, content)) or "nothing", ", ".join(KEYS)
    raise ValueError(
        f"{path} holds no mapping of names to tensors, neither at the top nor right under {keys}; it has {found}"
    )


def _holds_tensors(value: object) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def _without_prefixes(
    path: Path, key: str | None, state: Mapping[str, Any], *, shrunk: bool = False
) -> PublishedWeights:
    names = canonical_names(map(str, state))
    tensors = {names[str(name)]: value for name, value in state.items() if isinstance(value, Tensor)}
    others = tuple(names[str(name)] for name, value in state.items() if not isinstance(value, Tensor))
    return PublishedWeights(path, key, tensors, others, shrunk)


def _load(path: Path) -> object:
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            # Of a TorchScript archive torch warns before it refuses it.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle fails in any way
        raise ValueError(_why(path, error)) from error


def _why(path: Path, error: Exception) -> str:
    if "TorchScript" in str(error):
        return f"{path} is a TorchScript archive, whose code is not run; torch.jit.load it and save its state_dict()"
    if "Unsupported global" not in str(error):
        return f"{path} is damaged, or no checkpoint that torch.save wrote"
    objects = join_names(_foreign_objects(path) or [_first_foreign_object(error)])
    return (
        f"{path} holds more than tensors and plain values ({objects}), and reading those can run any code; if you "
        "trust it, load it with torch.load(FILE, weights_only=False) where its code is at hand, and torch.save the "
        "state dict of what comes out"
    )


def _foreign_objects(path: Path) -> list[str]:
    """Empty where that cannot be found out: in a damaged file, and in the format from before torch 1.6."""
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except MemoryError:
        raise
    except Exception:
        return []


def _first_foreign_object(error: Exception) -> str:
    return str(error).partition("GLOBAL ")[2].partition(" ")[0]
