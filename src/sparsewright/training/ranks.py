"""Work on every rank: one process, or one per device, with Lightning Fabric.

Importing Lightning takes seconds, and only trainings and evaluations need it: ``launch`` imports this file when it is
called.
"""

from __future__ import annotations

import logging
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from lightning_fabric import Fabric

# Lightning's notes about processes and devices; set on import, for spawned processes announce themselves at once.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)

_Job = TypeVar("_Job")


def run_on_ranks(
    work: Callable[[Fabric, _Job], dict[str, Any]], job: _Job, *, accelerator: str, devices: int, precision: str
) -> dict[str, Any]:
    """Runs ``work(fabric, job)`` on every rank and returns what rank 0 returns; see ``launch``.

    Args:
        work, job, devices: as for ``launch``.
        accelerator: "cpu" or "cuda".
        precision: as Lightning names it.
    """
    arguments: dict[str, Any] = {"accelerator": accelerator, "precision": precision}
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
