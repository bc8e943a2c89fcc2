"""The checkpoint of a run: plain tensors and containers, written whole or not at all, never unpickled as code."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sparsewright.files import write_atomically

FORMAT = 1
_KEYS = frozenset({"format", "model", "optimizer", "sparsifier", "progress", "random"})


class CheckpointError(ValueError):
    """A checkpoint that cannot be read."""


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Writes ``content`` (model, optimizer, sparsifier, progress, random) to ``path``.

    Raises:
        SaveError: writing failed; a former checkpoint at ``path`` is intact.
        KeyboardInterrupt: writing was interrupted; the same holds.
    """
    complete = {"format": FORMAT, **content}
    write_atomically(path, lambda stream: torch.save(complete, stream))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads what ``save_checkpoint`` wrote, with all tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged, cut short, or not a checkpoint of this library.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError, OSError, AttributeError) as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged or cut short and cannot be read; delete it to start this run anew"
        ) from error
    if not isinstance(content, dict) or not content.keys() >= _KEYS:
        raise CheckpointError(f"{path} is not a checkpoint of a sparsewright run")
    if content["format"] != FORMAT:
        raise CheckpointError(f"checkpoint {path} has format {content['format']}; this version reads {FORMAT}")
    return content


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of the global random generators of this process: torch on CPU and ``device``, and Python's."""
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": [version, list(internal), gauss]}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Puts the generators back to where ``random_state`` found them."""
    torch.set_rng_state(state["torch"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def seed_everything(seed: int) -> None:
    """Seeds the generators that ``random_state`` saves."""
    torch.manual_seed(seed)
    random.seed(seed)


@contextmanager
def own_random_state() -> Iterator[None]:
    """Leaves the caller's CPU generators as they were."""
    before = random_state(torch.device("cpu"))
    try:
        yield
    finally:
        set_random_state(before, torch.device("cpu"))
