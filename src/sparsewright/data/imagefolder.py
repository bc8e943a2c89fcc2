"""Folders of images, one folder per class, decoded and cropped by worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from sparsewright.data.augment import AugmentOptions, normalise
from sparsewright.data.base import Data
from sparsewright.data.batches import derived_generator, global_batches, rank_share, validation_split

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DEFAULT_IMAGE_SIZE = 224


class Draw(NamedTuple):
    """Which image, and the seed of its augmentation."""

    position: int
    seed: int


class UnreadableImage(NamedTuple):
    """Travels from a worker in place of a batch, so that the error raised is one sentence and not a traceback."""

    reason: str


class FolderImages(Dataset[Any]):
    """uint8 images and labels by `Draw`; the random state is the image's own, so workers change nothing."""

    def __init__(self, files: list[tuple[str, int]], transform: Any) -> None:
        self.files = files
        self.transform = transform

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int] | UnreadableImage:
        from PIL import Image

        path, label = self.files[draw.position]
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            return UnreadableImage(f"{path} cannot be read as an image: {error}")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(draw.seed)
            return self.transform(image), label


def collate(items: list[tuple[Tensor, int] | UnreadableImage]) -> tuple[Tensor, Tensor] | UnreadableImage:
    """Stack a batch, or hand on the first image that could not be read."""
    images, labels = [], []
    for item in items:
        if isinstance(item, UnreadableImage):
            return item
        images.append(item[0])
        labels.append(item[1])
    return torch.stack(images), torch.tensor(labels)


class RankBatches(Sampler[list[Draw]]):
    """One rank's shares of the global batches of the epoch that `plan` last set."""

    def __init__(self, positions: Tensor, bounds: list[tuple[int, int]], training: bool, seed: int) -> None:
        self._positions, self._bounds, self._training, self._seed = positions, bounds, training, seed
        self._epoch = self._start = 0

    def plan(self, epoch: int, start: int) -> None:
        """Make the next iteration give the batches of `epoch` from number `start` on."""
        self._epoch, self._start = epoch, start

    def __iter__(self) -> Iterator[list[Draw]]:
        count = len(self._positions)
        order, seeds = self._positions, torch.zeros(count, dtype=torch.int64)
        if self._training:
            generator = derived_generator("epoch", self._seed, self._epoch)
            order = order[torch.randperm(count, generator=generator)]
            seeds = torch.randint(0, 2**31, (count,), generator=generator)
        for start, stop in self._bounds[self._start :]:
            pairs = zip(order[start:stop].tolist(), seeds[start:stop].tolist(), strict=True)
            yield [Draw(position, seed) for position, seed in pairs]


class FolderLoader:
    """Batches of an image folder; a `Loader`. Order and augmentation do not depend on the number of workers."""

    def __init__(
        self,
        images: FolderImages,
        positions: Tensor,
        *,
        batch_size: int,
        device: torch.device,
        training: bool,
        seed: int,
        rank: int,
        world_size: int,
        workers: int,
    ) -> None:
        bounds = global_batches(len(positions), batch_size, world_size, training=training)
        self.samples = bounds[-1][1]
        self._batches = len(bounds)
        shares = [rank_share(bound, rank, world_size) for bound in bounds]
        self._plan = RankBatches(positions, shares, training, seed)
        self._device = device
        self._mean = (torch.tensor(MEAN) * 255).view(-1, 1, 1).to(device)
        self._std = (torch.tensor(STD) * 255).view(-1, 1, 1).to(device)
        self._loader = DataLoader(
            images,
            batch_sampler=self._plan,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else every epoch draws from the global random state
        )

    def __len__(self) -> int:
        return self._batches

    def epoch(self, n: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches `start`, `start + 1`, ... of epoch `n`: normalised float32 images, int64 labels, on the device.

        Raises:
            ValueError: naming the file, if an image cannot be read.
        """
        self._plan.plan(n, start)
        for batch in self._loader:
            if isinstance(batch, UnreadableImage):
                raise ValueError(batch.reason)
            images, labels = (tensor.to(self._device, non_blocking=True) for tensor in batch)
            yield normalise(images, self._mean, self._std), labels


def image_transform(size: int, augment: AugmentOptions | None) -> Any:
    """PIL image to uint8 (3, size, size); resizing takes 8/7 of the size first, as evaluation on ImageNet does."""
    from torchvision.transforms import v2

    steps: list[Any] = []
    if augment is not None and augment.random_resized_crop:
        steps.append(v2.RandomResizedCrop(size, antialias=True))
    else:
        steps += [v2.Resize(round(size * 8 / 7), antialias=True), v2.CenterCrop(size)]
    if augment is not None and augment.crop_padding:
        mode = "constant" if augment.padding_mode == "zero" else "reflect"
        steps.append(v2.RandomCrop(size, padding=augment.crop_padding, padding_mode=mode))
    if augment is not None and augment.flip:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose([*steps, v2.PILToTensor()])


def class_folder(folder: Path) -> Any:
    """torchvision's `ImageFolder`, one folder of images per class.

    Raises:
        FileNotFoundError: the folder is missing, or holds no class.
    """
    from torchvision.datasets import ImageFolder

    if not folder.is_dir():
        raise FileNotFoundError(
            f"image folder not found: looked for {folder}; imagefolder:PATH needs PATH/train and PATH/val with one "
            "folder per class in each, PATH absolute or below the data folder (--data-dir)"
        )
    try:
        return ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder} does not hold one folder of images per class: {error}") from error


def open_image_folder(
    name: str,
    root: Path,
    *,
    batch_size: int,
    seed: int,
    device: torch.device,
    augment: AugmentOptions | None,
    validation: int,
    rank: int,
    world_size: int,
    workers: int,
    image_size: int | None,
) -> Data:
    """Open ROOT/train and ROOT/val, or ROOT/train alone split in two; arguments as `open_data`'s.

    Raises:
        FileNotFoundError: if a folder is missing or holds no class.
        ValueError: if the two folders hold other classes, or a number is out of range.
    """
    try:
        import torchvision.transforms.v2  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{name} needs torchvision: pip install 'sparsewright[train]' ({error})") from error
    size = DEFAULT_IMAGE_SIZE if image_size is None else image_size
    train = class_folder(root / "train")
    if validation:
        evaluated = train
        train_positions, test_positions = validation_split(len(train), validation)
    else:
        evaluated = class_folder(root / "val")
        if train.classes != evaluated.classes:
            different = ", ".join(sorted(set(train.classes) ^ set(evaluated.classes)))
            raise ValueError(f"{root}: train and val hold different classes: {different} in one only")
        train_positions, test_positions = torch.arange(len(train)), torch.arange(len(evaluated))

    def loader(folder: Any, positions: Tensor, training: bool) -> FolderLoader:
        return FolderLoader(
            FolderImages(folder.samples, image_transform(size, augment if training else None)),
            positions,
            batch_size=batch_size,
            device=device,
            training=training,
            seed=seed,
            rank=rank,
            world_size=world_size,
            workers=workers,
        )

    return Data(
        name=name,
        train=loader(train, train_positions, True),
        test=loader(evaluated, test_positions, False),
        split="validation" if validation else "test",
        num_classes=len(train.classes),
        in_channels=3,
        image_size=size,
    )
