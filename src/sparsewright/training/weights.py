"""Final weights in safetensors: one file, the same bytes for the same weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from sparsewright.checks import join_names
from sparsewright.files import write_atomically

WEIGHTS = "model.safetensors"
"""The name of this file in a run folder."""

# safetensors writes several metadata keys in no fixed order, which would change the checksum; so there is one.
METADATA_KEY = "sparsewright"


def save_weights(path: Path, model: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Writes parameters and buffers; a tensor under several names is stored under the first.

    Raises:
        SaveError: writing failed; a former file at ``path`` is intact.
    """
    tensors = {name: tensor.contiguous() for name, tensor in first_names(model).items()}
    text = json.dumps(dict(metadata), sort_keys=True)
    content = safetensors.torch.save(tensors, metadata={METADATA_KEY: text})
    write_atomically(path, lambda stream: stream.write(content))


def read_metadata(path: Path) -> dict[str, Any]:
    """What ``save_weights`` was given as metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or was not written by this library.
    """
    metadata = file_metadata(path)
    if metadata is None:
        raise ValueError(f"{path} was not written by sparsewright train")
    return metadata


def file_metadata(path: Path) -> dict[str, Any] | None:
    """This library's metadata in a safetensors file; None where another program wrote it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or not a safetensors file, or its metadata are not from this library.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as content:
            metadata = content.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file") from error
    if METADATA_KEY not in metadata:
        return None
    try:
        found = json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the metadata of {path} are damaged") from error
    if not isinstance(found, dict):
        raise ValueError(f"the metadata of {path} are not from this library")
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Name -> tensor on the CPU, of any safetensors file.

    Raises:
        ValueError: the file is damaged or not a safetensors file.
    """
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file") from error


def load_weights(path: Path, model: nn.Module) -> None:
    """Fills ``model`` with the weights of a file that ``save_weights`` wrote.

    Raises:
        ValueError: the file is damaged, or it is of another model.
    """
    fill_model(model, read_tensors(path), path)


def fill_model(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copies ``tensors`` into the parameters and buffers of ``model``; a shared tensor goes by its first name.

    Args:
        model: on any device.
        tensors: one for each parameter and buffer.
        source: the file that they come from, for errors.

    Raises:
        ValueError: a tensor is missing, unexpected or of another shape; the model is unchanged then.
    """
    expected = first_names(model)
    if missing := expected.keys() - tensors.keys():
        raise ValueError(f"{source} does not fit the recipe's model: it lacks {join_names(sorted(missing))}")
    if unexpected := tensors.keys() - expected.keys():
        names = join_names(sorted(unexpected))
        raise ValueError(f"{source} does not fit the recipe's model, which has no {names}")
    for name, tensor in tensors.items():
        check_shape(source, name, tensor, expected[name])
    with torch.no_grad():
        for name, tensor in tensors.items():
            expected[name].copy_(tensor)


def check_shape(source: Path, name: str, tensor: Tensor, expected: Tensor) -> None:
    """Raises ValueError where ``tensor`` of the file ``source`` does not have the shape of the model's ``expected``."""
    if tensor.shape != expected.shape:
        raise ValueError(
            f"{source} does not fit the recipe's model: {name} has shape {tuple(tensor.shape)} there and "
            f"{tuple(expected.shape)} in the model"
        )


def first_names(model: nn.Module) -> dict[str, Tensor]:
    """The state of ``model`` with each shared tensor under its first name only."""
    result: dict[str, Tensor] = {}
    seen: set[tuple[Any, ...]] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.device)
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        result[name] = tensor.detach()
    return result
