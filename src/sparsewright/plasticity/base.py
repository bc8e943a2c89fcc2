"""The run that a study branches from, with the checkpoints of its moments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from sparsewright.training.checkpoint import load_checkpoint
from sparsewright.training.folder import ANOTHER_FOLDER, CHECKPOINT, SUMMARY, RunFolderError, read_settings
from sparsewright.training.kept_checkpoints import kept_checkpoint
from sparsewright.training.launch import own_threads
from sparsewright.training.recipe import Recipe
from sparsewright.training.run import train


@dataclass(frozen=True)
class BaseJob:
    """All that a process needs to train a base.

    Attributes:
        recipe: one dense train stage.
        folder: of the seed; the run goes into ``base`` in it.
        steps: of the moments.
        seed, data_dir, device, precision, quiet: as for ``train``.
        threads: CPU threads of a base that is begun now; None for torch's number.
    """

    recipe: Recipe
    folder: Path
    steps: tuple[int, ...]
    seed: int
    data_dir: Path
    device: str
    precision: str
    threads: int | None
    quiet: bool


@dataclass(frozen=True)
class Base:
    """A finished base.

    Attributes:
        seed: of it.
        checkpoints: step of each moment -> checkpoint there.
        threads: CPU threads that it was trained with.
    """

    seed: int
    checkpoints: dict[int, Path]
    threads: int


def train_base(job: BaseJob) -> Base:
    """Finishes the base and returns the checkpoints of its moments.

    A base that was trained past a moment for other moments only is trained a second time, beside it, up to the last
    one that is missing; it passes through the same weights, bit for bit.

    Raises:
        RunFolderError: the folder holds a base of other settings, or one that has lost a checkpoint.
        Exception: as ``train`` does.
    """
    run = job.folder / "base"
    with own_threads():
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        _train(job, run, None)
        threads = read_settings(run).threads
        torch.set_num_threads(threads)
        while missing := [step for step in job.steps if _checkpoint(job.folder, step) is None]:
            again = job.folder / f"base-to-step-{missing[-1]}"
            if (again / SUMMARY).is_file():
                problem = f"{again} has lost its checkpoint of step {missing[-1]}"
                raise RunFolderError(problem, f"delete {again} to train it anew")
            # A checkpoint that is kept has another step behind it.
            _train(job, again, missing[-1] + 1)
    checkpoints = {step: path for step in job.steps if (path := _checkpoint(job.folder, step)) is not None}
    return Base(job.seed, checkpoints, threads)


def _train(job: BaseJob, run: Path, stop: int | None) -> None:
    last = stop if stop is not None else job.steps[-1] + 1
    done = _steps_done(run)
    try:
        train(
            job.recipe,
            out=run,
            data_dir=job.data_dir,
            seed=job.seed,
            resume=True,
            stop=stop,
            keep=[step for step in job.steps if done <= step < last or kept_checkpoint(run, step).is_file()],
            device=job.device,
            precision=job.precision,
            download=False,
            quiet=job.quiet,
        )
    except RunFolderError as error:
        if error.remedy != ANOTHER_FOLDER:
            raise
        raise RunFolderError(error.problem, "choose another folder for the study with --out") from error


def _steps_done(run: Path) -> int:
    """The optimizer steps after which the run was saved last."""
    saved = run / CHECKPOINT
    return load_checkpoint(saved)["progress"]["total_steps"] if saved.is_file() else 0


def _checkpoint(folder: Path, step: int) -> Path | None:
    """The kept checkpoint of a step, of whichever training of the base."""
    return next((path for run in sorted(folder.glob("base*")) if (path := kept_checkpoint(run, step)).is_file()), None)
