"""Winning tickets: a chain of ordinary runs from a dense network to a sparse one that is trained from its beginnings.

Frankle & Carbin, arXiv 1803.03635; weights of an early step: Frankle et al., arXiv 1903.01611; learning rate
rewinding: Renda et al., arXiv 2003.02389; GSM: Ding et al., arXiv 1909.12778.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sparsewright.checks import check_seed
from sparsewright.files import write_text
from sparsewright.training.fading import FadingWarning
from sparsewright.training.folder import (
    ANOTHER_FOLDER,
    CHECKPOINT,
    SUMMARY,
    RunFolderError,
    read_settings,
    run_digest,
)
from sparsewright.training.launch import own_threads
from sparsewright.training.loop import TrainingError
from sparsewright.training.masks_file import MASKS, load_masks
from sparsewright.training.recipe import Recipe
from sparsewright.training.run import train
from sparsewright.training.start import FROM_SEED, Start, record_start
from sparsewright.training.ticket_plan import WEIGHTS_REWINDING, TicketPlan, plan_ticket
from sparsewright.training.ticket_recipes import ITERATIVE
from sparsewright.training.ticket_result import TicketResult, TicketStage, stage_result

RECORD = "ticket.json"


def find_ticket(
    recipe: Recipe,
    *,
    find: str | None = None,
    sparsity: float | None = None,
    rewind: str = WEIGHTS_REWINDING,
    rewind_step: int | str = 0,
    rounds: int | None = None,
    root: Path = Path("runs/tickets"),
    data_dir: Path = Path("data"),
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    precision: str = "32",
    download: bool = True,
    quiet: bool = False,
) -> TicketResult:
    """Trains a network, finds a sparse part of it, and trains that part alone from where it started.

    Every stage is a run in a folder ``ROOT/DATA-MODEL-STAGE-HASH`` of its own, the hash over its settings, the seed and
    the content of the files it starts from. Stages with masks have the sparsity before the hash, and what they are
    rewound to where that is not the initial weights; a folder is known by its hash all the same. A finished one is
    reused and an unfinished one resumed: another ``find`` does not train the base again, and the same call after an
    interruption goes on. The result is also written to ticket.json in the folder of the last stage.

    Args:
        recipe: with one dense train stage before any that makes the network sparse; a stage of method gsm gives the
            settings of GSM, one of method magnitude the options of the pruning.
        find: "gsm" (from the trained weights), "magnitude" (in one shot) or "iterative" (by magnitude in rounds); None
            for gsm where the recipe has a stage of it, else magnitude.
        sparsity: of the ticket, in [0, 1); None for the recipe's.
        rewind: "weights": the ticket starts with those of the dense run at ``rewind_step``; "learning-rate": with those
            that it was found with. The schedule starts at ``rewind_step`` in both cases.
        rewind_step: optimizer step of the base, or a duration such as "500it" or "1ep"; 0 for its start.
        rounds: of iterative pruning, each removing the same share of what is left; None for 5.
        root: the folder of all run folders.
        data_dir, seed, device, devices, precision, download, quiet: as for ``train``.

    Raises:
        RecipeError: no sparsity, or not exactly one dense train stage to start with.
        RunFolderError: a folder below ``root`` holds something else, or a run of another precision or device.
        ValueError, TypeError, FileNotFoundError: an argument, an option of the method or the data are not usable; found
            before anything is trained.
        CheckpointError, SaveError, TrainingError: as for ``train``.

    Warns:
        UserWarning: a stage of the recipe has no part in the experiment, or GSM has settings that do not suit it.
    """
    seed = check_seed(seed)
    plan = plan_ticket(
        recipe,
        find=find,
        sparsity=sparsity,
        rewind=rewind,
        rewind_step=rewind_step,
        rounds=rounds,
        data_dir=data_dir,
        seed=seed,
        devices=devices,
        download=download,
    )
    options = {"data_dir": data_dir, "seed": seed, "device": device, "devices": devices, "precision": precision}
    with own_threads(), warnings.catch_warnings():
        # The plan has told it.
        warnings.simplefilter("ignore", FadingWarning)
        stages = _run(plan, _Chain(Path(root), {**options, "download": download, "quiet": quiet}))
    result = TicketResult(
        recipe=recipe.name,
        find=plan.find,
        sparsity=plan.sparsity,
        rewind=plan.rewind,
        rewind_step=plan.rewind_step,
        rounds=len(plan.searches) if plan.find == ITERATIVE else None,
        seed=seed,
        evaluated_on="validation" if recipe.data.validation else "test",
        stages=tuple(stages),
    )
    write_text(result.stages[-1].folder / RECORD, json.dumps(result.as_dict(), indent=2, allow_nan=False) + "\n")
    return result


@dataclass(frozen=True)
class _Chain:
    """The runs of one experiment, each in its folder below ``root``, all with the same ``arguments`` to ``train``."""

    root: Path
    arguments: Mapping[str, Any]
    stages: list[TicketStage] = field(default_factory=list)

    def run(
        self, name: str, recipe: Recipe, start: Start = FROM_SEED, stop: int | None = None, *, details: str = ""
    ) -> Path:
        """Finishes the run unless it is finished already, and returns its folder, in whose name are the ``details``."""
        digest = run_digest(recipe, self.arguments["seed"], record_start(start, stop))
        folder = self._folder(f"{_slug(recipe.data.name)}-{_slug(recipe.model.name)}-{name}", details, digest)
        state = _state(folder, recipe, stop)
        if not self.arguments["quiet"]:
            print(f"{name}: {state}, {folder}", flush=True)
        named = recipe.model_copy(update={"name": f"{recipe.name} ({name})"})
        try:
            summary = train(named, out=folder, resume=True, start=start, stop=stop, **self.arguments)
        except RunFolderError as error:
            if error.remedy != ANOTHER_FOLDER:
                raise
            raise RunFolderError(error.problem, "choose another folder with --root") from error
        self.stages.append(stage_result(name, folder, summary, reused=state == "reused"))
        return folder

    def _folder(self, stage: str, details: str, digest: str) -> Path:
        # The hash says it all: what is between is for people, and earlier versions wrote less of it.
        there = sorted(self.root.glob(f"{stage}*-{digest}"))
        return there[0] if there else self.root / "-".join(part for part in (stage, details, digest) if part)


def _run(plan: TicketPlan, chain: _Chain) -> list[TicketStage]:
    step = plan.rewind_step
    trained = chain.run("base", plan.base)
    # Sums round differently for another number of threads, and the base may be of another day.
    torch.set_num_threads(read_settings(trained).threads)
    rewound = None
    if plan.rewind == WEIGHTS_REWINDING:
        rewound = chain.run("initial" if step == 0 else f"step-{step}", plan.base, stop=step)
    former = None
    for number, search in enumerate(plan.searches, start=1):
        sparsity = f"{search.resolved_stages()[-1].sparsity:.6g}"
        found = chain.run(plan.search_name(number), search, Start(weights=trained), details=sparsity)
        if former is not None:
            _check_nested(former, found)
        start = Start(weights=rewound or found, masks=found, step=step)
        details = "-".join(part for part in (sparsity, plan.rewound_to()) if part)
        trained = chain.run(plan.training_name(number), plan.base, start, details=details)
        former = found
    return chain.stages


def _check_nested(former: Path, found: Path) -> None:
    """A weight that an earlier round removed is 0 and so goes first again, unless too many kept ones became 0 as well.

    Raises:
        TrainingError: one came back.
    """
    before = load_masks(former / MASKS)
    for name, mask in load_masks(found / MASKS).items():
        if returned := int((mask & ~before[name]).sum()):
            raise TrainingError(
                f"pruning in {found} gave {returned} weights of {name} back that {former} had removed, because more "
                "kept weights than it had to remove have become exactly 0; use fewer rounds or a lower sparsity"
            )


def _state(folder: Path, recipe: Recipe, stop: int | None) -> str:
    if (folder / SUMMARY).is_file():
        return "reused"
    if (folder / CHECKPOINT).is_file():
        return "resumed"
    if stop == 0:
        return "initialising"
    return "training" if any(stage.kind == "train" for stage in recipe.resolved_stages()) else "pruning"


def _slug(name: str) -> str:
    """A part of a folder's name; of long paths the end."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name)[-40:].strip("-")
