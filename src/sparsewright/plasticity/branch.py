"""One training that leaves the base at a moment: pruned, grown, and trained on at the learning rate of that moment."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsewright.analysis.plasticity import RULES
from sparsewright.data import Data
from sparsewright.plasticity.branch_result import BranchResult, write_result
from sparsewright.plasticity.plan import Branch, base_stage
from sparsewright.plasticity.pruning import loss_gradients, prune
from sparsewright.sparsifier import Sparsifier
from sparsewright.training.checkpoint import load_checkpoint, own_random_state, set_random_state
from sparsewright.training.launch import deterministic, launch, own_threads, without_noise
from sparsewright.training.loop import StepReport, Trainer, TrainingError, check_finite, evaluate_model
from sparsewright.training.opening import create_recipe_model, data_facts, open_recipe_data
from sparsewright.training.optimizers import build_optimizer
from sparsewright.training.recipe import DataSettings, Recipe, Stage

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class BranchJob:
    """All that a process needs to train a branch.

    Attributes:
        recipe: of the base.
        branch: which one.
        checkpoint: of the base at the branch's moment.
        file: where the result goes.
        data_dir: where the data set is.
        device, precision: of the base.
        threads: CPU threads, those of the base.
    """

    recipe: Recipe
    branch: Branch
    checkpoint: Path
    file: Path
    data_dir: Path
    device: str
    precision: str
    threads: int


def run_branch(job: BranchJob) -> BranchResult:
    """Trains a branch and writes its result.

    The twin of a base whose learning rate does not change next is bit for bit what the base becomes.

    Raises:
        CheckpointError, FileNotFoundError: the checkpoint is damaged or gone.
        SaveError: the result could not be written.
    """

    def work(fabric: Fabric, _: None) -> dict[str, Any]:
        torch.set_num_threads(job.threads)
        return {"result": _train_branch(fabric, job)}

    with own_random_state(), own_threads(), deterministic(job.device), without_noise():
        result = launch(work, None, device=job.device, devices=1, precision=job.precision)["result"]
    write_result(job.file, result)
    return result


def _train_branch(fabric: Fabric, job: BranchJob) -> BranchResult:
    start, branch, stage = time.perf_counter(), job.branch, base_stage(job.recipe)
    saved = load_checkpoint(job.checkpoint)
    data = _open(_Source(job.recipe.data, job.data_dir, branch.seed, fabric.device, job.recipe))
    model = create_recipe_model(job.recipe, data_facts(data), branch.seed, load_weights=False)
    model.load_state_dict(saved["model"])
    model.to(fabric.device)
    optimizer = build_optimizer(model, stage.optimizer)
    optimizer.load_state_dict(saved["optimizer"])
    before = saved["progress"]["metrics"][-1]["test_accuracy"]
    sparsifier = _prune(fabric, branch, model, optimizer, data, stage)
    pruned = evaluate_model(fabric, model, data.test.epoch(0)).accuracy if sparsifier is not None else before
    set_random_state(saved["random"][0], fabric.device)
    after = None
    try:
        _train_on(fabric, job, model, optimizer, data, stage)
        tested = evaluate_model(fabric, model, data.test.epoch(0))
        check_finite(tested.loss, "test loss after training on")
        after = tested
    except TrainingError:
        # Too much was pruned for this learning rate, which is a result too.
        pass
    return BranchResult(
        seed=branch.seed,
        epoch=branch.moment.epoch,
        step=branch.moment.step,
        learning_rate=branch.moment.learning_rate,
        horizon_steps=branch.horizon_steps,
        rule=branch.rule,
        rate=branch.rate,
        sparsity=sparsifier.sparsity() if sparsifier is not None else 0.0,
        accuracy_before=before,
        accuracy_pruned=pruned,
        accuracy_after=after.accuracy if after is not None else None,
        seconds=time.perf_counter() - start,
    )


@dataclass(frozen=True)
class _Source:
    """Arguments of ``open_recipe_data``; of a recipe, which cannot be hashed, only the settings of the data count."""

    settings: DataSettings
    data_dir: Path
    seed: int
    device: torch.device
    recipe: Recipe = field(compare=False)


@lru_cache(maxsize=1)
def _open(source: _Source) -> Data:
    """The data as the base saw them, opened once a process for all branches of one base."""
    return open_recipe_data(
        source.recipe,
        source.data_dir,
        seed=source.seed,
        device=source.device,
        rank=0,
        world_size=1,
        validation=source.settings.validation,
        download=False,
    )


def _prune(
    fabric: Fabric, branch: Branch, model: nn.Module, optimizer: torch.optim.Optimizer, data: Data, stage: Stage
) -> Sparsifier | None:
    """Prunes the model as the branch wants it; what is returned holds the masks while it trains on."""
    if branch.rule is None or branch.rate is None:
        return None

    def gradients() -> dict[str, Tensor]:
        images, labels = next(data.train.epoch(branch.moment.epoch))
        with fabric.autocast():
            return loss_gradients(model, images, labels, stage.label_smoothing)

    with warnings.catch_warnings():
        # What there is to tell of a pruning, the plan has told once.
        warnings.simplefilter("ignore", UserWarning)
        return prune(model, optimizer, RULES[branch.rule], branch.rate, gradients)


def _train_on(
    fabric: Fabric, job: BranchJob, model: nn.Module, optimizer: torch.optim.Optimizer, data: Data, stage: Stage
) -> None:
    moment = job.branch.moment

    def constant(step: int) -> float:
        for group in optimizer.param_groups:
            group["lr"] = moment.learning_rate
        return moment.learning_rate

    def ignore(report: StepReport) -> None:
        pass

    trainer = Trainer(
        fabric=fabric,
        model=fabric.setup_module(model),
        optimizer=optimizer,
        set_rate=constant,
        batch_size=job.recipe.data.batch_size,
        label_smoothing=stage.label_smoothing,
        gradient_clip=stage.gradient_clip,
        after_step=ignore,
    )
    step, last = moment.step, moment.step + job.branch.horizon_steps
    while step < last:
        _, step, _ = trainer.epoch(data.train, step // len(data.train), step, last)
