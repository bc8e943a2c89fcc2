"""Which options a recipe may give to a method."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from sparsewright.checks import check_choice, join_names
from sparsewright.groups import GRANULARITIES
from sparsewright.methods.registry import list_methods
from sparsewright.training.suggestions import nearest

DENSE = "dense"
"""The name that stands for training without any sparsifier."""

# These come from the trainer: the recipe has its own keys for them or derives them.
_RESERVED = frozenset({"sparsity", "total_steps", "seed", "process_group", "masks"})

# Every method has these besides its own.
_SCOPE: Mapping[str, Any] = {"include": None, "exclude": None}


@cache
def _options_by_method() -> Mapping[str, Mapping[str, Any]]:
    return {info.name: dict(info.options) for info in list_methods()}


def known_methods() -> list[str]:
    """The names of all methods except dense, in the order of the registry."""
    return list(_options_by_method())


@cache
def one_shot_methods() -> tuple[str, ...]:
    """The methods whose masks are final as soon as they are made, which a prune stage can use."""
    return tuple(info.name for info in list_methods() if info.cls.one_shot)


def default_options(method: str) -> dict[str, Any]:
    """The options of ``method`` with the defaults of its preset; nothing for dense."""
    if method == DENSE:
        return {}
    own = {key: value for key, value in _options_by_method()[method].items() if key not in _RESERVED}
    return {**own, **_SCOPE}


def check_method(method: str, options: Mapping[str, Any]) -> None:
    """Raises ValueError when there is no such method, it does not have one of the options, or no such granularity."""
    if method != DENSE and method not in _options_by_method():
        raise ValueError(f"unknown method {method!r}{nearest(method, [DENSE, *known_methods()])}")
    allowed = default_options(method)
    for option in options:
        if option not in allowed:
            owners = _methods_with(option) if method == DENSE else []
            raise ValueError(
                f"method {method} has no option {option!r}"
                f"{_where_to_set(option, owners) if owners else nearest(option, allowed)}"
            )
    _check_granularity("method.granularity", options)


def check_method_defaults(defaults: Mapping[str, Any]) -> None:
    """Raises ValueError when a key is an option of no method at all, or there is no such granularity."""
    allowed = sorted({option for method in known_methods() for option in default_options(method)})
    for option in defaults:
        if option not in allowed:
            raise ValueError(f"no method has an option {option!r}{nearest(option, allowed)}")
    _check_granularity("method_defaults.granularity", defaults)


def granularity(method: str, options: Mapping[str, Any]) -> str | None:
    """What ``method`` removes with these options: "weight", "filter" or "channel"; None where it has no such option."""
    return {**default_options(method), **options}.get("granularity")


def with_granularity() -> list[str]:
    """The methods that have the option."""
    return _methods_with("granularity")


def removes_structures(method: str, options: Mapping[str, Any]) -> bool:
    """Whether what ``method`` removes can be taken out of the network: whole filters or channels."""
    return granularity(method, options) in ("filter", "channel")


def options_in_force(method: str, defaults: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """``defaults`` where the method has such an option, overridden by ``options``."""
    allowed = default_options(method)
    return {**{key: value for key, value in defaults.items() if key in allowed}, **options}


def _methods_with(option: str) -> list[str]:
    return [method for method in known_methods() if option in default_options(method)]


def _where_to_set(option: str, owners: list[str]) -> str:
    """The end of a sentence about an option that is given to the wrong method."""
    return (
        f", which is one of {join_names(owners)}; choose one with method=NAME, or where the stages name their methods "
        f"set method_defaults.{option} for all or stages.N.method.{option} for one"
    )


def _check_granularity(key: str, options: Mapping[str, Any]) -> None:
    """Here rather than when the method is made, because whether a shrink stage may follow depends on it."""
    if "granularity" in options:
        check_choice(options["granularity"], key, GRANULARITIES)
