"""Batches out of a data set that lives as uint8 on the training device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sparsewright.data.augment import AugmentOptions, Draws, augment, draw, normalise
from sparsewright.data.batches import derived_generator, global_batches, rank_share


class ResidentLoader:
    """Indexes, augments and normalises whole batches on the device; a `Loader`.

    Every rank draws order and augmentation of the global batches on the CPU and takes its share, so any number of ranks
    together, on any device, see the batches of a single process.

    Args:
        images: uint8 (count, channels, height, width).
        labels: int64 (count).
        mean, std: per channel, of pixels scaled to [0, 1].
        batch_size: images in a global batch.
        device: where the images are kept and the batches are made.
        training: shuffle and augment; else batches come in the order of the images.
        augment: how; None does not augment.
        seed: of the order and the augmentation.
        rank, world_size: the share of each global batch that is yielded.

    Raises:
        ValueError: if a batch, or the whole, has fewer images than there are ranks.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        device: torch.device,
        training: bool,
        augment: AugmentOptions | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._batches = global_batches(len(images), batch_size, world_size, training=training)
        self.samples = self._batches[-1][1]
        self._images = images.contiguous().to(device)
        self._labels = labels.to(device)
        self._mean = (torch.tensor(mean, dtype=torch.float64) * 255).float().view(-1, 1, 1).to(device)
        self._std = (torch.tensor(std, dtype=torch.float64) * 255).float().view(-1, 1, 1).to(device)
        self._device = device
        self._training = training
        self._augment = augment if training else None
        self._seed = seed
        self._rank, self._world_size = rank, world_size

    def __len__(self) -> int:
        return len(self._batches)

    def epoch(self, n: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches `start`, `start + 1`, ... of epoch `n`: normalised float32 images, int64 labels, on the device."""
        order, draws = self._plan(n)
        for bounds in self._batches[start:]:
            part = slice(*rank_share(bounds, self._rank, self._world_size))
            if order is None:
                images, labels = self._images[part], self._labels[part]
            else:
                images = self._images.index_select(0, order[part])
                labels = self._labels.index_select(0, order[part])
            yield normalise(augment(images, self._augment, draws[part]), self._mean, self._std), labels

    def _plan(self, n: int) -> tuple[Tensor | None, Draws]:
        if not self._training:
            return None, Draws(None, None)
        generator = derived_generator("epoch", self._seed, n)
        order = torch.randperm(len(self._images), generator=generator)
        draws = draw(len(self._images), self._augment, generator)
        return order.to(self._device), draws.to(self._device)
