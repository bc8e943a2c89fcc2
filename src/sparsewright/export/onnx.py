"""Networks as ONNX files."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsewright.files import write_atomically
from sparsewright.modules import evaluation_mode

ONNX_SUFFIX = ".onnx"
INPUT_NAME, OUTPUT_NAME = "images", "logits"

# What a protobuf message, and so an ONNX file with its weights inside, can hold.
_MOST_BYTES = 2**31


class ONNXError(ValueError):
    """A network that cannot be written as ONNX."""


def save_onnx(path: Path | str, model: nn.Module, example_input: Tensor) -> None:
    """Write a network, weights included, to an ONNX file that takes any number of samples.

    Args:
        path: the file; written whole or not at all.
        model: one tensor in, one out; it is left as it is.
        example_input: what it takes, samples first.

    Raises:
        ImportError: onnx or onnxscript is not installed.
        ONNXError: the network cannot be traced, or its file would exceed 2 GiB.
        SaveError: writing failed; a former file at ``path`` is intact.
    """
    content = _serialised(model, example_input)
    write_atomically(Path(path), lambda stream: stream.write(content))


def _serialised(model: nn.Module, example_input: Tensor) -> bytes:
    # torch imports them only after it has traced the network, and its own error does not say what to install.
    import onnx
    import onnxscript  # noqa: F401

    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    if size >= _MOST_BYTES:
        raise ONNXError(f"the network has {size:,} bytes of weights, and an ONNX file holds {_MOST_BYTES:,} at most")
    program = _traced(model, example_input)
    onnx.checker.check_model(program.model_proto)
    return program.model_proto.SerializeToString()


def _traced(model: nn.Module, example_input: Tensor) -> torch.onnx.ONNXProgram:
    try:
        with evaluation_mode(model), warnings.catch_warnings():
            # They are about the exporter's own internals.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (_several(example_input),),
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim("samples")},),
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ONNXError(f"{type(model).__name__} cannot be written as ONNX: {reason}") from error
    assert program is not None
    return program


def _several(example_input: Tensor) -> Tensor:
    """At least two samples: torch takes a size of 1 for a fixed one."""
    return example_input if len(example_input) > 1 else example_input.repeat_interleave(2, dim=0)
