"""Reading recipes: shipped names and paths, ``extends``, overrides from the command line, and clear errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from sparsewright.training.by_method import BY_METHOD, chosen_method, merge_levels
from sparsewright.training.errors import RecipeError
from sparsewright.training.merging import Tree, apply_overrides
from sparsewright.training.recipe import Recipe
from sparsewright.training.recipe_errors import explain
from sparsewright.training.suggestions import nearest

RECIPES = Path(__file__).resolve().parents[1] / "recipes"

# Overrides that change nothing about the training.
_NOT_TRAINING = frozenset({"data.workers", "log_rank_every", "name", "summary"})

# What a file does not inherit from the one that it extends.
_OWN = frozenset({"name", "summary", "published"})

# What a section without a name means; pydantic cannot choose among kinds of optimizers without one.
_NAMED = {"optimizer": {"name": "sgd"}, "schedule": {"name": "constant"}}


@dataclass(frozen=True)
class RecipeInfo:
    """A shipped recipe: its name, one line about it, and its file."""

    name: str
    summary: str
    path: Path


class _Loader(yaml.SafeLoader):
    """YAML as people write it: 1e-4 is a number, and a key that is there twice is a mistake."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        assert node is not None
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(None, None, f"the key {key.value!r} is there twice", key.start_mark)
            seen.add((key.tag, key.value))
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^(?:[-+]?(?:\d+\.\d*|\.\d+|\d+(?=[eE]))(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"),
    list("-+0123456789."),
)


def parse_yaml(text: str) -> Any:
    """Reads one YAML value; raises RecipeError when it is not valid YAML, or a key is there twice."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        where = f" in line {mark.line + 1}" if mark is not None else ""
        what = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error).splitlines()[0]
        raise RecipeError(f"not valid YAML: {what}{where}") from error


@cache
def list_recipes() -> list[RecipeInfo]:
    """The shipped recipes, sorted by name."""
    files = sorted(RECIPES.rglob("*.yaml"))
    names = [path.relative_to(RECIPES).with_suffix("").as_posix() for path in files]
    return [
        RecipeInfo(name, str(_read_tree(path).get("summary", "")), path)
        for name, path in zip(names, files, strict=True)
    ]


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Loads a shipped recipe by name, or a YAML file by path, and applies overrides.

    Args:
        name_or_path: a name of ``list_recipes()`` such as ``cifar10/resnet50``, or the path of a YAML file.
        overrides: ``key=value`` or ``key.sub=value`` each, the value read as YAML, list entries by number
            (``stages.0.duration=2ep``); ``method=granet`` is short for ``method.name=granet``.

    Raises:
        RecipeError: no such recipe, a key that does not exist, or a value that is not allowed.
    """
    path, name = _find(name_or_path, Path())
    levels = [{**_NAMED, "name": name, "stages": [{"kind": "train"}]}, *_with_parents(path, ())]
    settings = [(key, parse_yaml(value)) for key, value in map(_split_override, overrides)]
    of_method = [(key, value) for key, value in settings if key in ("method", "method.name")]
    method = chosen_method(apply_overrides(merge_levels(levels), of_method))
    base = merge_levels(levels, method)
    tree = _mark_changed(apply_overrides(base, settings), base, settings)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"recipe {tree['name']}: {explain(error, tree)}") from error


def _split_override(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"an override is written key=value, got {text!r}")
    if (first := key.strip().split(".")[0]) in ("extends", BY_METHOD):
        raise RecipeError(
            f"{first} belongs into a recipe file and is no override, got {text!r}; name the recipe to start from in "
            "place of this one, or write a YAML file that extends it"
        )
    return key.strip(), value


def _mark_changed(tree: Tree, base: Tree, settings: Sequence[tuple[str, Any]]) -> Tree:
    """Published numbers with the overrides that they do not name themselves and that differ from the recipe's values,
    so that they never stand bare beside those of a run that trained otherwise.
    """
    if not isinstance(tree.get("published"), list):
        return tree
    changed = [(key, value) for key, value in settings if apply_overrides(base, [(key, value)]) != base]
    return {**tree, "published": [_with_changes(number, changed) for number in tree["published"]]}


def _with_changes(number: Any, changed: Sequence[tuple[str, Any]]) -> Any:
    if not isinstance(number, dict):
        return number
    named = {"sparsity"} & number.keys()
    if "method" in number:
        named |= {key for key, value in changed if key in ("method", "method.name") and isinstance(value, str)}
    keys = [key for key, _ in changed if key not in _NOT_TRAINING | named]
    return {**number, "changed": keys} if keys else number


def _find(name_or_path: str, folder: Path) -> tuple[Path, str]:
    shipped = RECIPES / f"{name_or_path}.yaml"
    if shipped.is_file() and RECIPES in shipped.resolve().parents:
        return shipped, name_or_path
    path = folder / name_or_path
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path, path.stem
    names = [file.relative_to(RECIPES).with_suffix("").as_posix() for file in sorted(RECIPES.rglob("*.yaml"))]
    raise RecipeError(
        f"there is no recipe {name_or_path!r} and no YAML file of that path{nearest(name_or_path, names)}"
    )


def _read_tree(path: Path) -> Tree:
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} cannot be read: {error}") from error
    except RecipeError as error:
        raise RecipeError(f"recipe {path} is {error}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"recipe {path} must be a mapping of keys to values")
    return tree


def _with_parents(path: Path, seen: tuple[Path, ...]) -> list[Tree]:
    """The file at ``path`` behind all those that it extends."""
    if path.resolve() in seen:
        raise RecipeError(f"recipe {path} extends itself by way of {', '.join(str(other) for other in seen)}")
    tree = _read_tree(path)
    parent = tree.pop("extends", None)
    if parent is None:
        return [tree]
    if not isinstance(parent, str):
        raise RecipeError(f"recipe {path}: extends must be the name or path of one recipe, got {parent!r}")
    parent_path, _ = _find(parent, path.parent)
    parents = _with_parents(parent_path, (*seen, path.resolve()))
    return [*({key: value for key, value in one.items() if key not in _OWN} for one in parents), tree]
