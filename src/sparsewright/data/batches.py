"""Which images make a batch: shuffling, splits and shares of ranks, as pure functions of seeds and numbers."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derived_generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded with a hash of the parts, such as ("epoch", seed, number).

    Hashed, because the CPU generator uses 32 bits of its seed: sums or shifts of seed and epoch would collide.
    """
    digest = hashlib.sha256(":".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))


def global_batches(samples: int, batch_size: int, world_size: int, *, training: bool) -> list[tuple[int, int]]:
    """Bounds [start, stop) of the global batches among `samples` positions, so that every rank has a share of each.

    A last batch smaller than `world_size` is dropped in training, and joined to the one before it in evaluation, where
    every image counts.

    Raises:
        ValueError: if the batch size, or the number of samples, is smaller than the number of ranks.
    """
    if batch_size < world_size:
        raise ValueError(f"batch_size {batch_size} is smaller than the number of devices, {world_size}")
    if samples < world_size:
        raise ValueError(f"{samples} images cannot be shared among {world_size} devices")
    bounds = [(start, min(start + batch_size, samples)) for start in range(0, samples, batch_size)]
    start, stop = bounds[-1]
    if stop - start < world_size:
        bounds.pop()
        if not training:
            bounds[-1] = (bounds[-1][0], stop)
    return bounds


def rank_share(bounds: tuple[int, int], rank: int, world_size: int) -> tuple[int, int]:
    """The contiguous part of a global batch that belongs to `rank`; parts differ by one image at most."""
    start, stop = bounds
    size = stop - start
    return start + rank * size // world_size, start + (rank + 1) * size // world_size


def validation_split(samples: int, validation: int) -> tuple[Tensor, Tensor]:
    """Positions of the remaining training images and of `validation` images held out, both ascending.

    Random but fixed: it depends on the two numbers alone, so runs with different seeds share it.

    Raises:
        ValueError: unless 0 < validation < samples.
    """
    if not 0 < validation < samples:
        raise ValueError(f"validation must be between 0 and {samples - 1} of the {samples} images, not {validation}")
    order = torch.randperm(samples, generator=derived_generator("validation split", samples))
    return order[validation:].sort().values, order[:validation].sort().values
