"""``sparsewright log``: the end of the metrics of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sparsewright.cli.options import AsJson


def log(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    last: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Lines of each run.", show_default="10 of one run, 1 of several"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The last lines of the metrics of one or more runs.

    \b
    Examples:
      sparsewright log runs/first
      sparsewright log runs/first --last 3
      sparsewright log runs/*
    """
    from sparsewright.cli import tables
    from sparsewright.training import read_metrics

    count = last or (10 if len(runs) == 1 else 1)
    metrics = {run: read_metrics(run)[-count:] for run in dict.fromkeys(runs)}
    lines: list[dict[str, Any]] = [
        {"run": str(run)} | line for run, last_lines in metrics.items() for line in last_lines
    ]
    for run in (run for run, last_lines in metrics.items() if not last_lines):
        typer.echo(f"{run}: no epoch has ended yet", err=True)
    if as_json:
        tables.print_json(lines)
        return
    if not lines:
        return
    columns = tables.columns_of(lines)
    if len(runs) == 1:
        columns.remove("run")
    numbers = [name for name in columns if not any(isinstance(line.get(name), str) for line in lines)]
    titles = {name: name.replace("_", " ") for name in columns}
    cells = [tables.metric_cells(line, columns) for line in lines]
    tables.print_table([titles[name] for name in columns], cells, right=[titles[name] for name in numbers])
