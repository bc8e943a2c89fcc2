"""``sparsewright compare``: runs beside each other."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Format(str, Enum):
    table = "table"
    markdown = "markdown"
    csv = "csv"
    html = "html"


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of them such as that of a sweep.")
    ],
    format_: Annotated[
        Format | None,
        typer.Option("--format", help="What is written.", show_default="as the suffix of --out says, else table"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write.", show_default="comparison.html for html, else the terminal"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Compare runs: mean and standard deviation over seeds, against sparsity and FLOPs.

    Runs that differ in nothing but the seed are one row: the accuracy of the last epoch, the sparsity that was reached,
    and what inference and training cost, beside that of the dense network. Rows on a Pareto front are marked, and so
    are runs that missed their target and groups of fewer than 3 seeds. Runs on different data are refused. The html
    page has plots and needs no network.

    \b
    Examples:
      sparsewright compare runs/sweep-digits-lenet300
      sparsewright compare runs/a runs/b runs/c --format markdown
      sparsewright compare runs/sweep-mnist-lenet300 --out results.csv
      sparsewright compare runs/sweep-mnist-lenet300 --format html
    """
    from sparsewright.cli.compare_output import show_comparison

    show_comparison(runs, format_.value if format_ is not None else None, out, force=force)
