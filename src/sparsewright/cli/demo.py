"""``sparsewright demo``: every method on a data set that is bundled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsewright.cli.options import SeedOfRuns


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the run folders go.")] = Path("runs/demo"),
    methods: Annotated[
        list[str] | None,
        typer.Option("--method", metavar="NAME", help="Only these (may be repeated).", show_default="all of them"),
    ] = None,
    sparsity: Annotated[
        list[float] | None,
        typer.Option("--sparsity", metavar="S", help="Only these (may be repeated).", show_default="0.9 and 0.98"),
    ] = None,
    seed: SeedOfRuns = 0,
) -> None:
    """Every method on 1797 small images of digits, in about a minute; nothing is downloaded.

    \b
    Examples:
      sparsewright demo
      sparsewright demo --method granet --method rigl --sparsity 0.95
      sparsewright demo --seed 1 --out runs/demo-1
    """
    from sparsewright.cli.demo_output import show_demo

    show_demo(out, methods=methods, sparsities=sparsity, seed=seed)
