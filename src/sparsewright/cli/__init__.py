"""The ``sparsewright`` command: parses, calls, prints. Exit codes are in :mod:`sparsewright.cli.errors`.

Each command is declared in a file of its own that imports next to nothing: what a command needs, it imports when it
runs, so that no help waits for it.
"""

from __future__ import annotations

from typing import Annotated

import typer

from sparsewright.cli import (
    bench,
    compare,
    demo,
    evaluate,
    export,
    inspect,
    log,
    plasticity,
    report,
    sweep,
    ticket,
    train,
)
from sparsewright.cli import list as listing
from sparsewright.cli.errors import CommandGroup

app = typer.Typer(
    name="sparsewright",
    cls=CommandGroup,
    add_completion=False,
    # Plain help keeps the examples as they are written, at any width and in pipes.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")] = False,
) -> None:
    """Make neural networks sparse while they train.

    \b
    Examples:
      sparsewright demo
      sparsewright list recipes
      sparsewright train digits/lenet300 method=granet sparsity=0.95 --out runs/first
      sparsewright inspect runs/first

    Exit codes: 0 done, 1 failure, 2 bad input, 130 interrupted.
    """
    if version:
        from sparsewright import __version__

        typer.echo(f"sparsewright {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


# In the order in which the help shows them.
for _name, _command in (
    ("train", train.train),
    ("sweep", sweep.sweep),
    ("ticket", ticket.ticket),
    ("plasticity", plasticity.plasticity),
    ("eval", evaluate.evaluate),
    ("inspect", inspect.inspect),
    ("bench", bench.bench),
    ("report", report.report),
    ("compare", compare.compare),
    ("export", export.export),
    ("log", log.log),
    ("list", listing.list_),
    ("demo", demo.demo),
):
    app.command(name=_name)(_command)
