"""MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 in the folders that torchvision makes of them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from filelock import FileLock
from torch import Tensor

from sparsewright.data.base import ImageArrays
from sparsewright.data.cifar_batches import read_batch

MNIST_FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


class ChecksumWarning(UserWarning):
    """A file has the right contents in shape, but not the published checksum."""


@dataclass(frozen=True)
class TorchvisionSet:
    """Where torchvision keeps a data set, and what it should hold.

    Attributes:
        name: ours.
        dataset_class: torchvision's.
        folder: below the data folder.
        files: below `folder`, all of which must be there.
        classes: number of classes.
        shape: (channels, height, width).
        train, test: numbers of images.
        mean, std: per channel, of training pixels scaled to [0, 1].
    """

    name: str
    dataset_class: str
    folder: str
    files: tuple[str, ...]
    classes: int
    shape: tuple[int, int, int]
    train: int
    test: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


SETS = {
    item.name: item
    for item in (
        TorchvisionSet(
            "mnist", "MNIST", "MNIST/raw", MNIST_FILES, 10, (1, 28, 28), 60_000, 10_000, (0.1307,), (0.3081,)
        ),
        TorchvisionSet(
            "fashion-mnist",
            "FashionMNIST",
            "FashionMNIST/raw",
            MNIST_FILES,
            10,
            (1, 28, 28),
            60_000,
            10_000,
            (0.2860,),
            (0.3530,),
        ),
        TorchvisionSet(
            "cifar10",
            "CIFAR10",
            "cifar-10-batches-py",
            (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"),
            10,
            (3, 32, 32),
            50_000,
            10_000,
            (0.4914, 0.4822, 0.4465),
            (0.2470, 0.2435, 0.2616),
        ),
        TorchvisionSet(
            "cifar100",
            "CIFAR100",
            "cifar-100-python",
            ("train", "test"),
            100,
            (3, 32, 32),
            50_000,
            10_000,
            (0.5071, 0.4865, 0.4409),
            (0.2673, 0.2564, 0.2762),
        ),
    )
}


def read_torchvision_set(name: str, data_dir: Path, *, download: bool) -> ImageArrays:
    """Read a data set of `SETS`, downloading it with torchvision where it is absent and `download` allows it.

    Args:
        name: a key of `SETS`.
        data_dir: folder that holds, or is to hold, torchvision's folder.
        download: whether an absent set may be downloaded. Processes that ask at once wait for one another.

    Raises:
        FileNotFoundError: if files are missing and may not be, or cannot be, downloaded.
        ValueError: if a file is truncated or damaged.
        ImportError: if torchvision is absent.

    Warns:
        ChecksumWarning: if a CIFAR file is whole, but not the published one.
    """
    item = SETS[name]
    datasets = _torchvision_datasets(name)
    _provide(item, datasets, data_dir, download)
    read = _read_mnist if item.files == MNIST_FILES else _read_cifar
    train_images, train_labels = read(item, datasets, data_dir, True)
    test_images, test_labels = read(item, datasets, data_dir, False)
    _check_contents(item, data_dir, train_images, train_labels, item.train)
    _check_contents(item, data_dir, test_images, test_labels, item.test)
    return ImageArrays(train_images, train_labels, test_images, test_labels, item.mean, item.std)


def _torchvision_datasets(name: str) -> ModuleType:
    try:
        import torchvision.datasets
    except ImportError as error:
        raise ImportError(f"{name} needs torchvision: pip install 'sparsewright[train]' ({error})") from error
    return torchvision.datasets


def _missing(item: TorchvisionSet, data_dir: Path) -> list[str]:
    return [file for file in item.files if not (data_dir / item.folder / file).is_file()]


def _provide(item: TorchvisionSet, datasets: ModuleType, data_dir: Path, download: bool) -> None:
    if not _missing(item, data_dir):
        return
    if not download:
        raise FileNotFoundError(f"{_what_is_missing(item, data_dir)}, or allow the download")
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(data_dir / f".{item.name}.lock"):
            if _missing(item, data_dir):
                getattr(datasets, item.dataset_class)(str(data_dir), download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise FileNotFoundError(f"{_what_is_missing(item, data_dir)}; downloading it failed: {reason}") from error
    if _missing(item, data_dir):
        raise FileNotFoundError(f"{_what_is_missing(item, data_dir)}; the download did not bring it")


def _what_is_missing(item: TorchvisionSet, data_dir: Path) -> str:
    missing = _missing(item, data_dir)
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    top = item.folder.partition("/")[0]
    return (
        f"{item.name} is not in {data_dir}: looked for {data_dir / item.folder / missing[0]}{more}; "
        f"pass the folder that holds {top} (--data-dir)"
    )


def _read_mnist(item: TorchvisionSet, datasets: ModuleType, data_dir: Path, training: bool) -> tuple[Tensor, Tensor]:
    try:
        dataset = getattr(datasets, item.dataset_class)(str(data_dir), train=training, download=False)
    except (AssertionError, EOFError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(_damaged(item, data_dir, f"{type(error).__name__}: {error}")) from error
    return dataset.data.unsqueeze(1), dataset.targets


def _read_cifar(item: TorchvisionSet, datasets: ModuleType, data_dir: Path, training: bool) -> tuple[Tensor, Tensor]:
    dataset_class = getattr(datasets, item.dataset_class)
    checksums: dict[str, str] = dict([*dataset_class.train_list, *dataset_class.test_list])
    files = item.files[:-1] if training else item.files[-1:]
    key = "fine_labels" if item.name == "cifar100" else "labels"
    batches = []
    for file in files:
        path = data_dir / item.folder / file
        try:
            images, labels, checksum = read_batch(path, key)
        except ValueError as error:
            raise ValueError(_damaged(item, data_dir, str(error))) from error
        if checksum != checksums[file]:
            warnings.warn(f"{path} is not the published file: its md5 is {checksum}", ChecksumWarning, stacklevel=4)
        batches.append((images, labels))
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def _check_contents(item: TorchvisionSet, data_dir: Path, images: Tensor, labels: Tensor, count: int) -> None:
    expected = (count, *item.shape)
    if tuple(images.shape) != expected or len(labels) != count:
        found = f"{tuple(images.shape)} pixels and {len(labels)} labels instead of {expected}"
        raise ValueError(_damaged(item, data_dir, found))
    if labels.min() < 0 or labels.max() >= item.classes:
        found = f"labels from {int(labels.min())} to {int(labels.max())} in {item.classes} classes"
        raise ValueError(_damaged(item, data_dir, found))


def _damaged(item: TorchvisionSet, data_dir: Path, reason: str) -> str:
    folder = data_dir / item.folder
    return f"{item.name} in {folder} is truncated or damaged ({reason}); remove the folder and get the data again"
