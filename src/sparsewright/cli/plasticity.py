"""``sparsewright plasticity``: prune at moments of a training, train on, compare with an unpruned twin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsewright.cli.options import (
    AsJson,
    DataDir,
    Device,
    DeviceOption,
    Download,
    Overrides,
    Precision,
    RecipeName,
    TrainingPrecision,
)


def plasticity(
    recipe: RecipeName,
    overrides: Overrides = None,
    at: Annotated[
        str | None,
        typer.Option(
            metavar="MOMENTS",
            help="When to prune: ends of epochs, as shares of the run or as 8ep.",
            show_default="20%,45%,55%,90%, each epoch once",
        ),
    ] = None,
    rates: Annotated[str, typer.Option(metavar="RATES", help="Shares to prune, as 0.9 or 90%.")] = "0.5,0.9,0.98",
    rules: Annotated[
        str | None,
        typer.Option(metavar="RULES", help="How to prune, of the rules below.", show_default="all six"),
    ] = None,
    horizon: Annotated[str, typer.Option(metavar="D", help="How long to train on, such as 2ep or 500it.")] = "2ep",
    seed: Annotated[str, typer.Option(metavar="SEEDS", help="Seeds, one base for each.")] = "0",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the study.", show_default="runs/plasticity-RECIPE-HASH"),
    ] = None,
    data_dir: DataDir = Path("data"),
    device: DeviceOption = Device.auto,
    precision: TrainingPrecision = Precision.full,
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Trainings at a time.")] = 1,
    threads: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="CPU threads of each.", show_default="those of torch, or cores / jobs"),
    ] = None,
    download: Download = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the tables.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure pruning plasticity: how well a network that is pruned in the middle of its training recovers.

    Trains the recipe's dense network, the base. At each moment every rule prunes it at every rate, and it trains on for
    a while at the learning rate of that moment; so does a twin that is not pruned. What is reported is the accuracy
    lost or gained against the twin: in tables here, in plasticity.json, and as heat maps in plasticity.html. What is
    there is not trained again, so the same command continues after an interruption, and more moments, rates, rules,
    horizons or seeds can be added: the tables here are of what is asked for, the files of all that the folder has.

    \b
    Rules:
      prune_uniform     the smallest weights of each layer
      prune_global      the smallest weights of all layers
      prune_structured  the filters of each layer with the smallest L1 norm
      prune_and_grow_uniform, prune_and_grow_global, prune_and_grow_structured
                        the same, and each layer grows as many connections as it lost

    \b
    Examples:
      sparsewright plasticity digits/lenet300
      sparsewright plasticity mnist/lenet5 --at 20%,45%,55%,90% --rates 0.5,0.9,0.98 --data-dir ~/data
      sparsewright plasticity mnist/lenet5 --rules prune_global,prune_and_grow_global --seed 0,1 --jobs 2
      sparsewright plasticity cifar10/resnet20 duration=30ep --horizon 1ep --device cuda --out runs/plasticity
    """
    from sparsewright.analysis.plasticity import RULES
    from sparsewright.cli import tables
    from sparsewright.cli.lists import listed, listed_shares, listed_whole
    from sparsewright.cli.plasticity_output import dense_recipe, print_study
    from sparsewright.plasticity import study_plasticity, whole_study
    from sparsewright.plasticity.layout import PAGE
    from sparsewright.report.plasticity_page import write_plasticity_page

    result = study_plasticity(
        dense_recipe(recipe, overrides or ()),
        at=listed(at, "--at") if at is not None else None,
        rates=listed_shares(rates, "--rates"),
        rules=listed(rules, "--rules") if rules is not None else tuple(RULES),
        horizon=horizon,
        seeds=listed_whole(seed, "--seed"),
        out=out,
        data_dir=data_dir,
        device=device.value,
        precision=precision.value,
        threads=threads,
        jobs=jobs,
        download=download,
        quiet=quiet or as_json,
    )
    page = write_plasticity_page(whole_study(result), result.folder / PAGE)
    if as_json:
        tables.print_json(result.as_dict())
    else:
        print_study(result, page)
