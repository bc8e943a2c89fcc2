"""Shrunk networks in safetensors: weights, and the widths that say how small each layer is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from sparsewright.checks import join_names
from sparsewright.extras import explain_missing
from sparsewright.files import write_atomically
from sparsewright.modules import unwrapped
from sparsewright.structured.copies import with_plain_parts
from sparsewright.structured.widths import resize, widths

METADATA_KEY = "sparsewright"
"""Where the widths are, as JSON under "widths", in the metadata of the file."""

_RUN_WEIGHTS = "model.safetensors"


def save_shrunk(model: nn.Module, file: Path | str) -> None:
    """Writes the weights of a network and the widths of its layers; the same network gives the same bytes.

    Args:
        model: the network, on any device and wrapped or not.
        file: a former file there is replaced.

    Raises:
        ModuleNotFoundError: safetensors is not installed.
        SaveError: writing failed; a former file is intact.
        TypeError: ``model`` is no module.
    """
    network = with_plain_parts(unwrapped(model))
    safetensors = _safetensors()
    tensors = {name: tensor.detach().contiguous() for name, tensor in _state(network).items()}
    text = json.dumps({"widths": widths(network)}, sort_keys=True)
    content = safetensors.torch.save(tensors, metadata={METADATA_KEY: text})
    write_atomically(Path(file), lambda stream: stream.write(content))


def load_shrunk(model_factory: Callable[[], nn.Module], file: Path | str) -> nn.Module:
    """Builds the original network, makes its layers as small as they are in ``file``, and loads the weights.

    Args:
        model_factory: makes the network that was shrunk, at its original widths; its own weights do not matter.
        file: written by :func:`save_shrunk`; or the folder of a run that shrinks its network, or the
            ``model.safetensors`` in it.

    Returns:
        The network in the mode (training, unless the function switches it) and on the device that ``model_factory``
        makes it in, unwrapped; parts that it compiles are plain modules.

    Raises:
        FileNotFoundError: there is no such file, or none in the folder.
        ModuleNotFoundError: safetensors is not installed.
        TypeError: ``model_factory`` is no function, such as a module, or does not make a module.
        ValueError: the file is damaged, holds no widths, or is of another network; tensors of another type included.
    """
    if isinstance(model_factory, nn.Module) or not callable(model_factory):
        kind = type(model_factory).__name__
        raise TypeError(
            f"model_factory must be a function that makes the network, got {kind}; write for instance lambda: Net()"
        )
    path = _weights_file(Path(file))
    found, tensors = _read(path)
    model = model_factory()
    if not isinstance(model, nn.Module):
        raise TypeError(f"model_factory must make a torch.nn.Module, got {type(model).__name__}")
    model = with_plain_parts(unwrapped(model))
    try:
        resize(model, found)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} does not fit {type(model).__name__}: {error}") from error
    _fill(model, tensors, path)
    return model


def _weights_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    if not (path / _RUN_WEIGHTS).is_file():
        raise FileNotFoundError(f"{path} is a folder without {_RUN_WEIGHTS}; give a file, or the folder of a run")
    return path / _RUN_WEIGHTS


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    safetensors = _safetensors()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as content:
            metadata = (content.metadata() or {}).get(METADATA_KEY, "{}")
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        found = json.loads(metadata).get("widths")
    except (safetensors.SafetensorError, OSError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file") from error
    if found is None:
        raise ValueError(f"{path} holds no widths of layers: it is not of a shrunk network")
    return found, tensors


def _fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    expected = _state(model)
    fault = f"{path} does not fit {type(model).__name__}"
    if missing := expected.keys() - tensors.keys():
        raise ValueError(f"{fault}: it lacks {join_names(sorted(missing))}")
    if unexpected := tensors.keys() - expected.keys():
        raise ValueError(f"{fault}, which has no {join_names(sorted(unexpected))}")
    for name, tensor in tensors.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            there, here = (f"{tuple(value.shape)} of {value.dtype}" for value in (tensor, wanted))
            raise ValueError(f"{fault}: {name} is {there} in the file and {here} in the network")
    with torch.no_grad():
        for name, tensor in tensors.items():
            expected[name].copy_(tensor)


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; one that is there under several names only under the first."""
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor
    return state


def _safetensors() -> ModuleType:
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(explain_missing(error), name=error.name) from error
    return safetensors
