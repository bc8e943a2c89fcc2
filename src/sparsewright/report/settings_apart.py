"""Which settings tell runs apart that are otherwise called the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOT_SET = "not set"


def settings_apart(trees: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """For each of some trees of settings, those that are not the same in all: dotted key -> value as text."""
    apart: list[dict[str, str]] = [{} for _ in trees]
    _compare("", list(trees), apart)
    return apart


def _compare(prefix: str, values: list[Any], apart: list[dict[str, str]]) -> None:
    if all(value == values[0] for value in values):
        return
    children = _children(values)
    if children is None:
        for settings, text in zip(apart, _texts(values), strict=True):
            settings[prefix] = text
        return
    for key in dict.fromkeys(key for value in children for key in value):
        _compare(f"{prefix}.{key}" if prefix else str(key), [value.get(key, NOT_SET) for value in children], apart)


def _children(values: Sequence[Any]) -> list[Mapping[Any, Any]] | None:
    """The parts of values that can be compared part by part: mappings, or lists of the same length."""
    if all(isinstance(value, Mapping) for value in values):
        return list(values)
    if all(isinstance(value, (list, tuple)) and len(value) == len(values[0]) for value in values):
        return [dict(enumerate(value)) for value in values]
    return None


def _texts(values: Sequence[Any]) -> list[str]:
    """Values as text: stages by their names, if those tell them apart."""
    short = [_short_text(value) for value in values]
    alike = any(
        short[first] == short[second] and values[first] != values[second]
        for first in range(len(values))
        for second in range(first)
    )
    return [_as_text(value) for value in values] if alike else short


def _short_text(value: Any) -> str:
    return _names(value) or _as_text(value)


def _names(value: Any) -> str:
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, Mapping) for part in value):
        return ""
    names = [part.get("name", part.get("kind")) for part in value]
    return "" if None in names else "+".join(map(str, names))


def _as_text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_as_text, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_as_text(part)}" for key, part in value.items()) + "}"
    return str(value)
