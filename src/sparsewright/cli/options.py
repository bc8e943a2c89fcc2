"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Device(str, Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(str, Enum):
    full = "32"
    bf16 = "bf16"


class LoggerChoice(str, Enum):
    tensorboard = "tensorboard"
    wandb = "wandb"
    none = "none"


RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A name from 'list recipes', or a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings of the recipe to change, such as optimizer.lr=0.05."),
]
Target = Annotated[Path, typer.Argument(metavar="RUN_OR_FILE", help="A run folder, or a file of weights in one.")]
DataDir = Annotated[Path, typer.Option(metavar="DIR", help="Where data sets are, or are downloaded to.")]
SeedOfRuns = Annotated[int, typer.Option(min=0, help="Seed of every run.")]
DeviceOption = Annotated[Device, typer.Option(help="auto takes CUDA where there is one.")]
Devices = Annotated[int, typer.Option(min=1, help="Processes that train together.")]
TrainingPrecision = Annotated[Precision, typer.Option(help="Arithmetic of the forward and backward pass.")]
LoggerOption = Annotated[
    LoggerChoice, typer.Option(help="Where scalars go besides metrics.jsonl; wandb is Weights & Biases.")
]
Download = Annotated[bool, typer.Option("--download/--no-download", help="Fetch a data set that is not there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
