"""The compiled kernels: which of them this machine runs, and the C structures that they read."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path

INSTRUCTIONS = ("avx512", "avx2", "portable")
"""Instruction sets with kernels of their own, best first."""

ENVIRONMENT = "SPARSEWRIGHT_KERNELS"
"""The environment variable that chooses one of them, or "torch" for none."""

VERSION = 1

_SIZES = ("width", "dense_rows", "most_vectors")
_FOLDER = Path(__file__).parent / "kernels"


class Kind(IntEnum):
    """What an operation does; see ``kernels/program.h``."""

    SPARSE = 0
    DENSE = 1
    SPARSE_ROW = 2
    DENSE_ROW = 3
    COPY = 4
    MAX_POOL = 5
    AVERAGE_POOL = 6
    GLOBAL_AVERAGE = 7
    AFFINE = 8
    PHASES = 9


class Planes(ctypes.Structure):
    """Where pixels lie: floats from channel to channel, of the first pixel, from image to image, row to row, pixel to
    pixel."""

    _fields_ = [(name, ctypes.c_int64) for name in ("plane", "begin", "image", "row", "column")]


class Operation(ctypes.Structure):
    """One operation, as in ``kernels/program.h``."""

    _fields_ = [
        ("kind", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("input", "output", "residual", "values", "offsets", "starts", "rows")),
        *((name, ctypes.c_void_p) for name in ("bias", "valid")),
        *((name, ctypes.c_float) for name in ("low", "high")),
        *(
            (name, ctypes.c_int64)
            for name in ("channels", "inputs", "positions", "tile", "passes", "images", "height", "width")
        ),
        *((name, ctypes.c_int64) for name in ("kernel_height", "kernel_width", "stride_height", "stride_width")),
        *((name, ctypes.c_int64) for name in ("padding_height", "padding_width", "input_height", "input_width")),
        *((name, ctypes.c_int64) for name in ("divisor",)),
        ("origin", Planes),
        ("target", Planes),
    ]


@dataclass(frozen=True)
class Kernels:
    """The kernels of one instruction set.

    Attributes:
        instructions: its name.
        width: floats of a vector.
        dense_rows: rows in a block of a dense operation.
        most_vectors: the largest tile of a sparse operation.
    """

    instructions: str
    width: int
    dense_rows: int
    most_vectors: int
    _library: ctypes.CDLL

    def run(self, operations: ctypes.Array[Operation], threads: int) -> None:
        """Run operations one after another; other Python threads run meanwhile."""
        self._library.sparsewright_run(operations, len(operations), threads)


def program(operations: Sequence[Operation]) -> ctypes.Array[Operation]:
    """Operations as the kernels take them."""
    return (Operation * len(operations))(*operations)


def available() -> list[str]:
    """Names of the instruction sets whose kernels were built and run on this machine, best first."""
    portable = _load("portable")
    if portable is None:
        return []
    runs = [name for name in INSTRUCTIONS if portable.sparsewright_runs(name.encode())]
    return [name for name in runs if _load(name) is not None]


def kernels() -> Kernels | None:
    """The best kernels here, or those that ``SPARSEWRIGHT_KERNELS`` names; None where none were built or wanted.

    Raises:
        ValueError: the variable names kernels that are unknown, were not built, or do not run on this machine.
    """
    wanted, found = os.environ.get(ENVIRONMENT, ""), available()
    if wanted == "torch":
        return None
    if wanted and wanted not in found:
        raise ValueError(f"{ENVIRONMENT}={wanted}: kernels here are {', '.join([*found, 'torch'])}")
    if not found:
        return None
    name = wanted or found[0]
    library = _load(name)
    assert library is not None
    width, rows, vectors = (getattr(library, f"sparsewright_{name}")() for name in _SIZES)
    return Kernels(name, width, rows, vectors, library)


@cache
def _load(name: str) -> ctypes.CDLL | None:
    path = _FOLDER / f"{name}.so"
    try:
        library = ctypes.CDLL(str(path))
        for size in ("version", *_SIZES):
            getattr(library, f"sparsewright_{size}").restype = ctypes.c_int64
        library.sparsewright_runs.argtypes = [ctypes.c_char_p]
        library.sparsewright_run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
        library.sparsewright_run.restype = None
    except (OSError, AttributeError):
        return None
    return library if library.sparsewright_version() == VERSION else None
