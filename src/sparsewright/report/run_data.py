"""What a run folder holds for a report, whether the run is finished or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsewright.masks import MaskSet
from sparsewright.report.record_checks import check_layer_log, check_metrics, check_settings, check_summary
from sparsewright.report.run_facts import asked_for, last_sparse_stage, published_number, uncounted_start
from sparsewright.training import LoadedRun, Recipe, load_masks, load_recipe, load_run, read_metrics
from sparsewright.training.folder import METRICS, RECIPE, SETTINGS, SUMMARY, RunSettings, read_settings, read_summary
from sparsewright.training.layer_log import LayerLog, read_layer_log
from sparsewright.training.masks_file import MASKS
from sparsewright.training.method_options import DENSE
from sparsewright.training.published_results import Published
from sparsewright.training.start import NO_START

_NEEDED = (
    *("method", "target_sparsity", "sparsity", "test_accuracy", "epochs", "steps"),
    *("parameters", "nonzero_parameters", "train_seconds"),
)
"""What summary.json has had since the first version."""


@dataclass(frozen=True)
class RunData:
    """A run as its folder tells it.

    Attributes:
        folder: the run folder.
        recipe: its recipe.
        recipe_text: the content of recipe.yaml.
        settings: the content of run.json; None where there is none.
        lines: metrics, one per epoch and one per prune, shrink or evaluate stage; empty before the first.
        log: of topology and ranks.
        loaded: the final network; None while the run is not finished.
        masks: the final masks; None where the run is not finished, or ended without.
    """

    folder: Path
    recipe: Recipe
    recipe_text: str
    settings: RunSettings | None
    lines: Sequence[Mapping[str, Any]]
    log: LayerLog
    loaded: LoadedRun | None
    masks: MaskSet | None

    @property
    def summary(self) -> Mapping[str, Any] | None:
        """The content of summary.json; None while the run is not finished."""
        return self.loaded.summary if self.loaded is not None else None

    @property
    def masks_missing(self) -> bool:
        """Whether the run ended with masks that are not in its folder any more."""
        return self.masks is None and self.summary is not None and self.summary["sparsity"] > 0

    @property
    def last_line(self) -> Mapping[str, Any]:
        """The newest metrics; empty before the first."""
        return self.lines[-1] if self.lines else {}

    @property
    def method(self) -> str:
        """What makes, or made, the network sparse."""
        if self.summary is not None:
            return str(self.summary["method"])
        stage = last_sparse_stage(self.recipe)
        return DENSE if stage is None else stage.method.name

    @property
    def target(self) -> Any:
        """The sparsity that was asked for: a number, or ratios by pattern or stage; None for dense."""
        return asked_for(self.recipe, self.summary)

    @property
    def published(self) -> Published | None:
        """The number from the literature that the recipe names for this method and sparsity."""
        return published_number(self.recipe, self.method, self.target)

    @property
    def uncounted_start(self) -> str:
        """What it began with that its training FLOPs leave out, such as "weights and masks"; empty for nothing."""
        return uncounted_start(self.recipe, self.settings.start if self.settings is not None else NO_START)

    @property
    def tested_on(self) -> str:
        """ "test", or "validation" where the recipe splits images off the training set."""
        return "validation" if self.recipe.data.validation else "test"


def read_run(folder: Path) -> RunData:
    """Everything a report can show of the run in ``folder``.

    Raises:
        FileNotFoundError: no such folder, or no run in it.
        NotADirectoryError: a file.
        ValueError: one of its files is damaged.
    """
    _check_folder(folder)
    finished = (folder / SUMMARY).is_file()
    if finished:
        check_summary(folder, read_summary(folder), _NEEDED)
    run = RunData(
        folder=folder,
        recipe=load_recipe(str(folder / RECIPE)),
        recipe_text=(folder / RECIPE).read_text(encoding="utf-8"),
        settings=read_settings(folder) if (folder / SETTINGS).is_file() else None,
        lines=read_metrics(folder) if (folder / METRICS).is_file() else [],
        log=read_layer_log(folder),
        loaded=load_run(folder) if finished else None,
        masks=load_masks(folder / MASKS) if finished and (folder / MASKS).is_file() else None,
    )
    check_metrics(folder, run.lines)
    check_layer_log(folder, run.log)
    if run.settings is not None:
        check_settings(folder, run.settings)
    return run


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise NotADirectoryError(f"{folder} is a file and no run folder")
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no run folder {folder}")
    if (folder / RECIPE).is_file():
        return
    below = min((file.parent for file in folder.rglob(RECIPE)), default=None)
    hint = f"; choose one below it, such as {below}, or compare them with: sparsewright compare {folder}"
    raise FileNotFoundError(f"{folder} holds no run: there is no {RECIPE} in it{'' if below is None else hint}")
