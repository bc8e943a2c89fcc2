"""``sparsewright export``: the network of a run as a small file, or in formats of other programs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sparsewright.cli.options import AsJson, Target


class ExportFormat(str, Enum):
    sparse = "sparse"
    safetensors = "safetensors"
    onnx = "onnx"
    hdf5 = "hdf5"


class HalfType(str, Enum):
    float16 = "float16"
    bfloat16 = "bfloat16"


def export(
    target: Target,
    format_: Annotated[ExportFormat, typer.Option("--format", help="Format of the file.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File to write.",
            show_default="model.FORMAT beside the run's weights, unless that is they",
        ),
    ] = None,
    values: Annotated[
        HalfType | None,
        typer.Option(
            help="Of sparse: round the weights to 16 bits; they are read back, and exported again, as 32.",
            show_default="exact",
        ),
    ] = None,
    signed_zeros: Annotated[
        bool, typer.Option("--signed-zeros", help="Of sparse: keep which zeros are -0.0, at up to a bit for each.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the final network of a run to a file for other programs, or to a small one.

    sparse: the weights without their zeros, in a safetensors file that sparsewright.load_sparse gives back as a plain
    state_dict; smaller than a dense file about as the weights are fewer.

    safetensors: the weights with their zeros.

    onnx: the network with its weights, for any number of images at a time. One that was shrunk is written with its
    smaller layers; zeros of one that was not are written as they are.

    hdf5: one dataset per parameter and buffer, under its name, as the code of the GSM paper reads and writes them.

    sparse and safetensors also take any .safetensors or .sparse file of weights, of a run or not.

    \b
    Examples:
      sparsewright export runs/first --format sparse
      sparsewright export runs/first --format sparse --values float16 --out small.sparse
      sparsewright export small.sparse --format safetensors --out dense.safetensors
      sparsewright export runs/first/model.safetensors --format hdf5 --out lenet.hdf5 --force
      sparsewright export runs/first --format onnx
    """
    if format_ is not ExportFormat.sparse and (values is not None or signed_zeros):
        raise ValueError("--values and --signed-zeros have an effect with --format sparse alone")
    if format_ is ExportFormat.hdf5:
        from sparsewright.cli.hdf5_files import export_hdf5

        export_hdf5(target, out, force=force, as_json=as_json)
    elif format_ is ExportFormat.onnx:
        from sparsewright.cli.onnx_files import export_onnx

        export_onnx(target, out, force=force, as_json=as_json)
    else:
        from sparsewright.cli.weight_files import export_dense, export_sparse

        if format_ is ExportFormat.safetensors:
            export_dense(target, out, force=force, as_json=as_json)
        else:
            half = None if values is None else values.value
            export_sparse(target, out, half, signed_zeros=signed_zeros, force=force, as_json=as_json)
