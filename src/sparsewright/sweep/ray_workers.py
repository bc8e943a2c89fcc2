"""Runs as tasks of a Ray cluster, which finds room for each on one of its machines.

All machines must see the run folders and the data under the same paths, and have the same environment installed.
"""

from __future__ import annotations

import os
import socket
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsewright.files import write_text
from sparsewright.sweep import local
from sparsewright.sweep.plan import Cell, Sweep
from sparsewright.sweep.process import RunOptions, RunProcess, stop_all, train_arguments
from sparsewright.training.folder import LOG

PATIENCE_SECONDS = 30.0
"""For tasks to end that were cancelled, each of which gives its run ``local.PATIENCE_SECONDS`` of them."""

POLL_SECONDS = 0.5
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_SHARED = ".shared-by-all-machines"


class RayWorkers:
    """Every run as a task that takes ``threads`` CPUs and, on the device cuda, one GPU.

    A run whose machine is lost is started again elsewhere, and goes on from its last epoch.

    Args:
        sweep: whose runs are carried out.
        options: of every run.
        address: of the cluster: HOST:PORT, ray://HOST:PORT, "auto" for the one that this machine belongs to, or
            "local" for one of this machine alone.
        jobs: how many runs at a time at most; None for as many as there is room for.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: there is no cluster at the address.

    Warns:
        UserWarning: no machine of the cluster has room for a run.
    """

    def __init__(self, sweep: Sweep, options: RunOptions, address: str, jobs: int | None = None) -> None:
        os.environ.update(_QUIET)
        import ray

        self._ray: Any = ray
        self._sweep = replace(sweep, recipe=_absolute_recipe(sweep.recipe))
        self._options = replace(options, data_dir=options.data_dir.resolve())
        self._jobs = jobs
        self._tasks: dict[Any, Cell] = {}
        self._logs: dict[Path, int] = {}
        self._token = sweep.root.resolve() / _SHARED
        self._token.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._token, "the machines of a Ray cluster look for this file while a sweep runs\n")
        gpus = 1 if options.device == "cuda" else 0
        self._connect(address)
        self._warn_without_room(gpus)
        self._carry_out = ray.remote(num_cpus=options.threads, num_gpus=gpus)(carry_out)

    def has_room(self) -> bool:
        """Whether another run may be handed to the cluster."""
        return self._jobs is None or len(self._tasks) < self._jobs

    def start(self, cell: Cell) -> None:
        """Hands a run to the cluster."""
        cell = replace(cell, folder=cell.folder.resolve())
        arguments = train_arguments(self._sweep, cell, self._options)
        self._logs[cell.folder] = _changed(cell.folder / LOG)
        task = self._carry_out.remote(arguments, cell.folder, self._options.threads, self._token)
        self._tasks[task] = cell

    def begun(self) -> list[Cell]:
        """The runs that a machine has begun with since the last call."""
        found = [
            cell
            for cell in self._tasks.values()
            if cell.folder in self._logs and _changed(cell.folder / LOG) != self._logs[cell.folder]
        ]
        for cell in found:
            del self._logs[cell.folder]
        return found

    def ended(self) -> list[tuple[Cell, str | None]]:
        """The runs that have ended since the last call, and their problems."""
        if not self._tasks:
            return []
        done, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        return [(self._tasks.pop(task), self._problem(task)) for task in done]

    def stop(self) -> None:
        """Interrupts what is running, waits for it for at most ``PATIENCE_SECONDS``, and leaves the cluster."""
        try:
            for task in self._tasks:
                self._ray.cancel(task)
            if self._tasks:
                self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=PATIENCE_SECONDS)
        finally:
            self._token.unlink(missing_ok=True)
            self._ray.shutdown()

    def _connect(self, address: str) -> None:
        try:
            self._ray.init(address=address, logging_level="ERROR", log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            self._token.unlink(missing_ok=True)
            reason = " ".join(str(error).split())
            raise ConnectionError(f"no Ray cluster can be used at {address}: {reason}") from error

    def _problem(self, task: Any) -> str | None:
        try:
            return self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            lines = str(error).split("\n")
            return (
                f"Ray lost it: {next((line.strip() for line in reversed(lines) if line.strip()), type(error).__name__)}"
            )

    def _warn_without_room(self, gpus: int) -> None:
        most = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        wanted = {"CPU": self._options.threads, "GPU": gpus}
        if not any(all(node.get(kind, 0) >= count for kind, count in wanted.items()) for node in most):
            warnings.warn(
                f"no machine of the Ray cluster has {wanted['CPU']} CPUs and {gpus} GPUs now; the runs wait for one",
                stacklevel=3,
            )


def carry_out(arguments: list[str], folder: Path, threads: int, token: Path) -> str | None:
    """One run on the machine at hand; what went wrong, or None."""
    if not token.is_file():
        return (
            f"{socket.gethostname()} does not see {token.parent}: a sweep with --ray needs a file system that all "
            "machines share"
        )
    process = RunProcess(arguments, folder, threads)
    try:
        while not process.wait(POLL_SECONDS):
            pass
    finally:
        if not process.ended():
            stop_all([process], local.PATIENCE_SECONDS)
    return process.problem()


def _absolute_recipe(recipe: str) -> str:
    """A recipe's file by its absolute path, since tasks have another current folder; a shipped one by its name."""
    path = Path(recipe)
    return str(path.resolve()) if path.suffix in (".yaml", ".yml") and path.is_file() else recipe


def _changed(file: Path) -> int:
    """When a file was last written to, in nanoseconds; 0 where there is none."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0
