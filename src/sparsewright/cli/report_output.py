"""Pages that commands write beside the runs that they have trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from sparsewright.extras import explain_missing


def report_beside(folder: Path) -> Path | None:
    """Writes the report of the run in ``folder``; None, with a warning, where that fails."""

    def write() -> Path:
        from sparsewright.report import write_run_report

        return write_run_report(folder)

    return _written_or_warned(write, f"sparsewright report {folder}")


def comparison_beside(folders: Sequence[Path], file: Path) -> Path | None:
    """Writes the page that compares the runs in ``folders``; None, with a warning, where that fails."""

    def write() -> Path:
        from sparsewright.report import write_comparison

        return write_comparison(folders, file)

    return _written_or_warned(write, f"sparsewright compare {file.parent} --format html --out {file}")


def _written_or_warned(write: Callable[[], Path], command: str) -> Path | None:
    """What ``write`` wrote; None, with a warning that names the ``command`` to try it with again, where it fails."""
    try:
        return write()
    except Exception as error:
        # The runs are trained and saved: nothing about a page may make them look failed.
        missing = explain_missing(error) if isinstance(error, ModuleNotFoundError) else None
        warnings.warn(
            f"what was trained is saved, but no page about it ({missing or error}); try: {command}", stacklevel=3
        )
        return None
