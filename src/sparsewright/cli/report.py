"""``sparsewright report``: a page about one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, finished or not.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File to write.", show_default="report.html in the run folder")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that --out names if it exists.")] = False,
) -> None:
    """Write what a run did as one page of HTML: curves, layers, connections, ranks, weights, recipe and versions.

    The page needs no network and no other file. Of a run that is not finished it shows what is there so far. The
    report.html in the run folder is made from the run's own files and is replaced without asking.

    \b
    Examples:
      sparsewright report runs/first
      sparsewright report runs/first --out first.html
    """
    from sparsewright.cli.destinations import check_destination
    from sparsewright.report import write_run_report

    if force and out is None:
        raise ValueError("--force is for the file that --out names; the report.html in the run folder needs none")
    file = check_destination(out, (".html",), force=force) if out is not None else None
    typer.echo(f"report {write_run_report(run, file)}")
