"""``sparsewright export``: the network of a run in formats of other programs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sparsewright.cli.options import AsJson, Target


class ExportFormat(str, Enum):
    hdf5 = "hdf5"
    onnx = "onnx"


def export(
    target: Target,
    format_: Annotated[ExportFormat, typer.Option("--format", help="Format of the file.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write.", show_default="model.FORMAT beside the run's weights"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the final network of a run to a file that other programs read.

    hdf5: one dataset per parameter and buffer, under its name, as the code of the GSM paper reads and writes them.

    onnx: the network with its weights, for any number of images at a time. One that was shrunk is written with its
    smaller layers; zeros of one that was not are written as they are.

    \b
    Examples:
      sparsewright export runs/first --format hdf5
      sparsewright export runs/first/model.safetensors --format hdf5 --out lenet.hdf5 --force
      sparsewright export runs/first --format onnx
    """
    if format_ is ExportFormat.hdf5:
        from sparsewright.cli.hdf5_files import export_hdf5

        export_hdf5(target, out, force=force, as_json=as_json)
    else:
        from sparsewright.cli.onnx_files import export_onnx

        export_onnx(target, out, force=force, as_json=as_json)
