"""What each kind of stage does: train, prune in one shot, shrink, evaluate."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import sparsewright as sw
from sparsewright.analysis.flops import layer_flops
from sparsewright.data import Data, Loader
from sparsewright.methods.gsm import GradientError
from sparsewright.methods.rpg import NO_RANK_LOSS
from sparsewright.training.auto_duration import AUTO, StageEnd
from sparsewright.training.costs import TrainingCost, dense_gradient_need
from sparsewright.training.errors import RecipeError
from sparsewright.training.layer_log import LayerRecorder
from sparsewright.training.logging import Reporter
from sparsewright.training.loop import Result, StepReport, Trainer, TrainingError, check_finite, evaluate_model
from sparsewright.training.lr_schedule import LearningRate
from sparsewright.training.method_options import DENSE
from sparsewright.training.optimizers import build_optimizer
from sparsewright.training.progress import Progress
from sparsewright.training.rank_log import average_ranks, measure_ranks, passes_multiple
from sparsewright.training.recipe import Recipe, Stage, StageKind
from sparsewright.training.shrinking import DenseNetwork, example_images, remember_groups, shrink_network
from sparsewright.training.stage_errors import named_stage
from sparsewright.training.zeros import zero_fraction

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class Session:
    """What all stages of one run share on one rank.

    Attributes:
        fabric: the launched Fabric.
        recipe: the recipe.
        seed: everything random derives from it.
        data: the opened data set.
        model: the plain model on its device; a shrink stage replaces it by a smaller one.
        dense: the recipe's network as it is before any shrink stage.
        layer_flops: dense forward FLOPs per image of the model by parameter name.
        progress: how far the run is.
        reporter: where results go.
        layers: where what happens layer by layer goes.
        save: writes the checkpoint, with the states of optimizer and sparsifier of an unfinished stage.
        stop: the step of the only stage before which the run ends; None for its last.
    """

    fabric: Fabric
    recipe: Recipe
    seed: int
    data: Data
    model: nn.Module
    dense: DenseNetwork
    layer_flops: Mapping[str, float]
    progress: Progress
    reporter: Reporter
    layers: LayerRecorder
    save: Callable[[Mapping[str, Any] | None, Mapping[str, Any] | None], None]
    stop: int | None = None

    def stage_steps(self, stage: Stage) -> int:
        """Optimizer steps of ``stage`` at most; 0 if it does not train."""
        return self.recipe.stage_steps(stage, len(self.data.train))

    def stage_end(self, stage: Stage, sparsifier: sw.Sparsifier | None) -> StageEnd:
        """Where ``stage`` ends here."""
        last = self.stage_steps(stage) if self.stop is None else self.stop
        return StageEnd(last, sparsifier if stage.duration == AUTO else None)

    def example(self) -> Tensor:
        """Images such as those of the data, on the model's device."""
        return example_images(self.data.in_channels, self.data.image_size, self.fabric.device)


def derived_seed(seed: int, purpose: str, index: int = 0) -> int:
    """A seed for one purpose: equal seeds for weights and masks would draw correlated numbers."""
    return int.from_bytes(hashlib.sha256(f"{purpose}/{index}/{seed}".encode()).digest()[:4], "big")


def run_stage(session: Session, stage: Stage, saved: Mapping[str, Any] | None) -> None:
    """Runs the rest of ``stage`` and leaves the progress at the start of the next one.

    Args:
        session: the run.
        stage: the stage that the progress is at.
        saved: the checkpoint from the middle of this stage, or None to start it.
    """
    if stage.kind == "train":
        _train(session, stage, saved)
    elif stage.kind == "prune":
        _prune(session, stage)
    elif stage.kind == "shrink":
        _shrink(session, stage)
    else:
        _report(session, stage, None, 0.0, 0.0)
    session.progress.next_stage()
    session.save(None, None)


