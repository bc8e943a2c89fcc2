"""``sparsewright sweep``: a grid of settings of one recipe, each a run of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsewright.cli.options import (
    DataDir,
    Device,
    DeviceOption,
    Download,
    LoggerChoice,
    LoggerOption,
    Precision,
    RecipeName,
    TrainingPrecision,
)


def sweep(
    recipe: RecipeName,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=A,B,C", help="Settings of the recipe; several values span the grid. Also seed=."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Runs at a time.", show_default="1; with --ray, what there is room for"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the run folders go.", show_default="runs/sweep-RECIPE"),
    ] = None,
    data_dir: DataDir = Path("data"),
    threads: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="CPU threads of each run.", show_default="cores / jobs; with --ray 1"),
    ] = None,
    device: DeviceOption = Device.auto,
    precision: TrainingPrecision = Precision.full,
    download: Download = True,
    logger: LoggerOption = LoggerChoice.tensorboard,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Run on the Ray cluster there: HOST:PORT, ray://HOST:PORT, auto or local."
        ),
    ] = None,
    seed: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Train every combination of settings, each in a process and a run folder of its own.

    A value is set off by a comma outside brackets and quotes. Every combination is checked before the first one
    starts. Among several methods, dense is run without the sparsities, once a seed. A run that fails does not stop the
    others. The same command again does only what is missing: finished runs are kept, others go on from their last
    epoch. Ctrl-C stops all runs and loses nothing. The output of each run is in its folder, in train.log.

    With --ray the runs are tasks of a Ray cluster, each with --threads CPUs and, with --device cuda, one GPU. All
    machines must see the run folders and the data under the same paths.

    \b
    Examples:
      sparsewright sweep digits/lenet300 method=granet,rigl sparsity=0.9,0.98 seed=0,1,2
      sparsewright sweep mnist/lenet300 method=dense,granet sparsity=0.9,0.95 seed=0,1,2 --jobs 2 --data-dir ~/data
      sparsewright sweep cifar10/resnet20 method=granet sparsity=0.9 optimizer.lr=0.05,0.1 --out runs/rates
      sparsewright sweep cifar10/resnet56/greg1-2.55x 'sparsity=[0,0.6,0.6,0.3,0],[0,0.7,0.7,0.4,0]' --device cuda
      sparsewright sweep cifar10/resnet20 method=granet,rigl sparsity=0.9,0.95 seed=0,1,2 --ray auto --threads 4
    """
    if seed is not None:
        raise ValueError(f"the seeds of a sweep are a setting without dashes: seed={seed}")
    from sparsewright.cli.sweep_output import show_sweep
    from sparsewright.sweep import LocalWorkers, RayWorkers, RunOptions, plan_sweep, usable_cores
    from sparsewright.training.launch import resolve_device
    from sparsewright.training.loggers import check_logger

    planned = plan_sweep(recipe, settings or (), out)
    options = RunOptions(
        data_dir=data_dir,
        device=_device_on_ray(device) if ray is not None else resolve_device(device.value),
        precision=precision.value,
        threads=threads or (1 if ray is not None else max(usable_cores() // (jobs or 1), 1)),
        download=download,
        logger=check_logger(logger.value),
    )

    def workers() -> LocalWorkers | RayWorkers:
        if ray is not None:
            return RayWorkers(planned, options, ray, jobs)
        return LocalWorkers(planned, options, jobs or 1)

    if not show_sweep(planned, options, workers):
        raise typer.Exit(1)


def _device_on_ray(device: Device) -> str:
    """GPUs have to be asked for: only then does Ray lend one to each run."""
    return Device.cpu.value if device == Device.auto else device.value
