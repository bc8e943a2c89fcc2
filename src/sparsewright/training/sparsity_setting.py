"""The sparsity that a recipe may ask for: one number, or ratios by pattern or by stage of the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, PlainValidator, Tag

from sparsewright.ratios import Ratios, check_ratios

KINDS = frozenset({"number", "ratios"})
"""What pydantic puts into the path of an error about a sparsity."""


_ALLOWED = (
    "sparsity is a number in [0, 1), and for methods that take ratios also a list of them for the stages of the "
    "network or a mapping of patterns to them"
)


def _kind(value: Any) -> str:
    return "ratios" if isinstance(value, (Mapping, list, tuple)) else "number"


def _number(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{_ALLOWED}, got {value!r}") from error


def _ratios(value: Any) -> Ratios:
    try:
        return check_ratios(value)
    except (TypeError, ValueError) as error:
        # pydantic turns a ValueError into an error of the recipe, and lets a TypeError through.
        raise ValueError(f"{error}; {_ALLOWED}") from error


SparsitySetting = Annotated[
    Annotated[float, Field(ge=0, lt=1), BeforeValidator(_number), Tag("number")]
    | Annotated[dict[str, float] | list[float], PlainValidator(_ratios), Tag("ratios")],
    Discriminator(_kind),
]


def describe_sparsity(sparsity: Ratios) -> str:
    """A sparsity in as few characters as say it, such as ``0.9`` or ``[0, 0.75, 0]``."""
    if isinstance(sparsity, dict):
        return "{" + ", ".join(f"{pattern}: {ratio:g}" for pattern, ratio in sparsity.items()) + "}"
    if isinstance(sparsity, list):
        return "[" + ", ".join(f"{ratio:g}" for ratio in sparsity) + "]"
    return f"{sparsity:g}"
