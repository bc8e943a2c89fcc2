"""What a run starts from: the weights and masks of files, and a step of its schedule."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparsewright.checks import check_count, join_names
from sparsewright.export import is_hdf5, load_hdf5
from sparsewright.masks import MaskSet
from sparsewright.scope import named_parameters
from sparsewright.training.errors import RecipeError
from sparsewright.training.masks_file import MASKS, holds_masks, load_masks, refuse_masks
from sparsewright.training.method_options import DENSE
from sparsewright.training.progress import Progress
from sparsewright.training.recipe import Recipe
from sparsewright.training.shrinking import read_widths, take_widths
from sparsewright.training.weights import WEIGHTS, check_shape, fill_model, read_tensors


@dataclass(frozen=True)
class Start:
    """What a run starts from instead of a fresh network at step 0.

    Attributes:
        weights: a run folder, or a safetensors or HDF5 file with every parameter and buffer of the model; None for
            those that the seed gives.
        masks: a run folder that ended with masks, its masks.safetensors, or a file of weights, whose exact zeros over
            the default scope are taken. They are applied to the weights at once, and dense stages hold them.
        step: the optimizer step of the first stage's schedule to begin at, so that fewer steps are trained. The data
            are those that an uninterrupted run sees from that step on. The optimizer's state starts empty.
    """

    weights: Path | None = None
    masks: Path | None = None
    step: int = 0


@dataclass(frozen=True)
class StartRecord:
    """What run.json keeps of a start, and the step after which the run stops.

    Attributes:
        weights, masks: the paths as they were given, for people; they may move.
        weights_sha256, masks_sha256: of the files' content, which may not change.
        step: the first step.
        stop: the step of the schedule before which the run ends; None for the end of the schedule.
    """

    weights: str | None = None
    weights_sha256: str | None = None
    masks: str | None = None
    masks_sha256: str | None = None
    step: int = 0
    stop: int | None = None

    def content(self) -> str:
        """All that decides numbers, as text; empty for a run from step 0 of a fresh network to its end."""
        given = {key: value for key, value in asdict(self).items() if key not in ("weights", "masks")}
        default = asdict(NO_START)
        changed = {key: value for key, value in given.items() if value != default[key]}
        return json.dumps(changed, sort_keys=True) if changed else ""

    def difference(self, other: StartRecord) -> str:
        """How ``other`` starts or stops otherwise, such as ``stop 3, not 4``; empty where it does not."""
        for kind in ("weights", "masks"):
            if getattr(self, f"{kind}_sha256") != getattr(other, f"{kind}_sha256"):
                return f"{self._described(kind)}, not {other._described(kind)}"
        for key in ("step", "stop"):
            if getattr(self, key) != getattr(other, key):
                return f"{key} {getattr(self, key)}, not {getattr(other, key)}"
        return ""

    def _described(self, kind: str) -> str:
        path, digest = getattr(self, kind), getattr(self, f"{kind}_sha256")
        return f"{kind} {path} (sha256 {digest[:12]})" if path is not None else f"no start from {kind}"


_HAVE_MASKS = (
    f"give the folder of a run that made its network sparse, the {MASKS} in one, or a file of weights with exact zeros"
)

FROM_SEED = Start()
NO_START = StartRecord()


def check_start(recipe: Recipe, start: Start, stop: int | None) -> None:
    """Refuses what the recipe alone shows to be wrong.

    Raises:
        RecipeError: masks together with a stage that makes its own, a step where the first stage is not dense
            training, or ``stop`` with any recipe but one dense train stage.
        TypeError, ValueError: a step that is no whole number of at least 0.
    """
    stages = recipe.resolved_stages()
    makes_sparse = [stage.name for stage in stages if stage.needs_sparsity]
    if start.masks is not None and makes_sparse:
        raise RecipeError(
            f"recipe {recipe.name}: stage {makes_sparse[0]} makes masks of its own, which would replace those that the "
            "run starts with; leave the masks out, or train with method dense, which holds them"
        )
    trains_dense = stages[0].kind == "train" and stages[0].method.name == DENSE
    if check_count(start.step, "step", least=0) and not trains_dense:
        raise RecipeError(
            f"recipe {recipe.name}: a run begins at step {start.step} only where its first stage is dense training; "
            f"stage {stages[0].name} is of kind {stages[0].kind}, method {stages[0].method.name}"
        )
    if stop is not None:
        check_count(stop, "stop", least=start.step)
        if not trains_dense or len(stages) > 1:
            names = ", ".join(f"{stage.name} ({stage.kind}, {stage.method.name})" for stage in stages)
            raise RecipeError(f"recipe {recipe.name}: stop needs a recipe of one dense train stage; it has {names}")


def check_steps(start: Start, stop: int | None, total: int) -> None:
    """Raises ValueError where ``start`` or ``stop`` lies outside the ``total`` steps of the first stage."""
    if start.step and start.step >= total:
        raise ValueError(f"step {start.step} must be below the {total} optimizer steps of the first stage")
    if stop is not None and stop > total:
        raise ValueError(f"stop {stop} must be at most the {total} optimizer steps of the stage")


def record_start(start: Start, stop: int | None, known: StartRecord | None = None) -> StartRecord:
    """What to keep of a start.

    Args:
        start: the start.
        stop: the step before which the run ends, or None.
        known: of a run to resume that no longer needs its files: one that is gone counts as unchanged.

    Raises:
        FileNotFoundError: a file is not there.
    """
    return StartRecord(
        weights=_text(start.weights),
        weights_sha256=_digest(start.weights, WEIGHTS, known and (known.weights, known.weights_sha256)),
        masks=_text(start.masks),
        masks_sha256=_digest(start.masks, MASKS, known and (known.masks, known.masks_sha256)),
        step=start.step,
        stop=stop,
    )


def begin(start: Start, model: nn.Module, steps_per_epoch: int) -> Progress:
    """Fills ``model`` with the weights and masks of ``start`` and returns the progress to train on from.

    Where the weights are of a network that was shrunk, the model is made as small as that first.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file is damaged or does not fit the model, or the masks keep no weight.
    """
    epoch = start.step // steps_per_epoch
    progress = Progress(step=start.step, epoch=epoch, skipped_epochs=epoch)
    if start.weights is not None:
        path = _file(start.weights, WEIGHTS)
        progress.widths = read_widths(path)
        take_widths(model, progress.widths, path)
        fill_model(model, _read_weights(path), path)
    if start.masks is not None:
        masks = _read_masks(_file(start.masks, MASKS), model)
        masks.apply(model)
        progress.masks = dict(masks)
    return progress


def _read_weights(path: Path) -> dict[str, Tensor]:
    if is_hdf5(path):
        return load_hdf5(path)
    refuse_masks(path)
    return read_tensors(path)


def _read_masks(path: Path, model: nn.Module) -> MaskSet:
    of_weights = is_hdf5(path) or not holds_masks(path)
    masks = _zeros(path, model) if of_weights else load_masks(path)
    _check_masks(path, masks, model)
    return masks


def _zeros(path: Path, model: nn.Module) -> MaskSet:
    pruned = copy.deepcopy(model)
    fill_model(pruned, _read_weights(path), path)
    masks = MaskSet.from_zeros(pruned)
    if masks.kept() == masks.total():
        raise ValueError(f"{path} has no exact zero in any layer, so there are no masks to take from it; {_HAVE_MASKS}")
    return masks


def _check_masks(path: Path, masks: MaskSet, model: nn.Module) -> None:
    parameters = named_parameters(model)
    if unexpected := masks.keys() - parameters.keys():
        names = join_names(sorted(unexpected))
        raise ValueError(f"{path} does not fit the recipe's model, which has no {names}")
    for name, mask in masks.items():
        check_shape(path, name, mask, parameters[name])
    if masks.kept() == 0:
        raise ValueError(f"the masks of {path} keep no weight at all")


def _file(target: Path, name: str) -> Path:
    """``target``, or the file of that name in it where it is a run folder."""
    target = Path(target)
    path = target / name if target.is_dir() else target
    if path.is_file():
        return path
    hint = ""
    if target.is_dir() and name == WEIGHTS and (target / MASKS).is_file():
        hint = "; the run there has lost its weights"
    elif target.is_dir() and (target / WEIGHTS).is_file():
        hint = f"; the run there ended without masks, as one of a dense network does; {_HAVE_MASKS}"
    elif target.is_dir():
        hint = "; it is no run folder, or its run is not finished"
    raise FileNotFoundError(f"there is no {path}{hint}")


def _digest(target: Path | None, name: str, known: tuple[str | None, str | None] | None) -> str | None:
    if target is None:
        return None
    try:
        return hashlib.sha256(_file(target, name).read_bytes()).hexdigest()
    except FileNotFoundError:
        if known is not None and known[0] == str(target):
            return known[1]
        raise


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
