"""What ``sparsewright list`` shows: the registries' records, and which of their fields people see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SHOWN = {"methods": ["name", "year", "paper", "summary"], "recipes": ["name", "summary"]}


def records(kind: str) -> list[dict[str, Any]]:
    """The records of "methods", "models", "datasets" or "recipes" as plain mappings, for ``--json`` in full."""
    if kind == "methods":
        import sparsewright

        return [_method(info) for info in sparsewright.list_methods()]
    if kind == "models":
        from sparsewright.models import list_models

        return [_fields(info) for info in list_models()]
    if kind == "datasets":
        from sparsewright.data import list_datasets

        return [_fields(info) for info in list_datasets()]
    from sparsewright.training.recipe_files import list_recipes

    return [_fields(info) for info in list_recipes()]


def as_table(kind: str, records: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Column titles and cells; the summary comes last, where it may be folded."""
    shown = _SHOWN.get(kind) or list(records[0] if records else {})
    shown = sorted(shown, key=lambda name: name == "summary")
    return [name.replace("_", " ") for name in shown], [[_cell(record[name]) for name in shown] for record in records]


def _method(info: Any) -> dict[str, Any]:
    shown = {name: getattr(info, name) for name in ("name", "year", "paper", "summary")}
    return shown | {"class": info.cls.__name__, "options": dict(info.options)}


def _fields(info: Any) -> dict[str, Any]:
    # Not dataclasses.asdict: it copies deeply, and option defaults may hold what cannot be copied.
    return {name: getattr(info, name) for name in info.__dataclass_fields__}


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and value >= 10_000:
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return " x ".join(str(item) for item in value)
    return str(value)
