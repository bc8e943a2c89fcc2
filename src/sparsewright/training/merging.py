"""Laying one tree of settings over another: ``extends``, stages and overrides all do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from sparsewright.training.errors import RecipeError

Tree = dict[str, Any]

# When a later layer names another optimizer or schedule, these are the inherited settings that still mean the same.
_KEPT_ON_ANOTHER_NAME: Mapping[str, frozenset[str]] = {
    "optimizer": frozenset({"weight_decay", "decay_bias_and_norm"}),
    "schedule": frozenset({"warmup"}),
    "method": frozenset(),
    "model": frozenset(),
}

# A mapping here is one value: patterns of another layer of settings would take part in which one matches first.
_REPLACED_WHOLE = frozenset({"sparsity"})


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """``base`` with the keys of ``over`` laid over it, mappings key by key, everything else (a sparsity too) replaced.

    Where ``over`` names another optimizer, schedule, method or model, the settings of the former one go.
    ``method: granet`` is short for ``method: {name: granet}``, likewise for the other named sections.
    """
    result = deepcopy(dict(base))
    for key, value in over.items():
        result[key] = _merge_value(key, result.get(key), value)
    return result


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[tuple[str, Any]]) -> Tree:
    """``tree`` with dotted keys set to values; names of sections are applied before their other keys.

    Raises:
        RecipeError: an index that is not in the list, or a path through something that has no keys.
    """
    result = deepcopy(dict(tree))
    for key, value in sorted(overrides, key=lambda item: not _names_a_section(item)):
        parts = key.split(".")
        result = _set(result, parts, value, key)
    return result


def _merge_value(key: str, old: Any, new: Any) -> Any:
    if key in _KEPT_ON_ANOTHER_NAME:
        old, new = as_section(old), as_section(new)
        if isinstance(old, dict) and isinstance(new, dict) and "name" in new and new["name"] != old.get("name"):
            old = {kept: value for kept, value in old.items() if kept in _KEPT_ON_ANOTHER_NAME[key]}
    if isinstance(old, dict) and isinstance(new, dict) and key not in _REPLACED_WHOLE:
        return merge(old, new)
    return deepcopy(new)


def as_section(value: Any) -> Any:
    """``granet`` as ``{name: granet}``; what is not text as it is."""
    return {"name": value} if isinstance(value, str) else value


def _names_a_section(override: tuple[str, Any]) -> bool:
    parts = override[0].split(".")
    return parts[-1] in _KEPT_ON_ANOTHER_NAME or (len(parts) > 1 and parts[-1] == "name")


def _set(node: Any, parts: list[str], value: Any, key: str) -> Any:
    head, rest = parts[0], parts[1:]
    if isinstance(node, list):
        position = _index(head, node, key)
        changed = list(node)
        changed[position] = _set_child(str(position), node[position], rest, value, key)
        return changed
    if not isinstance(node, dict):
        raise RecipeError(f"{key}: there are no keys below {node!r}")
    return {**node, head: _set_child(head, node.get(head), rest, value, key)}


def _set_child(name: str, child: Any, rest: list[str], value: Any, key: str) -> Any:
    if not rest:
        return _merge_value(name, child, value) if name in _KEPT_ON_ANOTHER_NAME else deepcopy(value)
    if name in _KEPT_ON_ANOTHER_NAME:
        child = as_section(child)
        if rest == ["name"]:
            return _merge_value(name, child, {"name": value})
    return _set({} if child is None else child, rest, value, key)


def _index(text: str, items: list[Any], key: str) -> int:
    if not text.isdigit() or int(text) >= len(items):
        allowed = "0" if len(items) == 1 else f"0 to {len(items) - 1}"
        raise RecipeError(f"{key}: {text!r} is not a position in this list; allowed: {allowed}")
    return int(text)
