"""Pruning ratios per layer: one number, patterns over names, or one for each stage of a residual network."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from sparsewright.checks import check_sparsity, did_you_mean

Ratios: TypeAlias = float | dict[str, float] | list[float]

# "layer1.0." of torchvision, "stages.0.1." of this library and of timm: a stage holds numbered blocks.
_STAGE = re.compile(r"^(?:.*\.)?(?:layer|stages?\.|blocks?\.|stage)(\d+)\.\d+\.")
_WEIGHT = ".weight"


def check_ratios(value: Any) -> Ratios:
    """Return ratios as plain values: a number, a mapping of patterns to numbers, or a list of numbers.

    Raises:
        TypeError, ValueError: none of these, an empty one, or a ratio outside [0, 1).
    """
    if isinstance(value, Mapping):
        if not value:
            raise ValueError("sparsity is an empty mapping: give glob patterns over parameter names and their ratios")
        return {str(pattern): check_sparsity(ratio, f"sparsity[{pattern!r}]") for pattern, ratio in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) < 3:
            raise ValueError(
                f"a list of sparsities has one for the stem, one for each stage and one for the classifier, got {value}"
            )
        return [check_sparsity(ratio, f"sparsity[{index}]") for index, ratio in enumerate(value)]
    return check_sparsity(value)


def as_settings(ratios: Ratios) -> Any:
    """Ratios as a value that differs where their patterns stand in another order, which decides which one counts."""
    return [list(item) for item in ratios.items()] if isinstance(ratios, dict) else ratios


def layer_ratios(given: Ratios, names: Sequence[str], whole: Mapping[str, str]) -> dict[str, float]:
    """Name -> ratio of each layer.

    Args:
        given: a number for all layers; a mapping of glob patterns over names (with or without ``.weight``; the first
            that matches a layer counts, and a layer that matches none has ratio 0); or, as the papers of residual
            networks give them, a list with one ratio for the stem, one for each stage and one for the classifier.
        names: the layers, in the model's order.
        whole: name -> why a layer is left whole by a number or a list; a pattern reaches it all the same.

    Raises:
        ValueError: a pattern that matches no layer, stages that cannot be told from the names or are not as many as
            the list says, or a ratio above 0 that reaches no layer.
    """
    if isinstance(given, dict):
        return _by_pattern(given, names)
    if isinstance(given, list):
        return _by_stage(given, names, whole)
    ratios = {name: 0.0 if name in whole else given for name in names}
    if given and not any(ratios.values()):
        raise ValueError(f"sparsity={given} reaches no layer: {_reasons(names, whole)}")
    return ratios


def _by_pattern(given: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    for pattern in given:
        if not any(_matches(name, pattern) for name in names):
            hint = did_you_mean(pattern, names)
            raise ValueError(f"sparsity pattern {pattern!r} matches no layer in scope{hint} (layers: {_some(names)})")
    first = {name: next((pattern for pattern in given if _matches(name, pattern)), None) for name in names}
    for pattern in given:
        if pattern not in first.values():
            earlier = next(other for name, other in first.items() if _matches(name, pattern))
            raise ValueError(
                f"sparsity pattern {pattern!r} has no effect: the first that matches a layer counts, and all of "
                f"its layers match an earlier one, such as {earlier!r}; put it first"
            )
    return {name: 0.0 if pattern is None else given[pattern] for name, pattern in first.items()}


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.removesuffix(_WEIGHT), pattern)


def _by_stage(given: Sequence[float], names: Sequence[str], whole: Mapping[str, str]) -> dict[str, float]:
    places = _places(names, len(given))
    ratios = {name: 0.0 if name in whole else given[place] for name, place in places.items()}
    for place, ratio in enumerate(given):
        members = [name for name in names if places[name] == place]
        if ratio and not any(ratios[name] for name in members):
            raise ValueError(
                f"sparsity[{place}]={ratio} reaches no layer, so it must be 0: {_reasons(members, whole)}; a "
                "mapping of patterns to ratios reaches every layer"
            )
    return ratios


def _places(names: Sequence[str], length: int) -> dict[str, int]:
    """Name -> position in the list of ratios."""
    found = {name: int(match[1]) for name in names if (match := _STAGE.match(name))}
    numbers = sorted(set(found.values()))
    if len(numbers) != length - 2:
        raise ValueError(
            f"a list of {length} sparsities is for a stem, {length - 2} stages and a classifier, and the names show "
            f"{len(numbers)} stages (layers: {_some(names)}); give a mapping of patterns to ratios instead"
        )
    first = min(names.index(name) for name in found)
    outside = {name: 0 if names.index(name) < first else length - 1 for name in names if name not in found}
    return {name: numbers.index(found[name]) + 1 if name in found else outside[name] for name in names}


def _reasons(names: Sequence[str], whole: Mapping[str, str]) -> str:
    shown = [f"{name} {whole[name]}" for name in names[:3] if name in whole]
    return "; ".join(shown) + (" and others" if len(names) > 3 else "") or "it stands for no layer in scope"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
