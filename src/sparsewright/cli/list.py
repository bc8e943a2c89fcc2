"""``sparsewright list``: what there is to choose from."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from sparsewright.cli.options import AsJson


class Kind(str, Enum):
    methods = "methods"
    models = "models"
    datasets = "datasets"
    recipes = "recipes"


def list_(
    kind: Annotated[Kind, typer.Argument(metavar="methods|models|datasets|recipes", help="What to list.")],
    as_json: AsJson = False,
) -> None:
    """What there is to choose from.

    \b
    Examples:
      sparsewright list methods
      sparsewright list recipes
      sparsewright list models --json
    """
    from sparsewright.cli import catalogue, tables

    records = catalogue.records(kind.value)
    if as_json:
        tables.print_json(records)
    else:
        tables.print_table(*catalogue.as_table(kind.value, records))
