"""Which folder of images belongs to which output of a network that was trained on more classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from sparsewright.checks import join_names
from sparsewright.extras import explain_missing

IMAGENET = "imagenet"


def read_class_names(source: str) -> list[str]:
    """The names of the class folders in the order of a network's outputs.

    Args:
        source: a text file with one name a line, or "imagenet" for the 1000 synset ids of ImageNet-1k, which timm has.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no text, is empty, or names a class twice.
        ModuleNotFoundError: "imagenet", and timm is not installed.
    """
    return _imagenet() if source == IMAGENET else _from_file(Path(source))


def outputs_of_folders(folders: list[str], names: list[str], source: str) -> list[int]:
    """The output of each class folder.

    Args:
        folders: names of the class folders.
        names: of ``read_class_names``.
        source: where the names are from, for the error.

    Raises:
        ValueError: a folder that is not among the names.
    """
    number = {name: index for index, name in enumerate(names)}
    if unknown := [folder for folder in folders if folder not in number]:
        raise ValueError(f"classes {source}: no name of the {len(names)} is that of the folder {join_names(unknown)}")
    return [number[folder] for folder in folders]


def _from_file(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} of class names, one a line; {IMAGENET} alone needs no file")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file with the name of a class on each line") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ValueError(f"{path} names no class")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{path} names more than once: {join_names(twice)}")
    return names


def _imagenet() -> list[str]:
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(explain_missing(error), name=error.name) from error
    return ImageNetInfo("imagenet-1k").label_names()
