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

from sparsewright.training.files import write_atomically

# The library writes several metadata keys in no fixed order, which would change the checksum; so there is one.
_METADATA_KEY = "sparsewright"


def save_weights(path: Path, model: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Writes parameters and buffers; a tensor under several names is stored under the first.

    Raises:
        SaveError: writing failed; a former file at ``path`` is intact.
    """
    tensors = {name: tensor.contiguous() for name, tensor in first_names(model).items()}
    text = json.dumps(dict(metadata), sort_keys=True)
    content = safetensors.torch.save(tensors, metadata={_METADATA_KEY: text})
    write_atomically(path, lambda stream: stream.write(content))


def read_metadata(path: Path) -> dict[str, Any]:
    """What ``save_weights`` was given as metadata.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or was not written by this library.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as content:
            metadata = content.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file") from error
    if _METADATA_KEY not in metadata:
        raise ValueError(f"{path} was not written by sparsewright train")
    return json.loads(metadata[_METADATA_KEY])


def load_weights(path: Path, model: nn.Module) -> None:
    """Fills ``model`` with the weights of a file that ``save_weights`` wrote.

    Raises:
        ValueError: the file is damaged, or it is of another model.
    """
    try:
        tensors = safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file") from error
    expected = first_names(model)
    wrong = sorted(tensors.keys() ^ expected.keys())
    wrong += [name for name in tensors.keys() & expected.keys() if tensors[name].shape != expected[name].shape]
    if wrong:
        raise ValueError(
            f"{path} does not fit the recipe's model: {wrong[0]} is missing, unexpected or of another shape"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            expected[name].copy_(tensor)


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
