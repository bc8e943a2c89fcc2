"""The ``sparsewright`` command: parses, calls, prints. Exit codes are in :mod:`sparsewright.cli.errors`."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsewright.cli.errors import CommandGroup

app = typer.Typer(
    name="sparsewright",
    cls=CommandGroup,
    add_completion=False,
    # Plain help keeps the examples as they are written, at any width and in pipes.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class Device(str, Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(str, Enum):
    full = "32"
    bf16 = "bf16"


class Find(str, Enum):
    gsm = "gsm"
    magnitude = "magnitude"
    iterative = "iterative"


class Rewind(str, Enum):
    weights = "weights"
    learning_rate = "learning-rate"


class ExportFormat(str, Enum):
    hdf5 = "hdf5"


class Kind(str, Enum):
    methods = "methods"
    models = "models"
    datasets = "datasets"
    recipes = "recipes"


RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A name from 'list recipes', or a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings of the recipe to change, such as optimizer.lr=0.05."),
]
Target = Annotated[Path, typer.Argument(metavar="RUN_OR_FILE", help="A run folder, or a model.safetensors in one.")]
DataDir = Annotated[Path, typer.Option(metavar="DIR", help="Where data sets are, or are downloaded to.")]
DeviceOption = Annotated[Device, typer.Option(help="auto takes CUDA where there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Download = Annotated[bool, typer.Option("--download/--no-download", help="Fetch a data set that is not there.")]


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")] = False,
) -> None:
    """Make neural networks sparse while they train.

    \b
    Examples:
      sparsewright demo
      sparsewright list recipes
      sparsewright train digits/lenet300 method=granet sparsity=0.95 --out runs/first
      sparsewright inspect runs/first

    Exit codes: 0 done, 1 failure, 2 bad input, 130 interrupted.
    """
    if version:
        from sparsewright import __version__

        typer.echo(f"sparsewright {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
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
    devices: Annotated[int, typer.Option(min=1, help="Processes that train together.")] = 1,
    precision: Annotated[Precision, typer.Option(help="Arithmetic of the forward and backward pass.")] = Precision.full,
    download: Download = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the summary.")] = False,
) -> None:
    """Train a recipe; the method and its sparsity are settings on top of it.

    The run folder gets recipe.yaml, metrics.jsonl, last.ckpt, model.safetensors and summary.json, and masks.safetensors
    where the run ends with masks.

    \b
    Examples:
      sparsewright train digits/lenet300
      sparsewright train digits/lenet300 method=granet sparsity=0.95 --seed 1
      sparsewright train cifar10/resnet20 method=rigl sparsity=0.9 duration=10ep --data-dir ~/data
      sparsewright train cifar10/resnet50 method=gmp sparsity=0.95 --device cuda --precision bf16
      sparsewright train mnist/lenet300 method=set sparsity=0.98 method.drop_fraction=0.3 --out runs/set
      sparsewright train mnist/lenet300 method=set sparsity=0.98 method.drop_fraction=0.3 --out runs/set --resume
      sparsewright train mnist/lenet300 --weights runs/set --masks runs/set
    """
    from sparsewright.cli import tables
    from sparsewright.training import Start, load_recipe
    from sparsewright.training import train as run
    from sparsewright.training.folder import default_folder
    from sparsewright.training.start import record_start

    settings = load_recipe(recipe, overrides or ())
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
        quiet=quiet,
    )
    if _is_first_process():
        tables.print_pairs(tables.summary_pairs(summary))
        typer.echo(f"\nrun folder {folder}; look at it with: sparsewright inspect {folder}")


@app.command()
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
    seed: Annotated[int, typer.Option(min=0, help="Seed of every run.")] = 0,
    device: DeviceOption = Device.auto,
    devices: Annotated[int, typer.Option(min=1, help="Processes that train together.")] = 1,
    precision: Annotated[Precision, typer.Option(help="Arithmetic of the forward and backward pass.")] = Precision.full,
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
    from sparsewright.cli.ticket import print_ticket, take_sparsity
    from sparsewright.training import find_ticket, load_recipe

    settings, asked = take_sparsity(overrides or (), sparsity)
    result = find_ticket(
        load_recipe(recipe, settings),
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
        quiet=quiet or as_json or not _is_first_process(),
    )
    if as_json and _is_first_process():
        tables.print_json(result.as_dict())
    elif _is_first_process():
        print_ticket(result)


@app.command(name="eval")
def evaluate(
    target: Target,
    data_dir: DataDir = Path("data"),
    device: DeviceOption = Device.auto,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Arithmetic of the forward pass.", show_default="that of the training"),
    ] = None,
    download: Download = True,
    as_json: AsJson = False,
) -> None:
    """Accuracy and loss on the test data, and the sparsity counted in the file itself.

    \b
    Examples:
      sparsewright eval runs/first
      sparsewright eval runs/first/model.safetensors --json
      sparsewright eval runs/first --precision 32
    """
    from sparsewright.cli import tables
    from sparsewright.training import evaluate as run

    chosen = precision.value if precision is not None else None
    result = run(target, data_dir=data_dir, device=device.value, precision=chosen, download=download)
    if as_json:
        tables.print_json(result)
    else:
        tables.print_pairs(tables.evaluation_pairs(result))


@app.command()
def inspect(
    target: Annotated[
        Path,
        typer.Argument(metavar="RUN_OR_FILE", help="A run folder, a model.safetensors in one, or an HDF5 file."),
    ],
    as_json: AsJson = False,
) -> None:
    """Layer by layer: shape, non-zero weights, sparsity and share of the inference FLOPs; then the totals.

    Zeros are counted in the saved file; a weight that the mask keeps can be zero too. FLOPs are per sample, two for
    each multiply-accumulate; a layer's share is of the FLOPs that the zeros leave.

    Of an HDF5 file (.hdf5, .h5), whoever wrote it, every dataset is shown, buffers included. It does not say what
    network the weights are of, so there are no FLOPs.

    \b
    Examples:
      sparsewright inspect runs/first
      sparsewright inspect runs/first/model.safetensors --json
      sparsewright inspect runs/first/model.hdf5
    """
    from sparsewright.export import is_hdf5

    if is_hdf5(target) and not target.is_dir():
        from sparsewright.cli.export import show_hdf5

        show_hdf5(target, as_json=as_json)
        return

    import torch

    from sparsewright.analysis import layer_table, table_totals
    from sparsewright.cli import tables
    from sparsewright.training import load_run

    run = load_run(target)
    rows = layer_table(run.model, torch.zeros(1, *run.input_shape))
    if as_json:
        tables.print_json({"target": str(target), "layers": rows, "totals": table_totals(rows)})
    else:
        tables.print_layers(rows)


@app.command()
def export(
    target: Target,
    format_: Annotated[ExportFormat, typer.Option("--format", help="Format of the file.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write.", show_default="model.hdf5 beside the run's weights"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the final weights of a run to a file that other programs read.

    hdf5: one dataset per parameter and buffer, under its name, as the code of the GSM paper reads and writes them.

    \b
    Examples:
      sparsewright export runs/first --format hdf5
      sparsewright export runs/first/model.safetensors --format hdf5 --out lenet.hdf5 --force
    """
    from sparsewright.cli.export import export_hdf5

    if format_ is ExportFormat.hdf5:
        export_hdf5(target, out, force=force, as_json=as_json)


