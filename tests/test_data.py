"""Data sets: what they hold, in which order it comes, and what is said when they are absent or damaged."""

from __future__ import annotations

import pickle
import shutil
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sparsewright.data import AugmentOptions, ChecksumWarning, Data, Loader, list_datasets, open_data
from sparsewright.data.augment import flip_chosen, normalise, pad, shifted_crop
from sparsewright.data.batches import derived_generator, global_batches, rank_share, validation_split
from sparsewright.data.digits import read_digits, stratified_split
from sparsewright.data.resident import ResidentLoader

CPU = torch.device("cpu")
CROP_AND_FLIP = AugmentOptions(crop_padding=2, padding_mode="reflect", flip=True)


def opened(name: str = "digits", data_dir: Path = Path("absent"), **changes: Any) -> Data:
    options = {"batch_size": 64, "seed": 0, "device": CPU, "augment": None, "download": False}
    return open_data(name, data_dir=data_dir, **{**options, **changes})


def batches(loader: Loader, epoch: int = 0, start: int = 0) -> list[tuple[Tensor, Tensor]]:
    return list(loader.epoch(epoch, start))


def joined(loader: Loader, epoch: int = 0) -> tuple[Tensor, Tensor]:
    images, labels = zip(*batches(loader, epoch), strict=True)
    return torch.cat(images), torch.cat(labels)


def equal(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(
        a.shape == b.shape and torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True)
    )


def numbered(count: int, **changes: Any) -> ResidentLoader:
    """A loader whose labels are the positions of the images."""
    images = torch.zeros(count, 1, 2, 2, dtype=torch.uint8)
    options = {"mean": (0.0,), "std": (1.0,), "batch_size": 4, "device": CPU, "training": True}
    return ResidentLoader(images, torch.arange(count), **{**options, **changes})


def labels_of(loader: Loader, epoch: int = 0) -> list[list[int]]:
    return [labels.tolist() for _, labels in loader.epoch(epoch)]


def flat(parts: Iterable[list[int]]) -> list[int]:
    return [value for part in parts for value in part]


# Augmentation


@pytest.mark.parametrize(("mode", "numpy_mode"), [("zero", "constant"), ("reflect", "reflect")])
@pytest.mark.parametrize("shape", [(6, 3, 5, 7), (2, 1, 8, 8)])
def test_crop_is_padding_and_cutting_each_image(mode: str, numpy_mode: Any, shape: tuple[int, ...]) -> None:
    images = torch.randint(1, 256, shape, dtype=torch.uint8)
    offsets = torch.randint(0, 7, (shape[0], 2))
    cut = shifted_crop(images, offsets, 3, mode)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (3, 3), (3, 3)), mode=numpy_mode)
    assert np.array_equal(pad(images, 3, mode).numpy(), padded)
    for number, (top, left) in enumerate(offsets.tolist()):
        expected = padded[number, :, top : top + shape[2], left : left + shape[3]]
        assert np.array_equal(cut[number].numpy(), expected)


def test_flip_mirrors_the_chosen_images_only() -> None:
    images = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8)
    chosen = torch.tensor([True, False, True, False])
    flipped = flip_chosen(images, chosen)
    assert torch.equal(flipped[1::2], images[1::2])
    assert torch.equal(flipped[::2], images[::2].flip(-1))


def test_normalise_is_torchvisions() -> None:
    from torchvision.transforms.v2 import functional

    images = torch.randint(0, 256, (4, 3, 5, 6), dtype=torch.uint8)
    mean, std = [0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]
    scaled = [(torch.tensor(value) * 255).view(-1, 1, 1) for value in (mean, std)]
    expected = functional.normalize(images.float() / 255, mean, std)
    torch.testing.assert_close(normalise(images, *scaled), expected)


