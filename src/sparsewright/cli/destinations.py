"""Where a command writes a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def check_destination(path: Path, suffixes: Sequence[str], *, force: bool) -> Path:
    """The file to write.

    Args:
        path: as the user gave it, or the default.
        suffixes: it has to end in one of them, which also keeps ``force`` from replacing the run's own files.
        force: whether a file that is there is replaced.

    Raises:
        IsADirectoryError, ValueError, FileNotFoundError, FileExistsError: a folder, another suffix, a folder that is
            missing, or a file that is there.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give --out a file")
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"--out {path} must end in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} into")
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists; add --force to replace it, or choose another file with --out")
    return path
