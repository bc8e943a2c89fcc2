"""Settings of a recipe that come with a choice of method: its key ``by_method``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparsewright.training.errors import RecipeError
from sparsewright.training.merging import Tree, as_section, merge
from sparsewright.training.method_options import DENSE, known_methods
from sparsewright.training.suggestions import nearest

BY_METHOD = "by_method"


def merge_levels(levels: Sequence[Mapping[str, Any]], method: str | None = None) -> Tree:
    """Lays recipe files over each other, what the others extend first, each followed by its settings for a method.

    A file that extends another has the last word over what that one sets for the method, and one that chooses a method
    itself does without.

    Args:
        levels: the files as read, with or without the key ``by_method``, which the result does not have.
        method: whose settings are taken; None for the method that the files themselves choose.

    Raises:
        RecipeError: ``by_method`` is no mapping of methods to settings.
    """
    if method is None:
        method = chosen_method(merge_levels(levels, DENSE))
    tree: Tree = {}
    for index, level in enumerate(levels):
        for_methods = _settings_for_methods(level)
        tree = merge(tree, {key: value for key, value in level.items() if key != BY_METHOD})
        if method in for_methods and not any("method" in later for later in levels[index + 1 :]):
            tree = merge(tree, _with_method(for_methods[method], method))
    return tree


def chosen_method(tree: Mapping[str, Any]) -> str:
    """The name of the method of ``tree``; dense where there is none that could be read."""
    section = as_section(tree.get("method", DENSE))
    name = section.get("name", DENSE) if isinstance(section, dict) else DENSE
    return name if isinstance(name, str) else DENSE


def _with_method(settings: Mapping[str, Any], method: str) -> Tree:
    # With the name in it a method chosen later, which is this one, keeps the options.
    return merge(settings, {"method": {**dict(as_section(settings.get("method", {}))), "name": method}})


def _settings_for_methods(level: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    found = level.get(BY_METHOD, {})
    if not isinstance(found, dict):
        raise RecipeError(f"{BY_METHOD} maps names of methods to settings, got {found!r}")
    for name, settings in found.items():
        if name != DENSE and name not in known_methods():
            raise RecipeError(f"unknown method {name!r} in {BY_METHOD}{nearest(str(name), [DENSE, *known_methods()])}")
        if not isinstance(settings, dict):
            raise RecipeError(f"{BY_METHOD}.{name} must be a mapping of settings, got {settings!r}")
        options = as_section(settings.get("method", {}))
        if not isinstance(options, dict):
            raise RecipeError(f"{BY_METHOD}.{name}.method must be a mapping of options, got {options!r}")
        if options.get("name", name) != name:
            raise RecipeError(f"{BY_METHOD}.{name} chooses another method; its method key holds options only")
        for key in ("extends", BY_METHOD, "name", "summary"):
            if key in settings:
                raise RecipeError(f"{BY_METHOD}.{name} cannot set {key}")
    return found
