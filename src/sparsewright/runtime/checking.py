"""What ``compile_sparse`` refuses, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsewright.checks import join_names

MOST_THREADS = 1024
"""More are a slip, and could not be started."""


def check_model(model: nn.Module) -> None:
    """Refuse a model in training mode, or with parameters or buffers that kernels cannot read; raises ValueError."""
    if any(module.training for module in model.modules()):
        raise ValueError(f"{type(model).__name__} is in training mode; call model.eval() first")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type != "cpu":
            raise ValueError(f"{name} is on {tensor.device}; compile_sparse makes programs for the CPU: move the model")
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}; float32 is supported: call model.float()")


def check_tensor(name: str, value: Tensor) -> None:
    """Refuse what is no tensor (TypeError), or none that kernels can read (ValueError)."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if value.device.type != "cpu" or value.dtype != torch.float32 or value.layout != torch.strided:
        raise ValueError(f"{name} is {value.dtype} on {value.device}; dense float32 on the CPU is supported")


def check_threads(threads: int | None) -> None:
    """Refuse what is no number of threads; raises ValueError."""
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MOST_THREADS):
        raise ValueError(f"threads must be a number from 1 to {MOST_THREADS}, got {threads!r}")


def read_choices(choices: Mapping[str, str] | Path | str) -> dict[str, str]:
    """Choices as they were given, or from their file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds something else.
    """
    if isinstance(choices, Mapping):
        return dict(choices)
    path = Path(choices)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(kernel, str) for kernel in found.values()):
        raise ValueError(f"{path} does not hold the choices of a compiled network")
    return found


def check_choices(given: Mapping[str, str], layers: Sequence[str]) -> None:
    """Refuse choices that are not for exactly these layers; raises ValueError."""
    if missing := [layer for layer in layers if layer not in given]:
        raise ValueError(f"the choices lack {join_names(missing)}")
    if unknown := [layer for layer in given if layer not in layers]:
        raise ValueError(f"the network has no layer {join_names(unknown)}, for which there are choices")
