"""``sparsewright train``: a recipe into a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsewright.cli.options import (
    DataDir,
    Device,
    DeviceOption,
    Devices,
    Download,
    LoggerChoice,
    LoggerOption,
    Overrides,
    Precision,
    RecipeName,
    TrainingPrecision,
)
from sparsewright.cli.processes import is_first_process


def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Run folder.", show_default="runs/RECIPE-HASH"),
    ] = None,
    data_dir: DataDir = Path("data"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="RUN_OR_FILE", help="Start from the weights of a run, a safetensors or an HDF5 file."),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(metavar="RUN_OR_FILE", help="Hold the masks of a run or a masks.safetensors, or a file's zeros."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last save in the run folder.")] = False,
    device: DeviceOption = Device.auto,
    devices: Devices = 1,
    precision: TrainingPrecision = Precision.full,
    download: Download = True,
    logger: LoggerOption = LoggerChoice.tensorboard,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the summary.")] = False,
) -> None:
    """Train a recipe; the method and its sparsity are settings on top of it.

    The run folder gets recipe.yaml and run.json, metrics.jsonl, what --logger writes (tensorboard/), last.ckpt,
    model.safetensors and summary.json, masks.safetensors where the run ends with masks, layers.jsonl where it has masks
    or logs ranks, and at the end report.html, a page that shows all of it. A recipe with a shrink stage ends with a
    smaller network; its sizes are kept with the weights, so that every command reads it.

    \b
    Examples:
      sparsewright train digits/lenet300
      sparsewright train digits/lenet300 method=granet sparsity=0.95 --seed 1
      sparsewright train cifar10/resnet20 method=rigl sparsity=0.9 duration=10ep --data-dir ~/data
      sparsewright train cifar10/resnet50 method=gmp sparsity=0.95 --device cuda --precision bf16
      sparsewright train mnist/lenet300 method=set sparsity=0.98 method.drop_fraction=0.3 --out runs/set
      sparsewright train mnist/lenet300 method=set sparsity=0.98 method.drop_fraction=0.3 --out runs/set --resume
      sparsewright train mnist/lenet300 --weights runs/set --masks runs/set
      sparsewright train cifar10/resnet56/greg1-2.55x
      sparsewright train cifar10/resnet56/greg1-2.55x method=greg-2 'sparsity=[0,0.6,0.6,0.3,0]' --device cuda
    """
    from sparsewright.cli import tables
    from sparsewright.cli.report_output import report_beside
    from sparsewright.training import Start, load_recipe
    from sparsewright.training import train as run
    from sparsewright.training.folder import default_folder
    from sparsewright.training.kept_durations import warn_of_kept_durations
    from sparsewright.training.start import record_start

    settings = load_recipe(recipe, overrides or ())
    warn_of_kept_durations(settings, overrides or ())
    start = Start(weights=weights, masks=masks)
    folder = out or default_folder(settings, seed, record_start(start, None))
    summary = run(
        settings,
        out=folder,
        data_dir=data_dir,
        seed=seed,
        resume=resume,
        start=start,
        device=device.value,
        devices=devices,
        precision=precision.value,
        download=download,
        logger=logger.value,
        quiet=quiet,
    )
    if is_first_process():
        tables.print_pairs(tables.summary_pairs(summary))
        typer.echo(f"\nrun folder {folder}; look at it with: sparsewright inspect {folder}")
        if report := report_beside(folder):
            typer.echo(f"report {report}")
