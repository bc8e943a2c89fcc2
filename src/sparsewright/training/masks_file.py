"""Masks in safetensors: one bit a weight, the same bytes for the same masks."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch

from sparsewright.files import write_atomically
from sparsewright.masks import MaskSet
from sparsewright.training.weights import METADATA_KEY, WEIGHTS, file_metadata, read_tensors

MASKS = "masks.safetensors"
"""The name of this file in a run folder."""

_SHAPES = "masks"


def save_masks(path: Path, masks: MaskSet) -> None:
    """Writes each mask as uint8 bits under its name, eight weights a byte, and the shapes as metadata.

    Raises:
        SaveError: writing failed; a former file at ``path`` is intact.
    """
    state = masks.state_dict()
    shapes = [[name, entry["shape"]] for name, entry in state.items()]
    metadata = {METADATA_KEY: json.dumps({_SHAPES: shapes})}
    content = safetensors.torch.save({name: entry["bits"] for name, entry in state.items()}, metadata=metadata)
    write_atomically(path, lambda stream: stream.write(content))


def load_masks(path: Path) -> MaskSet:
    """The masks that ``save_masks`` wrote, on the CPU and in their order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or it holds no masks.
    """
    if not holds_masks(path):
        raise ValueError(f"{path} holds no masks; it was not written as {MASKS} by sparsewright train")
    shapes = (file_metadata(path) or {})[_SHAPES]
    bits = read_tensors(path)
    try:
        state = {name: {"shape": shape, "bits": bits[name]} for name, shape in shapes}
        return MaskSet.from_state_dict(state)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: its metadata and its masks do not fit each other ({error})") from error


def refuse_masks(path: Path) -> None:
    """Raises ValueError where the file at ``path`` holds masks, but weights are wanted; else as ``holds_masks``."""
    if holds_masks(path):
        raise ValueError(f"{path} holds masks, not weights; give the run folder or its {WEIGHTS}")


def holds_masks(path: Path) -> bool:
    """Whether ``save_masks`` wrote the safetensors file at ``path``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or not a safetensors file.
    """
    return _SHAPES in (file_metadata(path) or {})
