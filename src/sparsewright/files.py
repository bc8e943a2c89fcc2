"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO


class SaveError(OSError):
    """A file could not be written; what was there before is unchanged."""


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Lets ``write`` fill a temporary file beside ``path``, syncs it to disk and renames it over ``path``.

    Raises:
        SaveError: writing failed (a full disk, no permission); the temporary file is gone, a former ``path`` intact.
        KeyboardInterrupt: writing was interrupted; the same holds.
    """
    temporary: Path | None = None
    handled = sys.exc_info()[1]
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # torch.save reports whatever stops a write as a RuntimeError that hides the reason in its context: the
        # system's, or Ctrl-C, which must go on as that.
        causes = list(takewhile(lambda cause: cause is not handled, _causes(error)))
        if interruption := next((cause for cause in causes if isinstance(cause, KeyboardInterrupt)), None):
            raise interruption from None
        reason = _system_reason(causes)
        kept = "; the former file is unchanged" if path.exists() else ""
        raise SaveError(f"cannot save {path}: {reason}{kept}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` as UTF-8, whole or not at all; raises SaveError."""
    write_atomically(path, lambda stream: stream.write(text.encode("utf-8")))


def append_text(path: Path, text: str) -> None:
    """Adds ``text`` as UTF-8 to the end of a file; raises SaveError."""
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise SaveError(f"cannot write to {path}: {error.strerror or error}") from error


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files that a killed process left behind in ``folder``."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _system_reason(causes: Sequence[BaseException]) -> str:
    for cause in causes:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    error = causes[0]
    return str(error).splitlines()[0] if str(error) else type(error).__name__
