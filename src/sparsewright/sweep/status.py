"""How far each run of a sweep is, read from its folder."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from sparsewright.sweep.plan import Cell
from sparsewright.sweep.process import RunOptions
from sparsewright.sweep.records import read_finished
from sparsewright.training.folder import METRICS, SUMMARY, RunFolderError, only_here, read_settings
from sparsewright.training.metrics import read_metrics
from sparsewright.training.opening import open_recipe_data
from sparsewright.training.recipe import Recipe


class State(str, Enum):
    """Where a run is between the plan and its summary."""

    WAITING = "waiting"
    RUNNING = "running"
    ELSEWHERE = "elsewhere"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Length:
    """Epochs and optimizer steps of a whole run, at most."""

    epochs: int
    steps: int


@dataclass
class RunStatus:
    """One run of a sweep and how far it is.

    Attributes:
        cell: the run.
        length: of the run; None where nothing had to be trained.
        state: "elsewhere" while another process trains in its folder.
        reused: whether it was finished before the sweep began.
        epoch, step: done so far.
        accuracy: test accuracy in per cent after the last epoch; None before the first.
        problem: why it failed.
        summary: of a finished run.
        began, first_step: when the sweep started it, in seconds of the monotonic clock, and its step then.
    """

    cell: Cell
    length: Length | None = None
    state: State = State.WAITING
    reused: bool = False
    epoch: int = 0
    step: int = 0
    accuracy: float | None = None
    problem: str | None = None
    summary: dict[str, Any] | None = None
    began: float = math.nan
    first_step: int = 0
    _seen: tuple[int, int] = field(default=(0, 0), repr=False)

    def begin(self, now: float) -> None:
        """The run is started."""
        self.refresh()
        self.state, self.began, self.first_step, self.problem = State.RUNNING, now, self.step, None

    def refresh(self) -> None:
        """Looks at the metrics, if they have changed."""
        try:
            facts = (self.cell.folder / METRICS).stat()
        except OSError:
            return
        if (facts.st_mtime_ns, facts.st_size) == self._seen:
            return
        self._seen = (facts.st_mtime_ns, facts.st_size)
        try:
            last = read_metrics(self.cell.folder)[-1]
            self.epoch, self.step, self.accuracy = (last[key] for key in ("epoch", "step", "test_accuracy"))
        except (OSError, ValueError, IndexError, KeyError):
            # How far a run is, is only shown; what is damaged, the run itself will tell of.
            return

    def end(self, problem: str | None) -> None:
        """The process has ended, with ``problem`` unless that is None.

        A run with a summary is done, even if what came after it, such as its report, was cut short.
        """
        self.refresh()
        if (self.cell.folder / SUMMARY).is_file():
            self.finish()
        else:
            self.state, self.problem = State.FAILED, problem or f"it ended without a {SUMMARY}"

    def finish(self) -> None:
        """Takes the summary of a finished run; one with a damaged record has failed."""
        try:
            self.summary = read_finished(self.cell)
        except ValueError as error:
            self.state, self.problem = State.FAILED, str(error)
            return
        self.state = State.DONE
        self.epoch, self.step = self.summary["epochs"], self.summary["steps"]
        self.accuracy = self.summary["test_accuracy"]

    @property
    def steps_left(self) -> int:
        """Optimizer steps still to be done, at most."""
        if self.state in (State.DONE, State.FAILED) or self.length is None:
            return 0
        return max(self.length.steps - self.step, 0)

    def seconds_left(self, now: float) -> float | None:
        """For a running one, at the pace since the sweep started it; None before its next epoch."""
        done = self.step - self.first_step
        if self.state != State.RUNNING or done <= 0:
            return None
        return (now - self.began) / done * self.steps_left


def take_stock(cells: Iterable[Cell], options: RunOptions) -> list[RunStatus]:
    """What is there already: finished runs are taken as they are, and those of them with a damaged record have failed.

    The data of those that are still to be trained are opened once, so that what is wrong with them is told before
    anything starts, and an absent set is downloaded once.

    Raises:
        RunFolderError: a run that is there has another device or precision.
        ValueError, FileNotFoundError, ImportError: the data cannot be opened.
    """
    statuses = [RunStatus(cell) for cell in cells]
    steps_per_epoch: dict[str, int] = {}
    for status in statuses:
        folder = status.cell.folder
        _check_settings(folder, options)
        if (folder / SUMMARY).is_file():
            status.finish()
            status.reused = status.state == State.DONE
        else:
            status.refresh()
    for status in (status for status in statuses if status.state == State.WAITING):
        key = repr(status.cell.recipe.data)
        if key not in steps_per_epoch:
            steps_per_epoch[key] = _steps_per_epoch(status.cell.recipe, options)
        status.length = length_of(status.cell.recipe, steps_per_epoch[key])
    return statuses


def length_of(recipe: Recipe, steps_per_epoch: int) -> Length:
    """The length of all stages of ``recipe``, where an epoch has ``steps_per_epoch`` optimizer steps."""
    steps = [recipe.stage_steps(stage, steps_per_epoch) for stage in recipe.resolved_stages()]
    return Length(sum(math.ceil(count / steps_per_epoch) for count in steps), sum(steps))


def is_elsewhere(folder: Path) -> bool:
    """Whether another process of this machine trains in ``folder``."""
    try:
        with only_here(folder):
            return False
    except RunFolderError:
        return True


def _steps_per_epoch(recipe: Recipe, options: RunOptions) -> int:
    data = open_recipe_data(
        recipe,
        options.data_dir,
        seed=0,
        device=torch.device("cpu"),
        rank=0,
        world_size=1,
        validation=recipe.data.validation,
        download=options.download,
    )
    return len(data.train)


def _check_settings(folder: Path, options: RunOptions) -> None:
    """Refuses a run that is there with other settings: ``train`` would not go on with it."""
    try:
        there = read_settings(folder)
    except (OSError, RunFolderError):
        # None yet, or damaged, which is told of as the failure of this one run.
        return
    for name, wanted in (("device", options.device), ("precision", options.precision)):
        if getattr(there, name) != wanted:
            raise RunFolderError(
                f"{folder} holds a run with {name} {getattr(there, name)}, and this sweep has {wanted}",
                "choose another folder with --out",
            )
