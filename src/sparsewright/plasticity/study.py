"""A whole study: the bases, their branches, and what came out."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsewright.analysis.plasticity import RULES
from sparsewright.checks import check_count
from sparsewright.files import remove_leftovers, write_text
from sparsewright.formats import seconds
from sparsewright.plasticity.base import Base, BaseJob, train_base
from sparsewright.plasticity.branch import BranchJob, run_branch
from sparsewright.plasticity.branch_result import BranchResult, read_result
from sparsewright.plasticity.layout import PAGE, RECORD, branch_file, branch_files, default_folder, seed_folder
from sparsewright.plasticity.plan import Branch, PlasticityPlan, plan_study
from sparsewright.plasticity.result import PlasticityResult, summarise, with_branches
from sparsewright.plasticity.workers import run_all
from sparsewright.sweep import usable_cores
from sparsewright.training.folder import RECIPE, RunFolderError, only_here, recipe_difference
from sparsewright.training.launch import resolve_device
from sparsewright.training.recipe import Recipe
from sparsewright.training.recipe_files import load_recipe

DEFAULT_RATES = (0.5, 0.9, 0.98)
DEFAULT_HORIZON = "2ep"

_ANOTHER_FOLDER = "choose another folder for the study with --out"


def study_plasticity(
    recipe: Recipe,
    *,
    at: Sequence[str] | None = None,
    rates: Sequence[float] = DEFAULT_RATES,
    rules: Sequence[str] = tuple(RULES),
    horizon: str = DEFAULT_HORIZON,
    seeds: Sequence[int] = (0,),
    out: Path | None = None,
    data_dir: Path = Path("data"),
    device: str = "auto",
    precision: str = "32",
    threads: int | None = None,
    jobs: int = 1,
    download: bool = True,
    quiet: bool = False,
) -> PlasticityResult:
    """Prunes a network at moments of its dense training, trains on, and compares with a twin that was not pruned.

    For each seed the base is trained once, in OUT/seed-N/base. At each moment a twin and one branch for each rule and
    rate leave it with its weights and optimizer state: they see the batches that the base sees next, at the learning
    rate of that moment, held constant. Each branch is a file of its own, so that the same call after an interruption,
    or with more moments, rates, rules, horizons or seeds, trains only what is missing. What is returned is what was
    asked for; plasticity.json in OUT gets ``whole_study`` of it.

    Args:
        recipe: one stage of dense training.
        at: the moments, ends of epochs, as a share of the run such as 45% or as 8ep; the end of the run is none. None
            for 20%, 45%, 55% and 90%, each epoch once.
        rates: the shares that are pruned, in (0, 1).
        rules: names of ``sparsewright.analysis.plasticity.RULES``.
        horizon: how long branches train on, such as 2ep or 500it.
        seeds: one base for each.
        out: folder of the study; None for runs/plasticity-RECIPE-HASH.
        data_dir, device, precision, download, quiet: as for ``train``.
        threads: CPU threads of each training; None for torch's number, or for a share of the cores with several jobs.
            A base that is there keeps the number it was begun with, and its branches take it.
        jobs: how many trainings run at a time, each in a process of its own.

    Raises:
        RecipeError: the recipe is not one stage of dense training.
        RunFolderError: the folder is a file, or holds a study of another recipe or other runs, or another process works
            there.
        ValueError, TypeError, FileNotFoundError: an argument or the data are not usable; found before anything is
            trained. A damaged file of a branch.
        RuntimeError: one of several processes was ended from outside.
        CheckpointError, SaveError, TrainingError: as for ``train``. A branch that diverges is no error but a result.

    Warns:
        UserWarning: norms that may still output constants when filters are pruned.
    """
    for name, entries in (("at", at), ("rules", rules)):
        if isinstance(entries, str):
            raise TypeError(f"{name} must be a list of texts, got the text {entries!r}")
    check_count(jobs, "jobs")
    if threads is not None:
        check_count(threads, "threads")
    elif jobs > 1:
        threads = max(usable_cores() // jobs, 1)
    plan = plan_study(
        recipe, at=at, rules=rules, rates=rates, horizon=horizon, seeds=seeds, data_dir=data_dir, download=download
    )
    folder = Path(out) if out is not None else default_folder(recipe)
    study = _Study(plan, folder, Path(data_dir), resolve_device(device), precision, threads, jobs, quiet)
    with only_here(folder):
        _refuse_other_content(folder, plan.recipe)
        result = summarise(plan, study.branches(study.bases()), folder)
        remove_leftovers(folder)
        record = json.dumps(whole_study(result).as_dict(), indent=2, allow_nan=False)
        write_text(folder / RECORD, record + "\n")
    return result


def whole_study(result: PlasticityResult) -> PlasticityResult:
    """All that the folder of ``result`` holds, also from calls that asked for something else.

    Raises:
        ValueError: the file of a branch is damaged.
    """
    return with_branches(result, [read_result(file) for file in branch_files(result.folder)])


@dataclass(frozen=True)
class _Study:
    plan: PlasticityPlan
    folder: Path
    data_dir: Path
    device: str
    precision: str
    threads: int | None
    jobs: int
    quiet: bool

    def bases(self) -> dict[int, Base]:
        """Seed -> its finished base."""
        together = min(self.jobs, len(self.plan.seeds)) > 1
        jobs = [
            BaseJob(
                recipe=self.plan.recipe,
                folder=seed_folder(self.folder, seed),
                steps=tuple(moment.step for moment in self.plan.moments),
                seed=seed,
                data_dir=self.data_dir,
                device=self.device,
                precision=self.precision,
                threads=self.threads,
                quiet=self.quiet or together,
            )
            for seed in self.plan.seeds
        ]
        self._say_what_is_coming()
        bases: dict[int, Base] = {}
        for base in run_all(train_base, jobs, self.jobs):
            bases[base.seed] = base
            if together:
                self._say(f"{len(bases)}/{len(jobs)}  seed {base.seed}  base")
        return bases

    def branches(self, bases: dict[int, Base]) -> list[BranchResult]:
        """The results of all branches in the order of the plan; what is missing is trained."""
        planned = [branch for seed in self.plan.seeds for branch in self.plan.branches(seed)]
        files = {branch: branch_file(self.folder, branch) for branch in planned}
        missing = [branch for branch in planned if not files[branch].is_file()]
        there = len(planned) - len(missing)
        self._say(f"{len(planned)} branches" + (f", {there} of them there already" if there else ""))
        for place in dict.fromkeys(files[branch].parent for branch in missing):
            place.mkdir(parents=True, exist_ok=True)
            remove_leftovers(place)
        jobs = [self._branch_job(branch, files[branch], bases[branch.seed]) for branch in missing]
        try:
            for line in _progress(run_all(run_branch, jobs, self.jobs), there, len(planned)):
                self._say(line)
        except KeyboardInterrupt:
            done = sum(file.is_file() for file in files.values())
            rest = f"the same command trains the others and then writes {RECORD} and {PAGE}"
            print(f"{done} of {len(planned)} branches are done; {rest}", file=sys.stderr)
            raise
        return [read_result(files[branch]) for branch in planned]

    def _branch_job(self, branch: Branch, file: Path, base: Base) -> BranchJob:
        return BranchJob(
            recipe=self.plan.recipe,
            branch=branch,
            checkpoint=base.checkpoints[branch.moment.step],
            file=file,
            data_dir=self.data_dir,
            device=self.device,
            precision=self.precision,
            threads=base.threads,
        )

    def _say_what_is_coming(self) -> None:
        seeds = ", ".join(str(seed) for seed in self.plan.seeds)
        several = " each" if len(self.plan.seeds) > 1 else ""
        # A share that was asked for is rounded to a whole epoch.
        shares = ((moment.epoch, moment.step / self.plan.total_steps) for moment in self.plan.moments)
        moments = ", ".join(f"{epoch} ({100 * share:.0f} %)" for epoch, share in shares)
        self._say(f"base of {self.plan.epochs} epochs{several} in {self.folder}, seed {seeds}")
        self._say(f"branches leave it after epoch {moments}")

    def _say(self, line: str) -> None:
        if not self.quiet:
            print(line, flush=True)


def _refuse_other_content(folder: Path, recipe: Recipe) -> None:
    """Raises RunFolderError where ``folder`` is a file, or holds other runs or a base of another recipe."""
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file and not a folder", _ANOTHER_FOLDER)
    runs = [file.parent for pattern in (RECIPE, f"*/{RECIPE}") for file in sorted(folder.glob(pattern))]
    if runs:
        raise RunFolderError(f"{folder} is no folder of a study: {runs[0]} is a run of train or sweep", _ANOTHER_FOLDER)
    for file in sorted(folder.glob(f"seed-*/base/{RECIPE}")):
        there = load_recipe(str(file))
        if there.digest() != recipe.digest():
            difference = recipe_difference(there, recipe)
            raise RunFolderError(f"{folder} holds a study of another recipe ({difference})", _ANOTHER_FOLDER)


def _progress(results: Iterator[BranchResult], there: int, total: int) -> Iterator[str]:
    """One line for each result as it comes in, where ``there`` of ``total`` need no training."""
    start = time.perf_counter()
    for done, result in enumerate(results, start=1):
        what = "twin" if result.rule is None else f"{result.rule} {result.rate:g}"
        after = "diverged" if result.accuracy_after is None else f"{result.accuracy_after:.2f} %"
        left = (time.perf_counter() - start) / done * (total - there - done)
        rest = f", about {seconds(left)} left" if there + done < total else ""
        yield f"{there + done}/{total}  seed {result.seed}  epoch {result.epoch}  {what}: {after}{rest}"
