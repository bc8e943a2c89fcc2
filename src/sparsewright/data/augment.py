"""Augmentation of whole batches on their device: functions from tensors and drawn numbers to tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING_MODES = ("zero", "reflect")


@dataclass(frozen=True)
class AugmentOptions:
    """How training images are varied.

    Attributes:
        crop_padding: pixels added on each side before a random crop back to the image's size; 0 does not crop.
        padding_mode: "zero" pads with black, "reflect" mirrors the image without repeating its border.
        flip: mirror left and right with probability 1/2.
        random_resized_crop: of image folders only: a random part of 8 % to 100 % of the area, resized. Excludes
            `crop_padding`.

    Raises:
        ValueError: on a negative padding, an unknown mode, or both kinds of crop.
    """

    crop_padding: int = 0
    padding_mode: str = "zero"
    flip: bool = False
    random_resized_crop: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.crop_padding, bool) or not isinstance(self.crop_padding, int) or self.crop_padding < 0:
            raise ValueError(f"crop_padding must be a number of pixels, 0 or more, not {self.crop_padding!r}")
        if self.padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {', '.join(PADDING_MODES)}, not {self.padding_mode!r}")
        if self.random_resized_crop and self.crop_padding:
            raise ValueError("random_resized_crop and crop_padding exclude each other: set crop_padding to 0")


def pad(images: Tensor, padding: int, mode: str) -> Tensor:
    """Add `padding` pixels on each side of (batch, channels, height, width) images of any dtype."""
    if mode == "zero":
        return F.pad(images, (padding, padding, padding, padding))
    for dim in (2, 3):
        size = images.shape[dim]
        positions = torch.arange(-padding, size + padding, device=images.device).abs()
        mirrored = size - 1 - (size - 1 - positions).abs()
        images = images.index_select(dim, mirrored)
    return images


def shifted_crop(images: Tensor, offsets: Tensor, padding: int, mode: str = "zero") -> Tensor:
    """Pad every image and cut a window of the original size out of it.

    Args:
        images: (batch, channels, height, width), any dtype.
        offsets: int64 (batch, 2), top and left corner of each window in the padded image, in [0, 2 * padding].
        padding: pixels added on each side.
        mode: "zero" or "reflect".

    Returns:
        A tensor shaped like `images`.
    """
    batch, channels, height, width = images.shape
    padded = pad(images, padding, mode)
    rows = offsets[:, 0, None] + torch.arange(height, device=images.device)
    columns = offsets[:, 1, None] + torch.arange(width, device=images.device)
    positions = (rows[:, :, None] * padded.shape[3] + columns[:, None, :]).view(batch, 1, height * width)
    cut = padded.flatten(2).gather(2, positions.expand(batch, channels, height * width))
    return cut.view(batch, channels, height, width)


def flip_chosen(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror left and right those images of (batch, channels, height, width) for which bool `chosen` (batch) holds."""
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(pixel / 255 - mean) / std in float32, per channel, of uint8 (batch, channels, height, width) images.

    Done as one subtraction and one division, both exactly rounded, so that every device gives the same bits.

    Args:
        images: uint8.
        mean, std: float32 (channels, 1, 1), of pixels scaled to [0, 1], each times 255.
    """
    return images.to(torch.float32).sub_(mean).div_(std)


@dataclass(frozen=True)
class Draws:
    """Random numbers of one epoch, one row per position in its order: crop corners and flips, None where unused."""

    offsets: Tensor | None
    flips: Tensor | None

    def to(self, device: torch.device) -> Draws:
        """The same numbers on `device`."""
        return Draws(
            None if self.offsets is None else self.offsets.to(device),
            None if self.flips is None else self.flips.to(device),
        )

    def __getitem__(self, rows: slice) -> Draws:
        return Draws(
            None if self.offsets is None else self.offsets[rows], None if self.flips is None else self.flips[rows]
        )


def draw(samples: int, options: AugmentOptions | None, generator: torch.Generator) -> Draws:
    """Draw the augmentation of `samples` images from a CPU generator."""
    offsets = flips = None
    if options is not None and options.crop_padding:
        offsets = torch.randint(0, 2 * options.crop_padding + 1, (samples, 2), generator=generator)
    if options is not None and options.flip:
        flips = torch.rand(samples, generator=generator) < 0.5
    return Draws(offsets, flips)


def augment(images: Tensor, options: AugmentOptions | None, draws: Draws) -> Tensor:
    """Crop and flip (batch, channels, height, width) images as drawn."""
    if options is None:
        return images
    if draws.offsets is not None:
        images = shifted_crop(images, draws.offsets, options.crop_padding, options.padding_mode)
    if draws.flips is not None:
        images = flip_chosen(images, draws.flips)
    return images
