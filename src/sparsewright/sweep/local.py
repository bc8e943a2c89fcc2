"""Runs as processes of this machine, so many at a time."""

from __future__ import annotations

import os

import torch

from sparsewright.sweep.plan import Cell, Sweep
from sparsewright.sweep.process import RunOptions, RunProcess, stop_all, train_arguments

PATIENCE_SECONDS = 15.0
"""For runs to end that were asked to."""

_VISIBLE = "CUDA_VISIBLE_DEVICES"


class LocalWorkers:
    """Up to ``jobs`` runs at a time; where there are several GPUs, they take turns on them.

    Args:
        sweep: whose runs are carried out.
        options: of every run.
        jobs: how many at a time.
    """

    def __init__(self, sweep: Sweep, options: RunOptions, jobs: int) -> None:
        self._sweep = sweep
        self._options = options
        self._slots: list[tuple[Cell, RunProcess] | None] = [None] * jobs
        self._begun: list[Cell] = []
        self._gpus = visible_gpus() if options.device == "cuda" else []

    def has_room(self) -> bool:
        """Whether fewer than ``jobs`` are running."""
        return None in self._slots

    def start(self, cell: Cell) -> None:
        """Starts a run in the first free place."""
        slot = self._slots.index(None)
        environment = {_VISIBLE: self._gpus[slot % len(self._gpus)]} if len(self._gpus) > 1 else {}
        arguments = train_arguments(self._sweep, cell, self._options)
        self._slots[slot] = (cell, RunProcess(arguments, cell.folder, self._options.threads, environment))
        self._begun.append(cell)

    def begun(self) -> list[Cell]:
        """The runs started since the last call."""
        found, self._begun = self._begun, []
        return found

    def ended(self) -> list[tuple[Cell, str | None]]:
        """The runs that have ended since the last call, and their problems."""
        found = []
        for slot, taken in enumerate(self._slots):
            if taken is not None and taken[1].ended():
                found.append((taken[0], taken[1].problem()))
                self._slots[slot] = None
        return found

    def stop(self) -> None:
        """Interrupts what is running and waits for it, for at most ``PATIENCE_SECONDS``."""
        stop_all([taken[1] for taken in self._slots if taken is not None], PATIENCE_SECONDS)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = [name.strip() for name in os.environ.get(_VISIBLE, "").split(",") if name.strip()]
    return named or [str(index) for index in range(torch.cuda.device_count())]


def usable_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
