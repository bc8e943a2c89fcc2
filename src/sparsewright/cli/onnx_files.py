"""Export the network of a run to ONNX."""

from __future__ import annotations

from pathlib import Path

import torch

from sparsewright.cli.destinations import check_destination
from sparsewright.cli.tables import print_json, print_pairs
from sparsewright.export.onnx import INPUT_NAME, ONNX_SUFFIX, OUTPUT_NAME, save_onnx
from sparsewright.training import load_run
from sparsewright.training.weights import WEIGHTS


def export_onnx(target: Path, out: Path | None, *, force: bool, as_json: bool) -> None:
    """Write the final network of a run to an ONNX file, and print its size, inputs and outputs.

    Raises:
        FileNotFoundError: there is no such run, it is not finished, or the folder to write into is missing.
        FileExistsError: the file exists and ``force`` is false.
        IsADirectoryError: ``out`` is a folder.
        ImportError: onnx is not installed.
        ValueError: the run's files are damaged, ``out`` does not end in .onnx, or the network cannot be written so.
        SaveError: writing failed.
    """
    weights = target / WEIGHTS if target.is_dir() else target
    run = load_run(target)
    path = check_destination(out or weights.with_suffix(ONNX_SUFFIX), (ONNX_SUFFIX,), force=force)
    save_onnx(path, run.model, torch.zeros(1, *run.input_shape))
    written = path.stat().st_size
    if as_json:
        print_json({"target": target, "file": path, "format": "onnx", "bytes": written})
        return
    size = " x ".join(str(length) for length in run.input_shape)
    print_pairs(
        {
            "recipe": run.recipe.name,
            "file": str(path),
            "bytes": f"{written:,}",
            "input": f"{INPUT_NAME}: float32, samples x {size}",
            "output": f"{OUTPUT_NAME}: float32, samples x {run.facts['num_classes']}",
        }
    )