@app.command()
def log(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    last: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Lines of each run.", show_default="10 of one run, 1 of several"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The last lines of the metrics of one or more runs.

    \b
    Examples:
      sparsewright log runs/first
      sparsewright log runs/first --last 3
      sparsewright log runs/*
    """
    from sparsewright.cli import tables
    from sparsewright.training import read_metrics

    count = last or (10 if len(runs) == 1 else 1)
    metrics = {run: read_metrics(run)[-count:] for run in dict.fromkeys(runs)}
    lines: list[dict[str, Any]] = [
        {"run": str(run)} | line for run, last_lines in metrics.items() for line in last_lines
    ]
    for run in (run for run, last_lines in metrics.items() if not last_lines):
        typer.echo(f"{run}: no epoch has ended yet", err=True)
    if as_json:
        tables.print_json(lines)
        return
    if not lines:
        return
    columns = tables.columns_of(lines)
    if len(runs) == 1:
        columns.remove("run")
    numbers = [name for name in columns if not any(isinstance(line.get(name), str) for line in lines)]
    titles = {name: name.replace("_", " ") for name in columns}
    cells = [tables.metric_cells(line, columns) for line in lines]
    tables.print_table([titles[name] for name in columns], cells, right=[titles[name] for name in numbers])


@app.command(name="list")
def list_(
    kind: Annotated[Kind, typer.Argument(metavar="methods|models|datasets|recipes", help="What to list.")],
    as_json: AsJson = False,
) -> None:
    """What there is to choose from.

    \b
    Examples:
      sparsewright list methods
      sparsewright list recipes
      sparsewright list models --json
    """
    from sparsewright.cli import catalogue, tables

    records = catalogue.records(kind.value)
    if as_json:
        tables.print_json(records)
    else:
        tables.print_table(*catalogue.as_table(kind.value, records))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the run folders go.")] = Path("runs/demo"),
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", metavar="NAME", help="Only these (may be repeated).", show_default="all of them"),
    ] = None,
    sparsity: Annotated[
        list[float] | None,
        typer.Option("--sparsity", metavar="S", help="Only these (may be repeated).", show_default="0.9 and 0.98"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of every run.")] = 0,
) -> None:
    """Every method on 1797 small images of digits, in about a minute; nothing is downloaded.

    \b
    Examples:
      sparsewright demo
      sparsewright demo --method granet --method rigl --sparsity 0.95
      sparsewright demo --seed 1 --out runs/demo-1
    """
    from sparsewright.cli.demo import show_demo

    show_demo(out, methods=methods, sparsities=sparsity, seed=seed)


def _is_first_process() -> bool:
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"
