"""The engines that can run a network on a CPU, each behind a module that maps a tensor to a tensor."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsewright.export.onnx import save_onnx
from sparsewright.runtime import CompiledSparse, compile_sparse


class EngineError(RuntimeError):
    """An engine that cannot run a network; the message says why."""


@dataclass(frozen=True)
class Subject:
    """What an engine is to run.

    Attributes:
        model: in evaluation mode.
        example: an input.
        threads: of the engine.
    """

    model: nn.Module
    example: Tensor
    threads: int

    @cached_property
    def onnx(self) -> bytes:
        """The network as ONNX, made once for all engines that read it."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            save_onnx(file, self.model, self.example)
            return file.read_bytes()


@dataclass(frozen=True)
class Engine:
    """One engine.

    Attributes:
        label: for people.
        package: that it needs, or None.
        prepare: makes it ready.
    """

    label: str
    package: str | None
    prepare: Callable[[Subject], nn.Module]

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        return self.package is None or importlib.util.find_spec(self.package) is not None


class _Session(nn.Module):
    """Another library's function on numpy arrays as a module."""

    def __init__(self, run: Callable[[Any], Any]) -> None:
        super().__init__()
        self._run = run

    def forward(self, value: Tensor) -> Tensor:
        return torch.from_numpy(self._run(value.numpy()))


def _eager(subject: Subject) -> nn.Module:
    return subject.model


def _torch_compile(subject: Subject) -> nn.Module:
    torch.compiler.reset()
    compiled = torch.compile(subject.model, dynamic=False)
    with torch.inference_mode():
        compiled(subject.example)
    assert isinstance(compiled, nn.Module)
    return compiled


def _onnxruntime(subject: Subject) -> nn.Module:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = subject.threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(subject.onnx, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return _Session(lambda value: session.run(None, {name: value})[0])


def _openvino(precision: str) -> Callable[[Subject], nn.Module]:
    def prepare(subject: Subject) -> nn.Module:
        core = importlib.import_module("openvino").Core()
        network = core.read_model(subject.onnx)
        network.reshape(list(subject.example.shape))
        settings = {
            "INFERENCE_NUM_THREADS": subject.threads,
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = core.compile_model(network, "CPU", settings).create_infer_request()
        return _Session(lambda value: request.infer([value])[0].copy())

    return prepare


def _sparsewright(subject: Subject) -> CompiledSparse:
    return compile_sparse(subject.model, subject.example, threads=subject.threads)


ENGINES = {
    "eager": Engine("torch", None, _eager),
    "compile": Engine("torch.compile", None, _torch_compile),
    "onnxruntime": Engine("ONNX Runtime", "onnxruntime", _onnxruntime),
    "openvino": Engine("OpenVINO", "openvino", _openvino("f32")),
    "openvino-bf16": Engine("OpenVINO bf16", "openvino", _openvino("bf16")),
    "sparsewright": Engine("sparsewright", None, _sparsewright),
}
"""By the name that ``--engines`` takes, in the order of the table."""
