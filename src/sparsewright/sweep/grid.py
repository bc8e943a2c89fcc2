"""The grid that ``key=a,b,c`` spans: which values each key takes, and every combination of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from sparsewright.training.errors import RecipeError

SEED = "seed"


@dataclass(frozen=True)
class Axis:
    """One key of the grid.

    Attributes:
        key: a key of the recipe, or "seed".
        values: as they were written, in that order.
    """

    key: str
    values: tuple[str, ...]


def parse_axes(settings: Sequence[str]) -> tuple[Axis, ...]:
    """Reads ``key=value`` and ``key=a,b,c``; without a ``seed`` there is the one seed 0, which comes last.

    Raises:
        RecipeError: it is not of that form, a key or a value of it is there twice, or a value is missing.
    """
    axes: dict[str, Axis] = {}
    for text in settings:
        axis = _parse_axis(text)
        if axis.key in axes:
            raise RecipeError(f"{axis.key} is given twice; write its values after one another: {axis.key}=A,B")
        axes[axis.key] = axis
    seeds = axes.pop(SEED, Axis(SEED, ("0",)))
    return (*axes.values(), seeds)


def combinations(axes: Sequence[Axis]) -> list[dict[str, str]]:
    """Every combination of values by key; the last axis varies fastest."""
    return [
        dict(zip((axis.key for axis in axes), values, strict=True))
        for values in product(*(axis.values for axis in axes))
    ]


def split_values(text: str) -> list[str]:
    """``text`` at its commas, but for those within brackets, braces or quotes."""
    values, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"" and (depth or not values[-1].strip()):
            quote = character
        elif character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
        elif character == "," and depth <= 0:
            values.append("")
            continue
        values[-1] += character
    return [value.strip() for value in values]


def _parse_axis(text: str) -> Axis:
    key, equals, written = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise RecipeError(f"a setting is written key=value, or key=a,b,c for several, got {text!r}")
    values = split_values(written)
    if not all(values):
        where = "beside a comma" if len(values) > 1 else "after the ="
        raise RecipeError(f"{text}: a value is missing {where}")
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    if twice:
        raise RecipeError(f"{text}: the value {twice[0]} is there twice")
    return Axis(key, tuple(values))
