"""Starting work on one process, or on one per device, and what holds around it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}
DEVICES = ("auto", "cpu", "cuda")

_Job = TypeVar("_Job")


def resolve_device(device: str) -> str:
    """The accelerator "cpu" or "cuda" that ``device`` means here.

    Raises:
        ValueError: an unknown device, or "cuda" where there is none.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but torch finds no CUDA device here; use device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def launch(
    work: Callable[[Fabric, _Job], dict[str, Any]], job: _Job, *, device: str, devices: int, precision: str
) -> dict[str, Any]:
    """Runs ``work(fabric, job)`` on every rank and returns what rank 0 returns.

    Under torchrun the processes are there already and ``devices`` is not used; else more than one device means that
    many new processes (gloo on the CPU), for which ``work`` and ``job`` must be picklable.

    Raises:
        ValueError: an unknown device or precision, or fewer devices than asked for.
    """
    accelerator = resolve_device(device)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise ValueError(f"devices must be a whole number of at least 1, got {devices!r}")
    if accelerator == "cuda" and devices > torch.cuda.device_count():
        raise ValueError(f"{devices} devices were asked for, but torch finds {torch.cuda.device_count()}")
    from sparsewright.training.ranks import run_on_ranks

    return run_on_ranks(work, job, accelerator=accelerator, devices=devices, precision=PRECISIONS[precision])


@contextmanager
def deterministic(accelerator: str) -> Iterator[None]:
    """Deterministic kernels on CUDA, so that a resumed run is bit-identical; the CPU's are already."""
    if accelerator != "cuda":
        yield
        return
    # cuBLAS reads this when its first handle is made; without it its results depend on the workspace.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def own_threads() -> Iterator[None]:
    """Lets a run choose its number of CPU threads, and gives the caller's back."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def without_noise() -> Iterator[None]:
    """Hides warnings of Lightning that do not concern a user of this trainer."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning_fabric\..*")
        yield