def test_every_crop_and_both_orientations_occur() -> None:
    images = torch.arange(1, 5, dtype=torch.uint8).view(1, 1, 2, 2).expand(2000, 1, 2, 2)
    options = AugmentOptions(crop_padding=1, flip=True)
    loader = ResidentLoader(
        images, torch.zeros(2000).long(), mean=(0.0,), std=(1 / 255,), batch_size=500, device=CPU, training=True,
        augment=options,
    )  # fmt: skip
    seen, _ = joined(loader)
    kinds, counts = seen.flatten(1).unique(dim=0, return_counts=True)
    padded = torch.nn.functional.pad(images[:1].float(), (1, 1, 1, 1))
    windows = padded.unfold(2, 2, 1).unfold(3, 2, 1).reshape(9, 2, 2)
    expected = torch.cat([windows, windows.flip(-1)]).flatten(1)
    assert {tuple(row) for row in kinds.tolist()} == {tuple(row) for row in expected.tolist()}
    assert counts.min() > 2000 / 18 / 2


@pytest.mark.parametrize(
    "options",
    [
        {"crop_padding": -1},
        {"crop_padding": 1.5},
        {"padding_mode": "constant"},
        {"crop_padding": 4, "random_resized_crop": True},
    ],
)
def test_augment_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"crop_padding|padding_mode"):
        AugmentOptions(**options)


