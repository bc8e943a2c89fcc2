"""Which runs a sweep consists of: every combination of the grid, checked before any of them starts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsewright.checks import check_seed
from sparsewright.sweep.grid import SEED, combinations, parse_axes
from sparsewright.training.errors import RecipeError
from sparsewright.training.folder import run_digest
from sparsewright.training.method_options import DENSE
from sparsewright.training.recipe import Recipe
from sparsewright.training.recipe_files import load_recipe, parse_yaml

_METHOD = ("method", "method.name")
_SPARSITY = "sparsity"
LONGEST_NAME = 100


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        settings: what was chosen for it, by key as written; without the seed.
        overrides: the same as ``key=value`` for ``load_recipe``.
        seed: of the run.
        recipe: with the overrides applied.
        digest: of settings and seed.
        folder: of the run.
    """

    settings: Mapping[str, str]
    overrides: tuple[str, ...]
    seed: int
    recipe: Recipe
    digest: str
    folder: Path


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep.

    Attributes:
        recipe: the name or path that all start from.
        root: the folder of the run folders.
        varied: the keys with more than one value, in the order in which they were given.
        cells: the runs, each once.
        same: combinations left out because they stand for a run that is among the cells already.
    """

    recipe: str
    root: Path
    varied: tuple[str, ...]
    cells: tuple[Cell, ...]
    same: tuple[str, ...]

    def name_of(self, cell: Cell) -> str:
        """The settings of ``cell`` that are not the same in the whole grid, as they would be typed."""
        values = {**cell.settings, SEED: str(cell.seed)}
        return " ".join(f"{key}={values[key]}" for key in self.varied or (SEED,) if key in values)


def plan_sweep(recipe: str, settings: Sequence[str], root: Path | None = None) -> Sweep:
    """Loads the recipe once for every combination.

    Among several methods, ``dense`` takes no sparsity and no option of a method: those are left out of its runs, and
    what is the same run then is in the plan once.

    Args:
        recipe: a name or path for ``load_recipe``.
        settings: ``key=value`` or ``key=a,b,c`` each; ``seed`` is the seed of the runs.
        root: where the run folders go; None for ``runs/sweep-RECIPE``. A run that is there already is found by the
            digest at the end of its folder's name.

    Raises:
        RecipeError: the grid is not well-formed, a seed is none, there is no such recipe or it is wrong by itself, or
            it does not take a combination, which is named.
    """
    axes = parse_axes(settings)
    several_methods = any(axis.key in _METHOD and len(axis.values) > 1 for axis in axes)
    cells: dict[str, Cell] = {}
    same: list[str] = []
    for combination in combinations(axes):
        cell = _make_cell(recipe, combination, root, several_methods)
        if cell.digest in cells:
            same.append(_as_text(combination))
        else:
            cells[cell.digest] = cell
    varied = tuple(axis.key for axis in axes if len(axis.values) > 1)
    planned = tuple(cells.values())
    return Sweep(recipe, planned[0].folder.parent, varied, planned, tuple(same))


def _make_cell(name: str, combination: Mapping[str, str], root: Path | None, several_methods: bool) -> Cell:
    settings = {key: value for key, value in combination.items() if key != SEED}
    seed = _read_seed(combination[SEED])
    try:
        recipe, settings, overrides = _load(name, settings, several_methods)
    except RecipeError as error:
        if str(error) == _problem_without_settings(name):
            raise
        raise RecipeError(f"{_as_text(combination)}: {error}") from error
    digest = run_digest(recipe, seed)
    folder = root if root is not None else Path("runs") / f"sweep-{recipe.name.replace('/', '-')}"
    return Cell(settings, overrides, seed, recipe, digest, _run_folder(folder, settings, seed, digest))


def _read_seed(written: str) -> int:
    try:
        return check_seed(parse_yaml(written))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{SEED}={written}: {error}; several seeds are written {SEED}=0,1,2") from error


def _problem_without_settings(name: str) -> str | None:
    """What is wrong with the recipe whatever the combination; None if nothing is."""
    try:
        load_recipe(name)
    except RecipeError as error:
        return str(error)
    return None


def _load(name: str, settings: dict[str, str], several_methods: bool) -> tuple[Recipe, dict[str, str], tuple[str, ...]]:
    """The recipe, the settings that it took and their overrides."""
    if not (several_methods and _method_of(settings) == DENSE):
        overrides = _overrides(settings)
        return load_recipe(name, overrides), settings, overrides
    taken = {key: value for key, value in settings.items() if key in _METHOD or not key.startswith("method.")}
    plain = {key: value for key, value in taken.items() if key != _SPARSITY}
    # A recipe whose stages prune by themselves needs the sparsity with method dense too, and others refuse it, be it
    # from the grid or their own.
    refused: RecipeError | None = None
    for own, further in ((taken, ()), (plain, ()), (plain, (f"{_SPARSITY}=null",))):
        overrides = (*_overrides(own), *further)
        try:
            return load_recipe(name, overrides), own, overrides
        except RecipeError as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _method_of(settings: Mapping[str, str]) -> Any:
    for key in _METHOD:
        if key in settings:
            value = parse_yaml(settings[key])
            return value.get("name") if isinstance(value, dict) else value
    return None


def _overrides(settings: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in settings.items())


def _as_text(combination: Mapping[str, str]) -> str:
    return " ".join(_overrides(combination))


def _run_folder(root: Path, settings: Mapping[str, str], seed: int, digest: str) -> Path:
    """The folder of the run that is there under any name, or a new one that says what the run is."""
    there = sorted(path for path in root.glob(f"*-{digest}") if path.is_dir())
    return there[0] if there else root / f"{_readable(settings, seed)}-{digest}"


def _readable(settings: Mapping[str, str], seed: int) -> str:
    first = [settings[key] for key in (*_METHOD, _SPARSITY) if key in settings]
    others = [f"{key}={value}" for key, value in settings.items() if key not in (*_METHOD, _SPARSITY)]
    words = (re.sub(r"[^A-Za-z0-9._=]+", "-", part).strip("-.") for part in [*first, *others])
    return "-".join([*filter(None, ["-".join(filter(None, words))[:LONGEST_NAME].strip("-.")]), f"seed{seed}"])
