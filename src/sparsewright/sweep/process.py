"""One run of a sweep as a process of its own, with its output in a log file in the run folder."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsewright.sweep.plan import Cell, Sweep
from sparsewright.training.folder import LOG

_ERROR = "error: "


@dataclass(frozen=True)
class RunOptions:
    """What all runs of a sweep have in common besides the recipe.

    Attributes:
        data_dir: where data sets are, or are downloaded to.
        device: "cpu" or "cuda".
        precision: "32" or "bf16".
        threads: CPU threads of each run.
        download: whether an absent data set may be downloaded.
        logger: where scalars go: "tensorboard", "wandb" or "none".
    """

    data_dir: Path = Path("data")
    device: str = "cpu"
    precision: str = "32"
    threads: int = 1
    download: bool = True
    logger: str = "tensorboard"


def train_arguments(sweep: Sweep, cell: Cell, options: RunOptions) -> list[str]:
    """The arguments of ``sparsewright`` that train ``cell``, from where it is if it was begun."""
    return [
        "train",
        sweep.recipe,
        *cell.overrides,
        *("--seed", str(cell.seed)),
        *("--out", str(cell.folder)),
        *("--data-dir", str(options.data_dir)),
        *("--device", options.device),
        *("--precision", options.precision),
        *("--logger", options.logger),
        *(() if options.download else ("--no-download",)),
        "--resume",
        "--quiet",
    ]


class RunProcess:
    """``sparsewright`` with some arguments, in a process that is interrupted when this one ends.

    Args:
        arguments: of the command line.
        folder: of the run; made if need be, and gets the log.
        threads: CPU threads.
        environment: variables to set besides the inherited ones.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, threads: int, environment: Mapping[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / LOG
        with self._log.open("ab") as stream:
            stream.write(f"$ {shlex.join(['sparsewright', *arguments])}\n".encode())
            stream.flush()
            self._start = stream.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sparsewright.sweep.attended", *arguments],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_threads(threads), **(environment or {})},
                # Ctrl-C on the terminal is for the sweep, which then asks its runs to stop.
                start_new_session=True,
            )

    def ended(self) -> bool:
        """Whether the process is gone."""
        if self._process.poll() is None:
            return False
        self.ask_to_stop()
        return True

    def ask_to_stop(self) -> None:
        """Interrupts the run as Ctrl-C would, without waiting for it; closes the pipe of one that has ended."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def wait(self, seconds: float) -> bool:
        """Whether the process ends within ``seconds``."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """Ends the process at once; what it has saved is whole."""
        self.ask_to_stop()
        self._process.kill()
        self._process.wait()

    def problem(self) -> str | None:
        """Why the ended process failed, in the words of its last error; None if it did not."""
        code = self._process.returncode
        if code == 0:
            return None
        lines = [line.strip() for line in self._output().splitlines() if line.strip()]
        errors = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
        if errors:
            return errors[-1]
        how = f"ended by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        if how.endswith("SIGKILL"):
            how += ", which is how a system without memory left ends processes"
        return f"{how}: {lines[-1]}" if lines else how

    def _output(self) -> str:
        with self._log.open("rb") as stream:
            stream.seek(self._start)
            return stream.read().decode("utf-8", errors="replace")


def stop_all(processes: Sequence[RunProcess], patience: float) -> None:
    """Interrupts all, waits for them for up to ``patience`` seconds in all, and ends those that are still there."""
    try:
        for process in processes:
            process.ask_to_stop()
        deadline = time.monotonic() + patience
        for process in processes:
            process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            if not process.ended():
                process.kill()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        # Real-time signals have no name of their own.
        return f"signal {number}"


def _threads(count: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(count), "MKL_NUM_THREADS": str(count)}
