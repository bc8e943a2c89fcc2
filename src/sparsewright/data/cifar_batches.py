"""CIFAR's pickled batches, read without trusting them.

Unpickling runs what the file says, and a file with another checksum may say anything: only what numpy arrays are made
of is let through.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_RECONSTRUCT = np.empty(0).__reduce__()[0]


def _dtype(code: str, align: object = False, copy: object = False) -> np.dtype[Any]:
    # Old pickles give the flags as integers, which numpy no longer likes.
    return np.dtype(code, align=bool(align), copy=bool(copy))


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes bytes as {encoding!r}")
    return text.encode("latin1")


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which has no place in a file of images")
        return _ALLOWED[module, name]


def read_batch(path: Path, label_key: str) -> tuple[Tensor, Tensor, str]:
    """Read one batch file.

    Args:
        path: a pickled dict with "data" (uint8, count x 3072) and labels.
        label_key: "labels" or "fine_labels".

    Returns:
        uint8 images (count, 3, 32, 32), int64 labels (count), and the file's md5.

    Raises:
        ValueError: if the file is truncated, no such dict, or asks for anything but arrays; the file is named.
    """
    raw = path.read_bytes()
    try:
        entry = _ArrayUnpickler(io.BytesIO(raw), encoding="latin1").load()
        pixels, labels = entry["data"], entry[label_key]
        images = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.uint8)).view(-1, 3, 32, 32)
        targets = torch.tensor(labels, dtype=torch.int64)
    except Exception as error:  # a damaged pickle fails in any way
        raise ValueError(f"{path.name}: {type(error).__name__}: {error}") from error
    return images, targets, hashlib.md5(raw, usedforsecurity=False).hexdigest()
