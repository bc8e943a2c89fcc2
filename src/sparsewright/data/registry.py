"""Names of data sets, and how to open them."""

from __future__ import annotations

from pathlib import Path

import torch

from sparsewright.checks import did_you_mean
from sparsewright.data.augment import AugmentOptions
from sparsewright.data.base import Data, DatasetInfo, ImageArrays
from sparsewright.data.batches import validation_split
from sparsewright.data.digits import read_digits
from sparsewright.data.imagefolder import open_image_folder
from sparsewright.data.resident import ResidentLoader
from sparsewright.data.torchvision_sets import SETS, read_torchvision_set

IMAGE_FOLDER = "imagefolder:"

_SUMMARIES = {
    "mnist": "handwritten digits",
    "fashion-mnist": "pictures of clothing",
    "cifar10": "photographs, ten classes",
    "cifar100": "photographs, a hundred classes",
}

_INFOS = (
    DatasetInfo("digits", "scikit-learn's handwritten digits, bundled", 10, (1, 8, 8), 1_437, 360),
    *(
        DatasetInfo(name, _SUMMARIES[name], item.classes, item.shape, item.train, item.test)
        for name, item in SETS.items()
    ),
    DatasetInfo("imagefolder:PATH", "PATH/train and PATH/val with one folder per class", None, None, None, None),
)


def list_datasets() -> list[DatasetInfo]:
    """Every data set that `open_data` opens."""
    return list(_INFOS)


def open_data(
    name: str,
    *,
    data_dir: Path,
    batch_size: int,
    seed: int,
    device: torch.device,
    augment: AugmentOptions | None,
    validation: int = 0,
    rank: int = 0,
    world_size: int = 1,
    download: bool = True,
    workers: int = 2,
    image_size: int | None = None,
) -> Data:
    """Open a data set for training and evaluation.

    Args:
        name: one of `list_datasets()`; PATH of `imagefolder:PATH` is absolute or below `data_dir`.
        data_dir: folder that holds torchvision's folders; unused by `digits`.
        batch_size: images in a global batch, over all ranks; at least `world_size`.
        seed: order and augmentation are a function of it and the epoch.
        device: where batches are wanted; the small sets are kept there as uint8.
        augment: of the training images; None does not augment.
        validation: images split off the training set and evaluated in place of the test set; the split is random but
            the same for every seed.
        rank, world_size: this process's contiguous share of every global batch.
        download: whether an absent set may be downloaded.
        workers: processes that decode an image folder; the result does not depend on them.
        image_size: of an image folder, 224 by default; the other sets have their own, which alone is accepted.

    Returns:
        Loaders and the facts a model needs. In training, a last batch smaller than `world_size` is dropped.

    Raises:
        ValueError: on an unknown name (the nearest one is named), a number out of range, or a damaged file.
        FileNotFoundError: if the data are absent and may not be, or cannot be, downloaded.
        ImportError: if a package is absent (the extra to install is named).

    Warns:
        ChecksumWarning: if a CIFAR file is whole, but not the published one.
    """
    _check_numbers(batch_size, validation, rank, world_size, workers, image_size)
    if name.startswith(IMAGE_FOLDER):
        path = name.removeprefix(IMAGE_FOLDER)
        if not path:
            raise ValueError(f"'{name}' lacks a path after the colon: imagefolder:PATH")
        return open_image_folder(
            name,
            data_dir / Path(path).expanduser(),
            batch_size=batch_size,
            seed=seed,
            device=device,
            augment=augment,
            validation=validation,
            rank=rank,
            world_size=world_size,
            workers=workers,
            image_size=image_size,
        )
    info = _find(name)
    _check_for_resident(info, augment, image_size)
    arrays = read_digits() if name == "digits" else read_torchvision_set(name, data_dir, download=download)
    return _resident_data(info, arrays, batch_size, seed, device, augment, validation, rank, world_size)


def _resident_data(
    info: DatasetInfo,
    arrays: ImageArrays,
    batch_size: int,
    seed: int,
    device: torch.device,
    augment: AugmentOptions | None,
    validation: int,
    rank: int,
    world_size: int,
) -> Data:
    train_images, train_labels = arrays.train_images, arrays.train_labels
    test_images, test_labels = arrays.test_images, arrays.test_labels
    if validation:
        kept, held_out = validation_split(len(train_images), validation)
        test_images, test_labels = train_images[held_out], train_labels[held_out]
        train_images, train_labels = train_images[kept], train_labels[kept]

    def loader(images: torch.Tensor, labels: torch.Tensor, training: bool) -> ResidentLoader:
        return ResidentLoader(
            images,
            labels,
            mean=arrays.mean,
            std=arrays.std,
            batch_size=batch_size,
            device=device,
            training=training,
            augment=augment,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )

    assert info.classes is not None
    return Data(
        name=info.name,
        train=loader(train_images, train_labels, True),
        test=loader(test_images, test_labels, False),
        split="validation" if validation else "test",
        num_classes=info.classes,
        in_channels=train_images.shape[1],
        image_size=train_images.shape[2],
    )


def _find(name: str) -> DatasetInfo:
    for info in _INFOS:
        if info.name == name:
            return info
    known = [info.name for info in _INFOS]
    advice = did_you_mean(name, known) or f": choose among {', '.join(known)}"
    raise ValueError(f"unknown data set {name!r}{advice}")


def _check_numbers(
    batch_size: int, validation: int, rank: int, world_size: int, workers: int, image_size: int | None
) -> None:
    for label, value, least in (
        ("batch_size", batch_size, 1),
        ("validation", validation, 0),
        ("world_size", world_size, 1),
        ("rank", rank, 0),
        ("workers", workers, 0),
        ("image_size", 1 if image_size is None else image_size, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{label} must be an integer of at least {least}, not {value!r}")
    if rank >= world_size:
        raise ValueError(f"rank {rank} is not below world_size {world_size}")


def _check_for_resident(info: DatasetInfo, augment: AugmentOptions | None, image_size: int | None) -> None:
    assert info.shape is not None
    size = info.shape[1]
    if image_size is not None and image_size != size:
        raise ValueError(f"{info.name} has images of {size}x{size} pixels; image_size {image_size} cannot be had")
    if augment is None:
        return
    if augment.random_resized_crop:
        raise ValueError(f"random_resized_crop is for image folders, not for {info.name}: use crop_padding")
    if augment.padding_mode == "reflect" and augment.crop_padding >= size:
        raise ValueError(
            f"{info.name}: crop_padding {augment.crop_padding} with reflection needs images larger than it"
        )
