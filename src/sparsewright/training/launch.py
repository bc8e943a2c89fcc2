"""Starting one process, or one per device, with Lightning Fabric."""

from __future__ import annotations

import logging
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from lightning.fabric import Fabric

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}
DEVICES = ("auto", "cpu", "cuda")

# Lightning's notes about processes and devices; set on import, for spawned processes announce themselves at once.
for _name in ("lightning", "lightning.fabric", "lightning.pytorch"):
    logging.getLogger(_name).setLevel(logging.WARNING)

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
    arguments: dict[str, Any] = {"accelerator": accelerator, "precision": PRECISIONS[precision]}
    if torch.distributed.is_torchelastic_launched():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // local
        fabric = Fabric(devices=local, num_nodes=nodes, strategy="ddp", **arguments)
        return fabric.launch(_Bound(work, job))
    if devices == 1:
        return Fabric(devices=1, **arguments).launch(_Bound(work, job))
    return _spawn(Fabric(devices=devices, strategy="ddp_spawn", **arguments), work, job)


def _spawn(fabric: Fabric, work: Callable[[Fabric, _Job], dict[str, Any]], job: _Job) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="sparsewright-") as folder:
        try:
            return fabric.launch(_Bound(work, job, Path(folder)))
        except Exception as error:
            # What arrives from another process is the text of a traceback; the error itself is in the folder.
            first = _first_error(Path(folder))
            if first is None:
                raise
            raise first from error


class _Bound(Generic[_Job]):
    """``work`` with its job: one picklable argument, since Fabric looks into all others.

    With a folder, errors are kept there for the process that waits.
    """

    def __init__(self, work: Callable[[Fabric, _Job], dict[str, Any]], job: _Job, errors: Path | None = None) -> None:
        self._work = work
        self._job = job
        self._errors = errors

    def __call__(self, fabric: Fabric) -> dict[str, Any]:
        try:
            return self._work(fabric, self._job)
        except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
            if self._errors is not None:
                (self._errors / f"{fabric.global_rank}.error").write_bytes(pickle.dumps(_portable(error)))
            raise


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except (TypeError, AttributeError, pickle.PicklingError):
        return RuntimeError(str(error))
    return error


def _first_error(folder: Path) -> Exception | None:
    files = sorted(folder.glob("*.error"), key=lambda path: (path.stat().st_mtime_ns, path.name))
    return pickle.loads(files[0].read_bytes()) if files else None


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
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        yield
