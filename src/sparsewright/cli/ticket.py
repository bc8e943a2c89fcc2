"""``sparsewright ticket``: the base, the search and the retrained ticket in one command."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sparsewright.cli.options import (
    AsJson,
    DataDir,
    Device,
    DeviceOption,
    Devices,
    Download,
    Overrides,
    Precision,
    RecipeName,
    SeedOfRuns,
    TrainingPrecision,
)
from sparsewright.cli.processes import is_first_process


class Find(str, Enum):
    gsm = "gsm"
    magnitude = "magnitude"
    iterative = "iterative"


class Rewind(str, Enum):
    weights = "weights"
    learning_rate = "learning-rate"


def ticket(
    recipe: RecipeName,
    overrides: Overrides = None,
    find: Annotated[
        Find | None,
        typer.Option(help="How the ticket is found.", show_default="gsm where the recipe has it, else magnitude"),
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(metavar="S", help="Fraction of zeros.", show_default="the recipe's"),
    ] = None,
    rewind: Annotated[Rewind, typer.Option(help="What the ticket is put back to.")] = Rewind.weights,
    rewind_step: Annotated[
        str,
        typer.Option(metavar="K", help="The base's step to go back to: a number, 500it or 1ep; 0 for its start."),
    ] = "0",
    rounds: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Rounds of --find iterative.", show_default="5"),
    ] = None,
    root: Annotated[Path, typer.Option(metavar="DIR", help="Where the run folders go.")] = Path("runs/tickets"),
    data_dir: DataDir = Path("data"),
    seed: SeedOfRuns = 0,
    device: DeviceOption = Device.auto,
    devices: Devices = 1,
    precision: TrainingPrecision = Precision.full,
    download: Download = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the table.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find a winning ticket: a sparse part of a trained network that learns as well alone, from where it started.

    Trains the recipe's dense stage, finds the part that is kept, puts it back to its initial weights and trains it with
    its mask held. Each stage is a run in a folder of its own. One that is finished is reused and one that is not goes
    on, so the same command continues after an interruption, and another --find does not train the base again.

    \b
    Examples:
      sparsewright ticket digits/lenet300 sparsity=0.95
      sparsewright ticket mnist/lenet300/gsm-ticket-60x --data-dir ~/data
      sparsewright ticket mnist/lenet300/gsm-ticket-60x --find magnitude --data-dir ~/data
      sparsewright ticket mnist/lenet300 duration=10ep --find iterative --rounds 8 --sparsity 0.98
      sparsewright ticket mnist/lenet5 --sparsity 0.99 --rewind learning-rate --rewind-step 1ep
    """
    from sparsewright.cli import tables
    from sparsewright.cli.ticket_output import print_ticket, refuse_method, take_sparsity
    from sparsewright.training import find_ticket, load_recipe
    from sparsewright.training.kept_durations import warn_of_kept_durations

    refuse_method(overrides or ())
    settings, asked = take_sparsity(overrides or (), sparsity)
    settled = load_recipe(recipe, settings)
    warn_of_kept_durations(settled, settings)
    result = find_ticket(
        settled,
        find=find.value if find is not None else None,
        sparsity=asked,
        rewind=rewind.value,
        rewind_step=rewind_step,
        rounds=rounds,
        root=root,
        data_dir=data_dir,
        seed=seed,
        device=device.value,
        devices=devices,
        precision=precision.value,
        download=download,
        quiet=quiet or as_json or not is_first_process(),
    )
    if as_json and is_first_process():
        tables.print_json(result.as_dict())
    elif is_first_process():
        print_ticket(result)
