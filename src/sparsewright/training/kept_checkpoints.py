"""Checkpoints from the middle of a run that stay, for studies that go on from them."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from sparsewright.checks import check_count
from sparsewright.files import write_atomically
from sparsewright.training.errors import RecipeError
from sparsewright.training.folder import CHECKPOINT, KEPT, RunFolderError
from sparsewright.training.recipe import Recipe


def kept_checkpoint(folder: Path, step: int) -> Path:
    """Where the run in ``folder`` keeps its checkpoint after optimizer step ``step``."""
    return folder / KEPT / f"step-{step}.ckpt"


def keep_checkpoint(folder: Path, step: int) -> None:
    """Keeps a copy of the last checkpoint, which was written after ``step``.

    Raises:
        SaveError: it could not be written.
    """
    path = kept_checkpoint(folder, step)
    path.parent.mkdir(exist_ok=True)
    with (folder / CHECKPOINT).open("rb") as last:
        write_atomically(path, lambda stream: shutil.copyfileobj(last, stream))


def check_kept_steps(recipe: Recipe, first_step: int, steps: Collection[int]) -> frozenset[int]:
    """``steps`` if a run of ``recipe`` from ``first_step`` on can keep its checkpoints there.

    Raises:
        RecipeError: the recipe is not one train stage, or the run does not begin at its first step.
        TypeError, ValueError: a step that is no whole number above 0.
    """
    kept = frozenset(check_count(step, "keep") for step in steps)
    kinds = [stage.kind for stage in recipe.resolved_stages()]
    if kept and (kinds != ["train"] or first_step):
        raise RecipeError(
            f"recipe {recipe.name}: checkpoints are kept of a recipe of one train stage that begins at step 0; it has "
            f"stages of kind {', '.join(kinds)} and begins at step {first_step}"
        )
    return kept


def check_kept(folder: Path, steps: Collection[int], steps_per_epoch: int, total_steps: int, done: int) -> None:
    """Refuses steps at which no checkpoint is written.

    Args:
        folder: the run folder.
        steps: where checkpoints are to be kept.
        steps_per_epoch: optimizer steps of an epoch.
        total_steps: optimizer steps of the run.
        done: those that it has done already.

    Raises:
        ValueError: a step that is not the end of an epoch before the last.
        RunFolderError: the run has gone past one without keeping its checkpoint.
    """
    for step in sorted(steps):
        if step % steps_per_epoch or not 0 < step < total_steps:
            raise ValueError(
                f"a checkpoint is kept at the end of an epoch before the last: after a multiple of {steps_per_epoch} "
                f"steps below {total_steps}, not after step {step}"
            )
    check_kept_files(folder, [step for step in steps if step <= done])


def check_kept_files(folder: Path, steps: Collection[int]) -> None:
    """Raises RunFolderError when the run in ``folder`` did not keep the checkpoint of one of ``steps``."""
    for step in sorted(steps):
        if not kept_checkpoint(folder, step).is_file():
            raise RunFolderError(
                f"the run in {folder} is past step {step} and did not keep its checkpoint", "choose another folder"
            )
