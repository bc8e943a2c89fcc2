"""A whole run: train a recipe into a folder, resume it, evaluate it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sparsewright.analysis.flops import layer_flops
from sparsewright.checks import check_seed
from sparsewright.data import Data
from sparsewright.files import write_text
from sparsewright.masks import MaskSet
from sparsewright.training.checkpoint import (
    load_checkpoint,
    own_random_state,
    random_state,
    save_checkpoint,
    seed_everything,
    set_random_state,
)
from sparsewright.training.fading import warn_of_slow_fading
from sparsewright.training.folder import (
    CHECKPOINT,
    SUMMARY,
    WEIGHTS,
    LoggerName,
    Prepared,
    RunFolderError,
    RunSettings,
    default_folder,
    discard_start,
    only_here,
    prepare_folder,
    read_settings,
    recorded_start,
)
from sparsewright.training.kept_checkpoints import check_kept, check_kept_files, check_kept_steps, keep_checkpoint
from sparsewright.training.launch import deterministic, launch, own_threads, resolve_device, without_noise
from sparsewright.training.layer_log import LayerRecorder
from sparsewright.training.loaded_run import LoadedRun, load_run
from sparsewright.training.loggers import Logger, RunFacts, check_logger, opened_logger
from sparsewright.training.logging import Reporter
from sparsewright.training.loop import evaluate_model
from sparsewright.training.masks_file import MASKS, save_masks
from sparsewright.training.opening import create_recipe_model, data_facts, open_recipe_data
from sparsewright.training.progress import Progress
from sparsewright.training.recipe import Recipe
from sparsewright.training.removal_checks import check_removals
from sparsewright.training.shrinking import (
    DenseNetwork,
    describe_dense,
    example_images,
    take_widths,
    widths_facts,
)
from sparsewright.training.stages import Session, derived_seed, run_stage
from sparsewright.training.start import FROM_SEED, Start, begin, check_start, check_steps, record_start
from sparsewright.training.summary import build_summary
from sparsewright.training.untrained import warn_of_untrained
from sparsewright.training.weights import save_weights
from sparsewright.training.zeros import zero_fraction

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class _Job:
    recipe: Recipe
    folder: Path
    data_dir: Path
    seed: int
    resume: bool
    start: Start
    stop: int | None
    keep: frozenset[int]
    precision: str
    device: str
    download: bool
    logger: LoggerName
    quiet: bool


def train(
    recipe: Recipe,
    *,
    out: Path | None = None,
    data_dir: Path = Path("data"),
    seed: int = 0,
    resume: bool = False,
    start: Start | None = None,
    stop: int | None = None,
    keep: Collection[int] = (),
    device: str = "auto",
    devices: int = 1,
    precision: str = "32",
    download: bool = True,
    logger: str = "tensorboard",
    quiet: bool = False,
) -> dict[str, Any]:
    """Trains ``recipe`` into a run folder and returns the content of its summary.json.

    A run killed at any moment goes on with ``resume=True`` from its last finished epoch and ends with the same weights,
    bit for bit, as an uninterrupted one (same machine, versions, threads and devices).

    Args:
        recipe: from ``load_recipe``.
        out: the run folder; None for ``runs/RECIPE-HASH``, the hash over settings, seed, ``start`` and ``stop``.
        data_dir: where data sets are looked for, and downloaded to.
        seed: of the initial weights, the order of the data and the method's choices; in [0, 2**63).
        resume: go on with the run in the folder; one that is finished just returns its summary; none starts one.
        start: weights, masks and step to start from; None for a fresh network at step 0. A run whose first checkpoint
            is written can be resumed without the files, if ``out`` names its folder.
        stop: end before this optimizer step, with the weights that an uninterrupted run has there, bit for bit; 0 for
            the initial ones. None for the end of the schedule. Only for recipes of one dense train stage.
        keep: optimizer steps, each the end of an epoch before the last, after which the checkpoint is kept for good as
            ``checkpoints/step-N.ckpt`` in the run folder. Only for recipes of one train stage, from its first step on.
        device: "auto", "cpu" or "cuda".
        devices: number of processes on this machine; not used under torchrun.
        precision: "32" or "bf16" (mixed).
        download: whether an absent data set may be downloaded.
        logger: where scalars go besides metrics.jsonl: "tensorboard", "wandb" (Weights & Biases) or "none".
        quiet: print no progress.

    Raises:
        RunFolderError: the folder holds a run already, one of other settings, or files that are of no run.
        RecipeError: the recipe cannot be started or stopped so.
        CheckpointError: the checkpoint to resume from is damaged.
        SaveError: a file could not be written; what was saved before is intact.
        TrainingError: the loss is not finite.
        ValueError, TypeError, FileNotFoundError: an argument, an option of the method, a file to start from or the
            data are not usable.
    """
    seed = check_seed(seed)
    start = FROM_SEED if start is None else start
    check_start(recipe, start, stop)
    accelerator = resolve_device(device)
    folder = Path(out) if out is not None else default_folder(recipe, seed, record_start(start, stop))
    job = _Job(
        recipe=recipe,
        folder=folder,
        data_dir=Path(data_dir),
        seed=seed,
        resume=resume,
        start=start,
        stop=stop,
        keep=check_kept_steps(recipe, start.step, keep),
        precision=precision,
        device=accelerator,
        download=download,
        logger=check_logger(logger),
        quiet=quiet,
    )
    with own_random_state(), own_threads(), deterministic(accelerator), without_noise():
        return launch(_train_on_rank, job, device=accelerator, devices=devices, precision=precision)


def evaluate(
    target: Path,
    *,
    data_dir: Path = Path("data"),
    device: str = "auto",
    precision: str | None = None,
    split: str = "test",
    download: bool = True,
) -> dict[str, Any]:
    """Loss and accuracy of a finished run's weights.

    Args:
        target: a run folder, or a model.safetensors beside a recipe.yaml.
        data_dir, device, download: as for ``train``.
        precision: "32" or "bf16"; None for that of the run's training, or "32" where no run.json is beside the weights.
        split: "test", or "validation" for the images that the recipe splits off.

    Returns:
        accuracy (per cent), loss, images, split, precision, sparsity (zeros among the layers' weights) and recipe.
    """
    run: LoadedRun = load_run(target)
    if split not in ("test", "validation"):
        raise ValueError(f"split must be test or validation, got {split!r}")
    if split == "validation" and not run.recipe.data.validation:
        raise ValueError(f"recipe {run.recipe.name} has no validation split; set data.validation when training")

    if precision is None:
        precision = run.settings.precision if run.settings is not None else "32"

    def work(fabric: Fabric, _: None) -> dict[str, Any]:
        validation = run.recipe.data.validation if split == "validation" else 0
        data = _open(fabric, run.recipe, Path(data_dir), 0, download, validation)
        result = evaluate_model(fabric, run.model.to(fabric.device), data.test.epoch(0))
        return {
            "recipe": run.recipe.name,
            "split": split,
            "precision": precision,
            "images": result.images,
            "accuracy": result.accuracy,
            "loss": result.loss,
            "sparsity": zero_fraction(run.model),
        }

    with without_noise():
        return launch(work, None, device=device, devices=1, precision=precision)


def _train_on_rank(fabric: Fabric, job: _Job) -> dict[str, Any]:
    finished = (job.folder / SUMMARY).is_file()
    with only_here(job.folder) if fabric.global_rank == 0 and not finished else nullcontext():
        return _train_alone(fabric, job)


def _train_alone(fabric: Fabric, job: _Job) -> dict[str, Any]:
    prepared = _agree_on_folder(fabric, job)
    if prepared.summary is not None:
        check_kept_files(job.folder, job.keep)
        return prepared.summary
    try:
        return _train_in_folder(fabric, job)
    except Exception:
        if fabric.global_rank == 0:
            discard_start(job.folder, prepared)
        raise


def _train_in_folder(fabric: Fabric, job: _Job) -> dict[str, Any]:
    first_rank = fabric.global_rank == 0
    torch.set_num_threads(read_settings(job.folder).threads)
    checkpoint = job.folder / CHECKPOINT
    saved = load_checkpoint(checkpoint) if job.resume and checkpoint.exists() else None
    data = _open(fabric, job.recipe, job.data_dir, job.seed, job.download, job.recipe.data.validation)
    stages = job.recipe.resolved_stages()
    check_steps(job.start, job.stop, job.recipe.stage_steps(stages[0], len(data.train)))
    model, progress, dense = _begin_or_resume(job, data, saved)
    model.to(fabric.device)
    example = example_images(data.in_channels, data.image_size, fabric.device)
    if saved is None:
        check_removals(job.recipe, model, example, len(data.train))
    if saved is None and first_rank:
        warn_of_slow_fading(job.recipe, len(data.train))
        warn_of_untrained(job.recipe, trained=job.start.weights is not None)
    seed_everything(derived_seed(job.seed, "training", fabric.global_rank))
    if saved is not None:
        set_random_state(saved["random"][fabric.global_rank], fabric.device)
    schedule = sum(job.recipe.stage_steps(stage, len(data.train)) for stage in stages)
    total_steps = (schedule if job.stop is None else job.stop) - job.start.step
    if saved is not None and progress.total_steps in job.keep:
        # A kill between the two files leaves the last checkpoint without its copy.
        if first_rank:
            keep_checkpoint(job.folder, progress.total_steps)
        fabric.barrier()
    check_kept(job.folder, job.keep, len(data.train), total_steps, progress.total_steps)
    layers = LayerRecorder(job.folder if first_rank else None, total_steps, progress.layers)
    with (
        _opened_logger(job, progress) if first_rank else nullcontext() as logger,
        Reporter(
            job.folder if first_rank else None,
            total_steps,
            title=job.recipe.name,
            done_steps=progress.total_steps,
            lines=progress.metrics,
            logger=logger,
            quiet=job.quiet,
        ) as reporter,
    ):

        def save(optimizer: Mapping[str, Any] | None, sparsifier: Mapping[str, Any] | None) -> None:
            progress.layers = layers.state_dict()
            _save(fabric, checkpoint, session.model, progress, optimizer, sparsifier)
            if first_rank and progress.total_steps in job.keep:
                keep_checkpoint(job.folder, progress.total_steps)

        session = Session(
            fabric=fabric,
            recipe=job.recipe,
            seed=job.seed,
            data=data,
            model=model,
            dense=dense,
            layer_flops=layer_flops(model, example) if progress.widths else dense.layer_flops,
            progress=progress,
            reporter=reporter,
            layers=layers,
            save=save,
            stop=job.stop,
        )
        while progress.stage < len(stages):
            within = saved if saved is not None and saved["optimizer"] is not None else None
            run_stage(session, stages[progress.stage], within)
            saved = None
    summary = build_summary(job.recipe, job.seed, session.model, progress, session.layer_flops, dense)
    if first_rank:
        save_weights(job.folder / WEIGHTS, session.model, data_facts(data) | widths_facts(progress.widths))
        if progress.masks:
            save_masks(job.folder / MASKS, MaskSet(progress.masks))
        write_text(job.folder / SUMMARY, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    fabric.barrier()
    return summary


def _opened_logger(job: _Job, progress: Progress) -> AbstractContextManager[Logger | None]:
    settings = {**job.recipe.resolved(), "seed": job.seed, "precision": job.precision, "device": job.device}
    facts = RunFacts(job.folder, job.folder.resolve().name, settings, epochs=progress.total_epochs)
    return opened_logger(job.logger, facts)


def _begin_or_resume(
    job: _Job, data: Data, saved: Mapping[str, Any] | None
) -> tuple[nn.Module, Progress, DenseNetwork]:
    """The model on the CPU and how far its run is: as the checkpoint ``saved`` has it, else at the start."""
    fresh = saved is None and job.start.weights is None
    model = create_recipe_model(job.recipe, data_facts(data), job.seed, load_weights=fresh)
    dense = describe_dense(model, example_images(data.in_channels, data.image_size, torch.device("cpu")))
    if saved is None:
        return model, begin(job.start, model, len(data.train)), dense
    progress = Progress.from_state(saved["progress"])
    take_widths(model, progress.widths, job.folder / CHECKPOINT)
    model.load_state_dict(saved["model"])
    return model, progress, dense


def _agree_on_folder(fabric: Fabric, job: _Job) -> Prepared:
    """Rank 0 looks at the folder before any other rank does; all go on with what it found."""
    prepared = Prepared()
    if fabric.global_rank == 0:
        start = record_start(job.start, job.stop, recorded_start(job.folder) if job.resume else None)
        settings = RunSettings(job.seed, job.precision, job.device, fabric.world_size, torch.get_num_threads(), start)
        try:
            prepared = prepare_folder(job.folder, job.recipe, settings, job.resume)
        except OSError as error:
            if isinstance(error, (FileNotFoundError, PermissionError, NotADirectoryError)):
                raise RunFolderError(f"run folder {job.folder} cannot be made: {error.strerror}") from error
            raise
    return fabric.broadcast(prepared) if fabric.world_size > 1 else prepared


def _save(
    fabric: Fabric,
    path: Path,
    model: nn.Module,
    progress: Progress,
    optimizer: Mapping[str, Any] | None,
    sparsifier: Mapping[str, Any] | None,
) -> None:
    mine = random_state(fabric.device)
    everyone: list[Any] = [mine]
    if fabric.world_size > 1:
        everyone = [None] * fabric.world_size
        torch.distributed.all_gather_object(everyone, mine)
    if fabric.global_rank == 0:
        content = {
            "model": dict(model.state_dict()),
            "optimizer": optimizer,
            "sparsifier": sparsifier,
            "progress": progress.state_dict(),
            "random": everyone,
        }
        save_checkpoint(path, content)
    fabric.barrier()


def _open(fabric: Fabric, recipe: Recipe, data_dir: Path, seed: int, download: bool, validation: int) -> Data:
    """Opens the data on every rank; only rank 0 may download, and the others wait for it."""

    def opened(allowed: bool) -> Data:
        return open_recipe_data(
            recipe,
            data_dir,
            seed=seed,
            device=fabric.device,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
            validation=validation,
            download=allowed,
        )

    if fabric.world_size == 1:
        return opened(download)
    data = opened(download) if fabric.global_rank == 0 else None
    fabric.barrier()
    return data if data is not None else opened(False)