def _train(session: Session, stage: Stage, saved: Mapping[str, Any] | None) -> None:
    progress, data = session.progress, session.data
    total = session.stage_steps(stage)
    if total < 1:
        raise RecipeError(f"stage {stage.name}: duration {stage.duration} is less than one optimizer step")
    wrapped = session.fabric.setup_module(session.model)
    optimizer = build_optimizer(session.model, stage.optimizer)
    sparsifier = _attach(session, stage, optimizer, total)
    try:
        if saved is not None:
            session.model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            if sparsifier is not None:
                sparsifier.load_state_dict(saved["sparsifier"])
        if sparsifier is not None:
            _look_at_start(session, sparsifier)
        options = session.recipe.method_options(stage)
        need = dense_gradient_need(stage.method.name, options)
        cost = TrainingCost(session.layer_flops, sparsifier, need, session.dense.layer_flops)
        end = session.stage_end(stage, sparsifier)
        trainer = _trainer(session, stage, wrapped, optimizer, cost, total, sparsifier)
        epochs = -(-total // len(data.train))
        if end.reached(progress.step):
            _report(session, stage, None, 0.0, 0.0, sparsifier, kind="evaluate")
        while not end.reached(progress.step):
            session.reporter.start_epoch(stage.name, progress.epoch + 1, epochs, _sparsity(session, sparsifier))
            trained = _train_epoch(session, trainer, cost, end.step)
            if end.reached(progress.step) and sparsifier is not None:
                _report_last(session, stage, sparsifier, *trained)
                break
            _report(session, stage, *trained, sparsifier)
            if not end.reached(progress.step):
                session.save(optimizer.state_dict(), sparsifier.state_dict() if sparsifier is not None else None)
    finally:
        if sparsifier is not None:
            sparsifier.detach()


def _trainer(
    session: Session,
    stage: Stage,
    wrapped: Any,
    optimizer: torch.optim.Optimizer,
    cost: TrainingCost,
    total: int,
    sparsifier: sw.Sparsifier | None,
) -> Trainer:
    rates = LearningRate(stage.schedule, total, len(session.data.train))
    current = sparsifier.sparsity if sparsifier is not None else None
    before = session.progress.total_steps - session.progress.step

    def after_step(report: StepReport) -> None:
        cost.count(report.images)
        _look(session, sparsifier, before + report.step)
        session.reporter.step(report, current)

    return Trainer(
        fabric=session.fabric,
        model=wrapped,
        optimizer=optimizer,
        set_rate=lambda step: rates.apply(optimizer, stage.optimizer.lr, step),
        batch_size=session.recipe.data.batch_size,
        label_smoothing=stage.label_smoothing,
        gradient_clip=stage.gradient_clip,
        after_step=after_step,
        finished=session.stage_end(stage, sparsifier).finished,
    )


class _RestOfEpoch:
    """Epochs of ``loader`` without their first ``start`` batches of ``batch_size`` images; a `Loader`."""

    def __init__(self, loader: Loader, start: int, batch_size: int) -> None:
        self._loader, self._start = loader, start
        self.samples = loader.samples - start * batch_size

    def __len__(self) -> int:
        return len(self._loader) - self._start

    def epoch(self, n: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        return self._loader.epoch(n, self._start + start)


def _train_epoch(session: Session, trainer: Trainer, cost: TrainingCost, last: int) -> tuple[Result, float, float]:
    progress = session.progress
    dense, sparse, start, first = cost.dense, cost.sparse, time.perf_counter(), progress.step
    try:
        loader = _RestOfEpoch(session.data.train, first % len(session.data.train), trainer.batch_size)
        number = progress.skipped_epochs + progress.total_epochs
        result, progress.step, rate = trainer.epoch(loader, number, first, last)
    except GradientError as error:
        raise TrainingError(str(error)) from error
    seconds = time.perf_counter() - start
    progress.epoch += 1
    progress.total_epochs += 1
    progress.total_steps += progress.step - first
    progress.flops_dense += cost.dense - dense
    progress.flops_sparse += cost.sparse - sparse
    progress.seconds += seconds
    return result, rate, seconds


def _attach(session: Session, stage: Stage, optimizer: torch.optim.Optimizer, total: int) -> sw.Sparsifier | None:
    """The stage's sparsifier; a dense stage after a sparse one holds the masks that it finds."""
    masks: Mapping[str, Tensor] = session.progress.masks
    if stage.method.name == DENSE:
        if not masks:
            return None
        held = sw.MaskSet({name: mask.clone() for name, mask in masks.items()})
        return sw.create("static", session.model, optimizer, masks=held, total_steps=total, include=sorted(masks))
    with named_stage(stage):
        return _create(session, stage, optimizer, total)


def _create(session: Session, stage: Stage, optimizer: torch.optim.Optimizer, total: int) -> sw.Sparsifier:
    options = session.recipe.method_options_in_steps(stage, len(session.data.train))
    sparsifier = sw.create(
        stage.method.name,
        session.model,
        optimizer,
        sparsity=stage.sparsity,
        total_steps=total,
        seed=derived_seed(session.seed, "sparsifier", session.progress.stage),
        **options,
    )
    if isinstance(sparsifier, sw.RPG) and sparsifier.options.rank_weight > 0 and not sparsifier.rank_layers:
        warnings.warn(f"stage {stage.name} has no rank loss: {NO_RANK_LOSS} (as method.* options)", stacklevel=2)
    return sparsifier


def _prune(session: Session, stage: Stage) -> None:
    optimizer = torch.optim.SGD(session.model.parameters(), lr=0.0)
    sparsifier = _attach(session, stage, optimizer, 1)
    assert sparsifier is not None
    _look_at_start(session, sparsifier)
    _finalize(session, sparsifier)
    _report(session, stage, None, 0.0, 0.0, sparsifier)


def _shrink(session: Session, stage: Stage) -> None:
    first_rank = session.fabric.global_rank == 0
    session.model = shrink_network(session.model, session.example(), session.progress, announce=first_rank)
    session.layer_flops = layer_flops(session.model, session.example())
    _report(session, stage, None, 0.0, 0.0)


def _report_last(
    session: Session, stage: Stage, sparsifier: sw.Sparsifier, trained: Result, rate: float, seconds: float
) -> None:
    """Ends the sparsifier and reports the last epoch with its final masks; pruning at the end gets its own line."""
    if not sparsifier.prunes_at_end:
        _finalize(session, sparsifier)
        _report(session, stage, trained, rate, seconds, sparsifier)
        return
    _report(session, stage, trained, rate, seconds, sparsifier)
    _finalize(session, sparsifier)
    _report(session, stage, None, 0.0, 0.0, sparsifier, kind="prune")


def _look(session: Session, sparsifier: sw.Sparsifier | None, step: int) -> None:
    if sparsifier is not None:
        session.layers.look(step, sparsifier.masks, sparsifier.topology_version)


def _look_at_start(session: Session, sparsifier: sw.Sparsifier) -> None:
    session.layers.forget_version()
    if isinstance(sparsifier, sw.Magnitude):
        session.layers.begin_from(session.progress.masks, sparsifier.masks)
    _look(session, sparsifier, session.progress.total_steps)


def _finalize(session: Session, sparsifier: sw.Sparsifier) -> None:
    without_masks = not sparsifier.masks
    sparsifier.finalize()
    if without_masks:
        session.layers.begin_from(session.progress.masks, sparsifier.masks)
    _look(session, sparsifier, session.progress.total_steps)
    session.layers.flush(session.progress.total_steps)
    session.progress.masks = {name: mask.detach().cpu().clone() for name, mask in sparsifier.masks.items()}
    remember_groups(session.progress, sparsifier)


def _report(
    session: Session,
    stage: Stage,
    trained: Result | None,
    rate: float,
    seconds: float,
    sparsifier: sw.Sparsifier | None = None,
    kind: StageKind | None = None,
) -> None:
    progress = session.progress
    tested = evaluate_model(session.fabric, session.model, session.data.test.epoch(0))
    check_finite(tested.loss, f"test loss after epoch {progress.total_epochs}")
    if trained is not None and _schedule_ended(session, sparsifier):
        progress.best_accuracy = max(tested.accuracy, progress.best_accuracy or 0.0)
    line = {
        "stage": stage.name,
        "kind": kind or stage.kind,
        "epoch": progress.total_epochs,
        "step": progress.total_steps,
        "lr": rate if trained is not None else None,
        "train_loss": trained.loss if trained is not None else None,
        "train_accuracy": trained.accuracy if trained is not None else None,
        "test_loss": tested.loss,
        "test_accuracy": tested.accuracy,
        "sparsity": _sparsity(session, sparsifier),
        "seconds": seconds,
    }
    if _ranks_due(session, stage, trained, sparsifier):
        rows = measure_ranks(session.model)
        line |= average_ranks(rows)
        session.layers.ranks(progress.total_steps, rows)
    progress.metrics.append(line)
    session.reporter.end_epoch(line)


def _ranks_due(session: Session, stage: Stage, trained: Result | None, sparsifier: sw.Sparsifier | None) -> bool:
    """Whether the ranks belong into the next line: by their interval, at the end of a stage, and without training."""
    if session.recipe.log_rank_every is None:
        return False
    progress = session.progress
    if trained is None or session.stage_end(stage, sparsifier).reached(progress.step):
        return True
    before = progress.metrics[-1]["step"] if progress.metrics else 0
    interval = max(session.recipe.log_rank_every.steps(len(session.data.train)), 1)
    return passes_multiple(before, progress.total_steps, interval)


def _schedule_ended(session: Session, sparsifier: sw.Sparsifier | None) -> bool:
    """Whether the model has its final connections: nothing later removes any, and its topology moves no more."""
    later = session.recipe.resolved_stages()[session.progress.stage + 1 :]
    if any(stage.removes_connections for stage in later):
        return False
    return sparsifier is None or (sparsifier.finished and bool(sparsifier.masks))


def _sparsity(session: Session, sparsifier: sw.Sparsifier | None) -> float:
    """Counted on the masks, or on the weights while there are none: a run may start from a sparse network."""
    if sparsifier is not None:
        return sparsifier.sparsity()
    masks = session.progress.masks
    return sw.MaskSet(dict(masks)).sparsity() if masks else zero_fraction(session.model)
