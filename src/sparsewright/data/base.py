"""What every data set gives to a training loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Loader(Protocol):
    """Batches of one split, as one rank sees them.

    Attributes:
        samples: images that one epoch visits, all ranks together.
    """

    samples: int

    def __len__(self) -> int:
        """Batches in an epoch; the same on every rank."""
        ...

    def epoch(self, n: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches `start`, `start + 1`, ... of epoch `n`, a function of (seed, n) alone.

        Yields:
            Images, float32 (batch, channels, height, width), normalised, and labels, int64 (batch), on the device.
        """
        ...


@dataclass(frozen=True)
class Data:
    """A data set opened for training.

    Attributes:
        name: as asked for.
        train: shuffled, augmented batches.
        test: batches to evaluate on, in the order of the files: the test set, or the validation split of the
            training set if one was asked for.
        split: "test" or "validation": what `test` holds.
        num_classes: labels are 0 ... num_classes - 1.
        in_channels: channels of an image.
        image_size: height and width of an image in pixels.
    """

    name: str
    train: Loader
    test: Loader
    split: str
    num_classes: int
    in_channels: int
    image_size: int


@dataclass(frozen=True)
class DatasetInfo:
    """What is known of a data set without opening it.

    Attributes:
        name: what `open_data` takes; capitals stand for what the caller fills in.
        summary: one line.
        classes: number of classes; None where it depends on the folder.
        shape: (channels, height, width); None where it depends on the options.
        train: images in the training set; None where it depends on the folder.
        test: images in the test set; None where it depends on the folder.
    """

    name: str
    summary: str
    classes: int | None
    shape: tuple[int, int, int] | None
    train: int | None
    test: int | None


@dataclass(frozen=True)
class ImageArrays:
    """A whole data set in memory.

    Attributes:
        train_images, test_images: uint8 (count, channels, height, width).
        train_labels, test_labels: int64 (count).
        mean, std: per channel, of pixels scaled to [0, 1].
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        for images in (self.train_images, self.test_images):
            assert images.dtype == torch.uint8
            assert images.dim() == 4
