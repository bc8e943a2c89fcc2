"""The runs of a comparison: where they are, and what of each counts."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsewright.distribution import kept_budget
from sparsewright.formats import ratios
from sparsewright.groups import number_removed
from sparsewright.report.record_checks import check_settings, check_summary
from sparsewright.report.run_facts import asked_for, last_sparse_stage, published_number, uncounted_start
from sparsewright.training.folder import LOG, RECIPE, SETTINGS, SUMMARY, RunSettings, read_settings, read_summary
from sparsewright.training.method_options import granularity, one_shot_methods
from sparsewright.training.published_results import Published
from sparsewright.training.recipe import Recipe
from sparsewright.training.recipe_files import load_recipe
from sparsewright.training.start import NO_START, StartRecord

_NEEDED = (
    *("method", "seed", "test_accuracy", "target_sparsity", "sparsity", "parameters", "kept_parameters", "layers"),
    *("inference_flops_dense", "inference_flops_sparse", "training_flops_dense", "training_flops_sparse"),
)


@dataclass(frozen=True)
class ComparedRun:
    """A finished run.

    Attributes:
        folder: the run folder.
        recipe: its recipe.
        settings: the content of run.json; None where there is none.
        summary: the content of summary.json.
    """

    folder: Path
    recipe: Recipe
    settings: RunSettings | None
    summary: dict[str, Any]

    @property
    def seed(self) -> int:
        """Of everything random in it."""
        return self.summary["seed"]

    @property
    def start(self) -> StartRecord:
        """What it was started from."""
        return self.settings.start if self.settings is not None else NO_START

    @property
    def uncounted_start(self) -> str:
        """What it began with that its training FLOPs leave out, such as "weights and masks"; empty for nothing."""
        return uncounted_start(self.recipe, self.start)

    @property
    def images(self) -> str:
        """The images that its accuracy is measured on."""
        data = self.recipe.data
        return f"{data.name}, " + (f"{data.validation:,} validation images" if data.validation else "test images")

    @property
    def target(self) -> Any:
        """The sparsity that was asked for: a number, or ratios by pattern or stage; None for dense."""
        return asked_for(self.recipe, self.summary)

    @property
    def shrunk(self) -> bool:
        """Whether filters or channels were taken out of the network."""
        return self.summary.get("shrunk", False)

    @property
    def kept_parameters(self) -> int:
        """Parameters that are left: neither masked nor taken out."""
        return self.summary["kept_parameters"]

    @property
    def dense_parameters(self) -> int:
        """Parameters of the network before anything was removed."""
        return self.summary.get("parameters_dense", self.summary["parameters"])

    @property
    def published(self) -> Published | None:
        """The number from the literature that the recipe names for this method and sparsity."""
        return published_number(self.recipe, self.summary["method"], self.target)

    def missed_target(self) -> str | None:
        """How far it is from the sparsity that was asked for; None where it has what the method promises.

        GReg, and pruning of filters or channels, remove whole groups per layer, so that of them only layers can be told
        that have less than the one share asked for; shares by pattern or stage are not looked at layer by layer. All
        others keep exactly ``round((1 - sparsity) * n)`` of n weights.
        """
        stage = last_sparse_stage(self.recipe)
        if stage is None:
            return None
        if self.summary.get("not_removed"):
            return f"a part of what was to be removed is still there in {len(self.summary['not_removed'])} layers"
        if self.shrunk:
            return None
        if asks_for_zeros(stage.sparsity) and self.summary["kept_parameters"] == self.summary["parameters"]:
            return f"no weight was removed, and {ratios(stage.sparsity)} asked for"
        if not isinstance(stage.sparsity, float):
            return None
        kind = granularity(stage.method.name, self.recipe.method_options(stage))
        if kind is None or (kind == "weight" and stage.method.name in one_shot_methods()):
            return _missed_count(stage.sparsity, self.summary)
        return _missed_layers(stage.sparsity, kind, self.summary)


@dataclass(frozen=True)
class LeftOut:
    """A folder that is not in the comparison, and why."""

    folder: Path
    reason: str


def find_runs(paths: Iterable[Path]) -> list[Path]:
    """The run folders that ``paths`` name, each once: themselves, or all those below a folder that is none.

    Raises:
        FileNotFoundError: a path is not there.
        ValueError: it is no folder, or there is no run below it.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"there is no run folder {path}")
        if not path.is_dir():
            raise ValueError(f"{path} is no run folder, and no folder of run folders")
        below = [path] if _is_run(path) else sorted(file.parent for name in (RECIPE, LOG) for file in path.rglob(name))
        if not below:
            raise ValueError(f"{path} holds no run: there is no {RECIPE} in or below it")
        for folder in below:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def read_runs(folders: Sequence[Path]) -> tuple[list[ComparedRun], list[LeftOut]]:
    """The finished runs, and those that are not, were stopped on the way on purpose, or cannot be read."""
    runs: list[ComparedRun] = []
    left_out: list[LeftOut] = []
    for folder in folders:
        try:
            run = _read_run(folder)
        except (OSError, ValueError) as error:
            # The folder stands before the reason.
            left_out.append(LeftOut(folder, str(error).replace(f"{folder}{os.sep}", "")))
            continue
        if run.start.stop is not None:
            left_out.append(LeftOut(folder, f"it was to stop before step {run.start.stop:,}, and is no whole training"))
        elif run.summary["test_accuracy"] is None:
            left_out.append(LeftOut(folder, "its network was not evaluated"))
        else:
            runs.append(run)
    return runs, left_out


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (RECIPE, LOG))


def _read_run(folder: Path) -> ComparedRun:
    if not (folder / RECIPE).is_file():
        raise ValueError(f"it has not begun, or failed before that; {LOG} in it says more")
    if not (folder / SUMMARY).is_file():
        raise ValueError("it is not finished")
    settings = read_settings(folder) if (folder / SETTINGS).is_file() else None
    if settings is not None:
        check_settings(folder, settings)
    summary = read_summary(folder)
    check_summary(folder, summary, _NEEDED)
    return ComparedRun(folder, load_recipe(str(folder / RECIPE)), settings, summary)


def asks_for_zeros(sparsity: Any) -> bool:
    """Whether a sparsity, or any of several ratios, is above 0."""
    if isinstance(sparsity, Mapping):
        return any(ratio > 0 for ratio in sparsity.values())
    return any(ratio > 0 for ratio in sparsity) if isinstance(sparsity, (list, tuple)) else bool(sparsity)


def _missed_count(target: float, summary: dict[str, Any]) -> str | None:
    pruned = summary["parameters"] - summary["kept_parameters"]
    if not pruned:
        return None
    # The summary has no count of the weights in scope, but this is it: sparsity is pruned over scope.
    scope = round(pruned / summary["sparsity"])
    kept, promised = scope - pruned, kept_budget(target, scope)
    return None if kept == promised else f"kept {kept:,} of {scope:,} weights, not {promised:,}"


def _missed_layers(target: float, kind: str, summary: dict[str, Any]) -> str | None:
    # Layers that cannot lose groups alone are left whole, by the rules of the methods.
    short = [
        name
        for name, layer in summary["layers"].items()
        if 0 < layer["sparsity"] < _promised_share(target, kind, layer["shape"]) - 1e-6
    ]
    return f"{len(short)} layers have less than asked for, such as {short[0]}" if short else None


def _promised_share(target: float, kind: str, shape: Sequence[int]) -> float:
    groups = math.prod(shape) if kind == "weight" else shape[0 if kind == "filter" else 1]
    return number_removed(target, groups) / groups