# Batches and ranks


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("samples", "batch_size", "world_size"), [(10, 4, 1), (9, 4, 2), (13, 4, 3), (3, 8, 3)])
def test_ranks_share_each_global_batch(samples: int, batch_size: int, world_size: int, training: bool) -> None:
    options = {"batch_size": batch_size, "training": training}
    single = labels_of(numbered(samples, **options))
    ranks = [numbered(samples, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    assert {len(loader) for loader in ranks} == {len(labels_of(ranks[0]))}
    shares = [labels_of(loader) for loader in ranks]
    together = [flat(parts) for parts in zip(*shares, strict=True)]
    assert all(share for rank in shares for share in rank)
    assert ranks[0].samples == sum(map(len, together))
    if training:
        assert together == single[: len(together)]
        assert samples - ranks[0].samples < world_size
    else:
        assert flat(together) == list(range(samples))


def test_global_batches() -> None:
    assert global_batches(10, 4, 1, training=True) == [(0, 4), (4, 8), (8, 10)]
    assert global_batches(9, 4, 2, training=True) == [(0, 4), (4, 8)]
    assert global_batches(9, 4, 2, training=False) == [(0, 4), (4, 9)]
    assert [rank_share((4, 9), rank, 3) for rank in range(3)] == [(4, 5), (5, 7), (7, 9)]
    with pytest.raises(ValueError, match="batch_size 2 is smaller than the number of devices, 3"):
        global_batches(10, 2, 3, training=True)
    with pytest.raises(ValueError, match="2 images cannot be shared among 3"):
        global_batches(2, 4, 3, training=False)


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own() -> None:
    loader = numbered(50)
    orders = [flat(labels_of(loader, epoch)) for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] == flat(labels_of(numbered(50)))
    assert orders[0] != flat(labels_of(numbered(50, seed=1)))
    assert flat(labels_of(numbered(50, training=False))) == list(range(50))


def test_generators_differ_in_seed_and_epoch() -> None:
    draws = {
        torch.randint(2**62, (1,), generator=derived_generator("epoch", seed, epoch)).item()
        for seed in (0, 1, 2**32, 2**40)
        for epoch in range(20)
    }
    assert len(draws) == 80


def test_epochs_depend_on_seed_and_number_alone() -> None:
    loader = opened(augment=CROP_AND_FLIP).train
    first = batches(loader, 3)
    torch.rand(7)
    assert equal(first, batches(opened(augment=CROP_AND_FLIP).train, 3))
    assert not equal(first, batches(loader, 4))
    assert not equal(first, batches(opened(augment=CROP_AND_FLIP, seed=1).train, 3))
    assert equal(first[5:], batches(loader, 3, start=5))


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    batches(opened(augment=CROP_AND_FLIP, validation=100).train)
    assert torch.equal(torch.get_rng_state(), before)


def test_ranks_together_see_the_augmented_single_process_batches() -> None:
    single = batches(opened(augment=CROP_AND_FLIP).train)
    ranks = [batches(opened(augment=CROP_AND_FLIP, rank=rank, world_size=2).train) for rank in range(2)]
    together = [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(ranks[0], ranks[1], strict=True)]
    assert equal(single, together)


@pytest.mark.gpu
def test_the_device_changes_nothing() -> None:
    cuda = opened(augment=CROP_AND_FLIP, device=torch.device("cuda"))
    moved = [(images.cpu(), labels.cpu()) for images, labels in batches(cuda.train)]
    assert equal(batches(opened(augment=CROP_AND_FLIP).train), moved)


# Validation


def test_validation_is_split_off_the_training_set_for_every_seed_alike() -> None:
    whole, _ = joined(opened().train)
    first, second = opened(validation=200), opened(validation=200, seed=9, batch_size=32)
    assert (first.split, opened().split) == ("validation", "test")
    assert (first.train.samples, first.test.samples) == (1237, 200)
    assert torch.equal(joined(first.test)[0], joined(second.test)[0])
    parts = torch.cat([joined(first.train)[0], joined(first.test)[0]]).flatten(1)
    assert sorted(parts.tolist()) == sorted(whole.flatten(1).tolist())


def test_validation_split_is_disjoint_and_bounded() -> None:
    kept, held_out = validation_split(100, 30)
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(100))
    assert len(held_out) == 30
    for number in (1437, 2000):
        with pytest.raises(ValueError, match=f"between 0 and 1436 of the 1437 images, not {number}"):
            opened(validation=number)


# Sets


@pytest.mark.parametrize("file_there", [True, False])
def test_digits_are_scikit_learns(file_there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import load_digits

    if not file_there:
        monkeypatch.setattr("sparsewright.data.digits.Path.is_file", lambda path: False)
    found, (pixels, classes) = read_digits(), load_digits(return_X_y=True)
    labels = torch.from_numpy(classes)
    images = torch.from_numpy(pixels).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
    train, test = stratified_split(labels)
    assert torch.equal(found.train_images, images[train])
    assert torch.equal(found.test_images, images[test])
    assert torch.equal(found.train_labels, labels[train])
    assert torch.equal(found.test_labels, labels[test])


def test_digits_are_split_in_a_fixed_stratified_way() -> None:
    data = opened()
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 1, 8)
    assert (data.train.samples, data.test.samples) == (1437, 360)
    (train, train_labels), (_, test_labels) = joined(data.train), joined(data.test)
    for per_class, total in zip(test_labels.bincount(), train_labels.bincount() + test_labels.bincount(), strict=True):
        assert abs(per_class - total / 5) < 1
    assert (train.dtype, train_labels.dtype) == (torch.float32, torch.int64)
    assert train.shape == (1437, 1, 8, 8)
    assert train.mean().item() == pytest.approx(0, abs=0.02)
    assert train.std().item() == pytest.approx(1, abs=0.02)
    assert test_labels[:10].tolist() == [0, 2, 4, 7, 1, 6, 8, 9, 5, 3]


@pytest.mark.parametrize(("name", "channels", "size"), [("mnist", 1, 28), ("cifar10", 3, 32)])
def test_real_sets(name: str, channels: int, size: int, shared_data: Path) -> None:
    data = opened(name, shared_data, batch_size=1000)
    info = next(info for info in list_datasets() if info.name == name)
    assert (data.train.samples, data.test.samples) == (info.train, info.test)
    assert (data.num_classes, data.in_channels, data.image_size) == (10, channels, size)
    assert info.shape == (channels, size, size)
    counts = torch.zeros(10, dtype=torch.int64)
    moments = torch.zeros(2, channels)
    for images, labels in data.train.epoch(0):
        assert images.shape == (1000, channels, size, size)
        counts += labels.bincount(minlength=10)
        moments += torch.stack([images.mean(dim=(0, 2, 3)), images.square().mean(dim=(0, 2, 3))]) / len(data.train)
    torch.testing.assert_close(moments, torch.tensor([[0.0], [1.0]]).expand(2, channels), atol=0.01, rtol=0)
    assert counts.min() >= 5000
    first = {"mnist": [7, 2, 1, 0, 4], "cifar10": [3, 8, 8, 0, 6]}[name]
    assert next(data.test.epoch(0))[1][:5].tolist() == first


def test_cifar10_pixels_are_torchvisions(shared_data: Path) -> None:
    import torchvision
    from torchvision.transforms.v2 import functional

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's unpickling, with recent numpy
        reference = torchvision.datasets.CIFAR10(str(shared_data), train=False)
    images, labels = next(opened("cifar10", shared_data).test.epoch(0))
    for number in range(5):
        pixels = functional.pil_to_tensor(reference[number][0]).float() / 255
        expected = functional.normalize(pixels, [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])
        torch.testing.assert_close(images[number], expected)
        assert labels[number] == reference[number][1]


def test_cifar100_with_another_checksum_is_read_with_a_warning(shared_data: Path) -> None:
    with pytest.warns(ChecksumWarning, match="is not the published file"):
        data = opened("cifar100", shared_data, batch_size=1000)
    assert data.num_classes == 100
    counts = torch.stack([labels.bincount(minlength=100) for _, labels in data.train.epoch(0)]).sum(0)
    assert counts.tolist() == [500] * 100


def test_fashion_mnist_is_read_from_its_own_folder(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "FashionMNIST").mkdir()
    (tmp_path / "FashionMNIST" / "raw").symlink_to((shared_data / "MNIST" / "raw").resolve())
    assert opened("fashion-mnist", tmp_path).train.samples == 60_000
    with pytest.raises(FileNotFoundError, match="mnist is not in"):
        opened("mnist", tmp_path)


# What can go wrong


@pytest.mark.parametrize(
    ("name", "looked_for"),
    [
        ("mnist", "MNIST/raw/train-images-idx3-ubyte and 3 more"),
        ("fashion-mnist", "FashionMNIST/raw/train-images-idx3-ubyte"),
        ("cifar10", "cifar-10-batches-py/data_batch_1 and 5 more"),
        ("cifar100", "cifar-100-python/train and 1 more"),
    ],
)
def test_absent_sets_say_what_was_looked_for(name: str, looked_for: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"looked for .*{looked_for}.*--data-dir.*or allow the download"):
        opened(name, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_a_failed_download_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", refuse)
    with pytest.raises(FileNotFoundError, match=r"cifar10 is not in .*downloading it failed: .*no route to host"):
        opened("cifar10", tmp_path, download=True)


def test_an_absent_set_is_downloaded_by_torchvision(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    def bring(dataset: Any) -> None:
        shutil.copytree(shared_data / "MNIST", Path(dataset.root) / "MNIST")

    monkeypatch.setattr(torchvision.datasets.MNIST, "download", bring)
    assert opened("mnist", tmp_path / "new", download=True).test.samples == 10_000


def write_idx(path: Path, shape: tuple[int, ...], content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + content)


def write_mnist(root: Path, count: int, pixels: bytes) -> None:
    for part in ("train", "t10k"):
        write_idx(root / "MNIST" / "raw" / f"{part}-images-idx3-ubyte", (count, 28, 28), pixels)
        write_idx(root / "MNIST" / "raw" / f"{part}-labels-idx1-ubyte", (count,), bytes(count))


@pytest.mark.parametrize(
    ("count", "pixels"), [(60_000, bytes(1000)), (3, bytes(3 * 784)), (60_000, b"")], ids=["cut", "short", "empty"]
)
def test_truncated_mnist(count: int, pixels: bytes, tmp_path: Path) -> None:
    write_mnist(tmp_path, count, pixels)
    with pytest.raises(ValueError, match=r"mnist in .*MNIST.raw is truncated or damaged .*get the data again"):
        opened("mnist", tmp_path)


def test_empty_files(tmp_path: Path) -> None:
    for item in ("MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/train-labels-idx1-ubyte"):
        (tmp_path / item).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / item).touch()
        (tmp_path / item.replace("train", "t10k")).touch()
    with pytest.raises(ValueError, match="truncated or damaged"):
        opened("mnist", tmp_path)


def write_cifar100(root: Path, entry: Any, cut: int | None = None) -> None:
    folder = root / "cifar-100-python"
    folder.mkdir()
    for part in ("train", "test"):
        (folder / part).write_bytes(pickle.dumps(entry, protocol=2)[:cut])


class Attack:
    """Pickles into a call that writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


PIXELS = np.zeros((4, 3072), dtype=np.uint8)


@pytest.mark.parametrize(
    ("entry", "cut", "reason"),
    [
        ({"data": PIXELS, "fine_labels": [0] * 4}, 5000, "truncated"),
        ({"data": PIXELS, "labels": [0] * 4}, None, "KeyError: 'fine_labels'"),
        ([1, 2, 3], None, "TypeError"),
        ({"data": PIXELS[:, :100], "fine_labels": [0] * 4}, None, "shape"),
    ],
    ids=["cut", "labels missing", "another object", "other shape"],
)
def test_damaged_cifar(entry: Any, cut: int | None, reason: str, tmp_path: Path) -> None:
    write_cifar100(tmp_path, entry, cut)
    with pytest.raises(
        ValueError, match=rf"cifar100 in .*cifar-100-python is truncated or damaged \(train: .*{reason}"
    ):
        opened("cifar100", tmp_path)


def test_cifar_with_too_few_images(tmp_path: Path) -> None:
    write_cifar100(tmp_path, {"data": PIXELS, "fine_labels": [0] * 4})
    with (
        pytest.warns(ChecksumWarning),
        pytest.raises(ValueError, match=r"\(4, 3, 32, 32\) pixels and 4 labels instead of \(50000, 3, 32, 32\)"),
    ):
        opened("cifar100", tmp_path)


def test_cifar_files_cannot_run_code(tmp_path: Path) -> None:
    write_cifar100(tmp_path, {"data": Attack(tmp_path / "harm"), "fine_labels": []})
    with pytest.raises(ValueError, match="has no place in a file of images"):
        opened("cifar100", tmp_path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "cifar-10"}, "unknown data set 'cifar-10'; did you mean 'cifar10'"),
        ({"name": "zzz"}, "choose among digits, mnist"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"validation": -1}, "validation"),
        ({"rank": 2, "world_size": 2}, "rank 2 is not below world_size 2"),
        ({"workers": -1}, "workers"),
        ({"image_size": 32}, "digits has images of 8x8 pixels; image_size 32"),
        ({"augment": AugmentOptions(random_resized_crop=True)}, "random_resized_crop is for image folders"),
        ({"augment": AugmentOptions(crop_padding=8, padding_mode="reflect")}, "crop_padding 8 with reflection"),
        ({"name": "imagefolder:"}, "lacks a path"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        opened(**changes)


def test_every_listed_set_of_fixed_size_opens_or_says_what_it_lacks(tmp_path: Path) -> None:
    names = [info.name for info in list_datasets()]
    assert names == ["digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "imagefolder:PATH"]
    for info in list_datasets():
        if info.train is not None and info.name != "digits":
            with pytest.raises(FileNotFoundError, match=f"^{info.name} is not in"):
                opened(info.name, tmp_path)


# Image folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for part, count in (("train", 7), ("val", 4)):
        for label, name in enumerate(("ant", "bee", "cat")):
            (tmp_path / "insects" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 80, (24 + number, 30, 3)) + 80 * label
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(tmp_path / "insects" / part / name / f"{number}.png")
    return tmp_path


VARIED = AugmentOptions(flip=True, random_resized_crop=True)


def insects(data_dir: Path, **changes: Any) -> Data:
    return opened(
        "imagefolder:insects",
        data_dir,
        **{"batch_size": 4, "augment": VARIED, "image_size": 16, "workers": 0, **changes},
    )


def test_image_folder(folder: Path) -> None:
    data = insects(folder)
    assert (data.num_classes, data.in_channels, data.image_size) == (3, 3, 16)
    assert (data.train.samples, data.test.samples, len(data.train), len(data.test)) == (21, 12, 6, 3)
    images, labels = joined(data.train)
    assert images.shape == (21, 3, 16, 16)
    assert images.dtype == torch.float32
    assert labels.bincount().tolist() == [7, 7, 7]
    assert joined(data.test)[1].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    brightness = torch.stack([images[labels == label].mean() for label in range(3)])
    torch.testing.assert_close(brightness, (torch.tensor([39.5, 119.5, 199.5]) / 255 - 0.449) / 0.226, atol=0.1, rtol=0)


def test_image_folder_paths(folder: Path) -> None:
    absolute = opened(f"imagefolder:{folder / 'insects'}", Path("absent"), batch_size=4, image_size=16, workers=0)
    assert equal(batches(absolute.test), batches(insects(folder).test))
    assert opened(f"imagefolder:{folder / 'insects'}", folder, workers=0).image_size == 224


def test_image_folder_does_not_depend_on_workers_or_ranks(folder: Path) -> None:
    before = torch.get_rng_state()
    alone, helped = insects(folder), insects(folder, workers=2)
    for epoch in range(2):
        expected = batches(alone.train, epoch)
        assert equal(expected, batches(helped.train, epoch))
        assert equal(expected[4:], batches(helped.train, epoch, start=4))
    assert not equal(batches(alone.train, 0), batches(alone.train, 1))
    assert torch.equal(torch.get_rng_state(), before)
    ranks = [batches(insects(folder, rank=rank, world_size=2).train) for rank in range(2)]
    # The last batch has a single image, fewer than there are ranks.
    for whole, first, second in zip(batches(alone.train), *ranks, strict=False):
        assert torch.equal(whole[0], torch.cat([first[0], second[0]]))
    assert [len(rank) for rank in ranks] == [5, 5]


def test_image_folder_epoch_left_early_leaves_no_trace(folder: Path) -> None:
    data = insects(folder, workers=2)
    next(data.train.epoch(0))
    assert equal(batches(data.train, 1), batches(insects(folder).train, 1))


@pytest.mark.parametrize("augment", [None, AugmentOptions(crop_padding=2, padding_mode="reflect", flip=True)])
def test_image_folder_without_resized_crop(folder: Path, augment: AugmentOptions | None) -> None:
    data = insects(folder, augment=augment)
    assert joined(data.train)[0].shape == (21, 3, 16, 16)
    same_pixels = torch.equal(
        joined(data.train, 0)[0].sum((1, 2, 3)).sort().values, joined(data.train, 1)[0].sum((1, 2, 3)).sort().values
    )
    assert same_pixels == (augment is None)


def test_image_folder_validation(folder: Path) -> None:
    shutil.rmtree(folder / "insects" / "val")
    data = insects(folder, validation=5)
    assert (data.train.samples, data.test.samples, data.split) == (16, 5, "validation")
    assert equal(batches(data.test), batches(insects(folder, validation=5, seed=3).test))


def test_missing_image_folders(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"looked for .*nowhere.train; imagefolder:PATH needs PATH/train"):
        opened("imagefolder:nowhere", folder)
    (folder / "flat" / "train").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"does not hold one folder of images per class"):
        opened("imagefolder:flat", folder)
    shutil.rmtree(folder / "insects" / "val" / "bee")
    with pytest.raises(ValueError, match="different classes: bee in one only"):
        insects(folder)
    shutil.rmtree(folder / "insects" / "val")
    with pytest.raises(FileNotFoundError, match=r"looked for .*insects.val"):
        insects(folder)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(folder: Path, workers: int) -> None:
    file = folder / "insects" / "val" / "bee" / "2.png"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"^[^\n]*bee.2.png cannot be read as an image[^\n]*$"):
        batches(insects(folder, workers=workers).test)


def test_imagenette_part(shared_data: Path) -> None:
    data = opened("imagefolder:imagenette", shared_data, batch_size=16, augment=VARIED, image_size=64, workers=1)
    images, labels = next(data.train.epoch(0))
    assert images.shape == (16, 3, 64, 64)
    assert data.num_classes == 10
    assert len(labels.unique()) > 3
