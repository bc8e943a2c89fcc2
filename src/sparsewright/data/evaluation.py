"""Test images alone, for networks that were trained elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sparsewright.checks import check_count
from sparsewright.data.base import Loader
from sparsewright.data.class_names import outputs_of_folders, read_class_names
from sparsewright.data.imagefolder import DEFAULT_IMAGE_SIZE, FolderImages, FolderLoader, class_folder, image_transform
from sparsewright.data.registry import IMAGE_FOLDER, open_data


@dataclass(frozen=True)
class EvaluationImages:
    """The test images of a data set.

    Attributes:
        name: as asked for.
        loader: their batches.
        samples: images that are looked at, at most those of the loader.
        num_classes: labels are below it.
        in_channels: channels of an image.
        image_size: height and width of an image in pixels.
    """

    name: str
    loader: Loader
    samples: int
    num_classes: int
    in_channels: int
    image_size: int

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The first `samples` images and labels, in batches as a `Loader` yields them."""
        left = self.samples
        for images, labels in self.loader.epoch(0):
            yield images[:left], labels[:left]
            left -= len(labels)
            if left <= 0:
                return


def open_evaluation(
    name: str,
    *,
    data_dir: Path,
    batch_size: int,
    device: torch.device,
    classes: str | None = None,
    limit: int | None = None,
    download: bool = True,
    workers: int = 2,
    image_size: int | None = None,
) -> EvaluationImages:
    """Open the test images of a data set.

    Args:
        name: as `open_data`'s; PATH of `imagefolder:PATH` may also hold one folder per class itself. Its images are
            prepared as ImageNet's evaluation does: the shorter side resized to 8/7 of the size (bilinear, antialiased),
            the middle cut out, ImageNet's mean and standard deviation.
        data_dir, device, download: as `open_data`'s.
        batch_size: images in a batch.
        classes: of an image folder that holds only some of the network's classes: a file with the names of all in the
            order of the outputs, one a line, or "imagenet". None takes the folder's own, sorted by name.
        limit: how many images at most: the first ones, of an image folder spread evenly over the files. None for all.
        workers: processes that decode an image folder.
        image_size: of an image folder, 224 by default.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `open_data`'s, or the classes do not fit the folder.
    """
    for label, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
        check_count(value, label, least)
    for label, value in (("limit", limit), ("image_size", image_size)):
        if value is not None:
            check_count(value, label)
    if name.startswith(IMAGE_FOLDER) and name != IMAGE_FOLDER:
        root = data_dir / Path(name.removeprefix(IMAGE_FOLDER)).expanduser()
        return _open_folder(name, root, batch_size, device, classes, limit, workers, image_size)
    if classes is not None:
        raise ValueError(f"classes {classes}: only an image folder can hold a part of the classes, not {name}")
    data = open_data(
        name,
        data_dir=data_dir,
        batch_size=batch_size,
        seed=0,
        device=device,
        augment=None,
        download=download,
        image_size=image_size,
    )
    samples = min(limit or data.test.samples, data.test.samples)
    return EvaluationImages(name, data.test, samples, data.num_classes, data.in_channels, data.image_size)


def _open_folder(
    name: str,
    root: Path,
    batch_size: int,
    device: torch.device,
    classes: str | None,
    limit: int | None,
    workers: int,
    image_size: int | None,
) -> EvaluationImages:
    folder = class_folder(_with_classes(root))
    if len(folder.classes) == 1:
        raise ValueError(
            f"{folder.root} holds the folder of one class only, {folder.classes[0]}, so every answer would be right; "
            "give the folder of the class folders, or the one that holds val"
        )
    names = folder.classes if classes is None else read_class_names(classes)
    outputs = outputs_of_folders(folder.classes, names, str(classes))
    size = DEFAULT_IMAGE_SIZE if image_size is None else image_size
    files = [(path, outputs[label]) for path, label in folder.samples]
    samples = min(limit or len(files), len(files))
    loader = FolderLoader(
        FolderImages(files, image_transform(size, None)),
        # The files are sorted by class; the first ones would all be of the same.
        torch.arange(samples) * len(files) // samples,
        batch_size=batch_size,
        device=device,
        training=False,
        seed=0,
        rank=0,
        world_size=1,
        workers=workers,
    )
    return EvaluationImages(name, loader, samples, len(names), 3, size)


def _with_classes(root: Path) -> Path:
    """The folder of the test images' class folders."""
    if not root.is_dir():
        raise FileNotFoundError(
            f"image folder not found: looked for {root}; PATH of imagefolder:PATH is absolute or below the data folder "
            "(--data-dir)"
        )
    if (root / "val").is_dir():
        return root / "val"
    if (root / "train").is_dir():
        raise FileNotFoundError(f"{root} holds train, but no val to evaluate on; {root / 'train'} can be given itself")
    return root
