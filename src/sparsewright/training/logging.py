"""What a run tells while it trains: metrics lines, scalars for a logger, and a progress bar or plain lines."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from sparsewright.files import append_text, write_text
from sparsewright.training.folder import METRICS
from sparsewright.training.loggers import Logger
from sparsewright.training.loop import StepReport
from sparsewright.training.rank_log import PREFIX, logged_ranks

_REFRESH_SECONDS = 0.5


class Reporter:
    """Reports one run; used as a context manager.

    Args:
        folder: the run folder; None where nothing is to be written (ranks other than 0).
        total_steps: optimizer steps of the whole run, for the time left.
        done_steps: those done before a resume.
        lines: the metrics of the epochs done before a resume; the file is brought back to exactly these.
        logger: where scalars go besides metrics.jsonl; None for nowhere.
        quiet: no progress on the terminal.
    """

    def __init__(
        self,
        folder: Path | None,
        total_steps: int,
        *,
        logger: Logger | None = None,
        title: str = "",
        done_steps: int = 0,
        lines: Sequence[Mapping[str, Any]] = (),
        quiet: bool = False,
    ) -> None:
        self._folder = folder
        self._title = title
        self._logger = logger
        self._progress: Progress | None = None
        self._live: Live | None = None
        self._status = Text()
        self._plain = False
        self._epoch_label = ""
        self._sparsity = 0.0
        self._next_refresh = 0.0
        self._rate = _Rate()
        if folder is None:
            return
        write_text(folder / METRICS, "".join(_json_line(line) for line in lines))
        if not quiet:
            self._start_progress(total_steps, done_steps)

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def start_epoch(self, stage: str, epoch: int, epochs: int, sparsity: float) -> None:
        """Announces epoch ``epoch`` of ``epochs`` in ``stage``."""
        self._epoch_label = f"{stage} {epoch}/{epochs}"
        self._sparsity = sparsity
        self._rate = _Rate()

    def step(self, report: StepReport, sparsity: Callable[[], float] | None = None) -> None:
        """Moves the bar; looks at the device only about twice a second."""
        self._rate.add(report.images)
        if self._progress is None:
            return
        self._progress.advance(self._task)
        now = time.monotonic()
        if now >= self._next_refresh:
            self._next_refresh = now + _REFRESH_SECONDS
            result = report.running.local()
            self._describe(result.loss, result.accuracy, sparsity() if sparsity is not None else self._sparsity)

    def end_epoch(self, line: Mapping[str, Any]) -> None:
        """Writes the line of one epoch (or of a prune or evaluate stage) everywhere."""
        if self._folder is not None:
            append_text(self._folder / METRICS, _json_line(line))
            self._scalars(line)
        if self._progress is not None and line["train_loss"] is not None:
            self._describe(line["train_loss"], line["train_accuracy"], line["sparsity"], line["test_accuracy"])
        if self._plain:
            print(self._plain_line(line), flush=True)

    def _start_progress(self, total_steps: int, done_steps: int) -> None:
        console = Console()
        if not console.is_terminal:
            self._plain = True
            return
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._task = self._progress.add_task(self._title, total=total_steps, completed=done_steps)
        # On two lines, so that nothing is cut off where a terminal has 80 columns.
        self._live = Live(Group(self._progress, self._status), console=console, refresh_per_second=4)
        self._live.start()

    def _describe(self, loss: float, accuracy: float, sparsity: float, test_accuracy: float | None = None) -> None:
        parts = [self._epoch_label, f"loss {loss:.3f}", f"accuracy {accuracy:.2f} %"]
        if test_accuracy is not None:
            parts.append(f"test {test_accuracy:.2f} %")
        parts += [f"sparsity {sparsity:.4f}", f"{self._rate.value():,.0f} images/s"]
        self._status.plain = "  ".join(parts)

    def _plain_line(self, line: Mapping[str, Any]) -> str:
        stage = line["stage"] if line["kind"] in line["stage"] else f"{line['stage']} ({line['kind']})"
        parts = [self._title, self._epoch_label] if line["kind"] == "train" else [self._title, stage]
        if line["train_loss"] is not None:
            parts.append(f"train loss {line['train_loss']:.4f} accuracy {line['train_accuracy']:.2f} %")
        parts.append(f"test loss {line['test_loss']:.4f} accuracy {line['test_accuracy']:.2f} %")
        parts.append(f"sparsity {line['sparsity']:.4f}")
        if line["train_loss"] is not None:
            parts.append(f"{self._rate.value():,.0f} images/s")
        return "  ".join(part for part in parts if part)

    def _scalars(self, line: Mapping[str, Any]) -> None:
        if self._logger is None:
            return
        plain = ("lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "sparsity", "seconds")
        values = {_tag(key): line[key] for key in (*plain, *logged_ranks(line)) if line[key] is not None}
        self._logger.scalars(values, line["epoch"])


class _Rate:
    """Images per second from when it was made to the last ones, so that an evaluation after them does not count."""

    def __init__(self) -> None:
        self._images = 0
        self._start = self._last = time.monotonic()

    def add(self, images: int) -> None:
        """Counts images that are done now."""
        self._images += images
        self._last = time.monotonic()

    def value(self) -> float:
        """Images per second; 0 before the first."""
        return self._images / max(self._last - self._start, 1e-9)


def _json_line(line: Mapping[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"


def _tag(key: str) -> str:
    """train/loss for train_loss, so that loggers group what belongs together."""
    return key.replace("_", "/", 1) if key.startswith(("train_", "test_", PREFIX)) else key
