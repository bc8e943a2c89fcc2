"""The result of a finished run, read from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sparsewright.export.sparse import FORMAT, SPARSE_SUFFIX, load_sparse, read_sparse_metadata
from sparsewright.training.folder import RECIPE, SETTINGS, SUMMARY, WEIGHTS, RunSettings, read_settings, read_summary
from sparsewright.training.masks_file import refuse_masks
from sparsewright.training.opening import create_recipe_model
from sparsewright.training.recipe import Recipe
from sparsewright.training.recipe_files import load_recipe
from sparsewright.training.shrinking import WIDTHS, take_widths
from sparsewright.training.weights import fill_model, load_weights, read_metadata


@dataclass(frozen=True)
class LoadedRun:
    """A finished run in memory.

    Attributes:
        model: the final model on the CPU, in evaluation mode.
        recipe: its recipe.
        summary: the content of summary.json, or None where there is none beside the weights.
        facts: what of the data the network depends on, and the widths of one that was shrunk.
        settings: the content of run.json, or None where there is none beside the weights.
    """

    model: nn.Module
    recipe: Recipe
    summary: dict[str, Any] | None
    facts: Mapping[str, Any]
    settings: RunSettings | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        return (self.facts["in_channels"], self.facts["image_size"], self.facts["image_size"])

    @property
    def shrunk(self) -> bool:
        """Whether filters or channels were taken out of the recipe's network."""
        return WIDTHS in self.facts

    def dense_network(self) -> nn.Module:
        """The recipe's network before anything was removed, with fresh weights, on the CPU in evaluation mode."""
        return create_recipe_model(self.recipe, self.facts, seed=0, load_weights=False).eval()


def load_run(target: Path) -> LoadedRun:
    """Loads the final model of a run.

    Args:
        target: a run folder, or a model.safetensors or sparse file beside a recipe.yaml.

    Raises:
        FileNotFoundError: there is no such run, or it is not finished.
        ValueError: its files are damaged or do not fit each other.
    """
    target = Path(target)
    weights = target / WEIGHTS if target.is_dir() else target
    folder = weights.parent
    if not weights.is_file():
        raise FileNotFoundError(f"there is no {weights}{unfinished(weights)}")
    sparse = weights.suffix == SPARSE_SUFFIX
    if not sparse:
        _refuse_other_formats(weights)
    if not (folder / RECIPE).is_file():
        raise FileNotFoundError(f"there is no {RECIPE} beside {weights}, which says what model it is")
    recipe = load_recipe(str(folder / RECIPE))
    facts = read_sparse_metadata(weights) if sparse else read_metadata(weights)
    if facts.get("format") == FORMAT:
        # A sparse file is a safetensors file, and may be called that.
        sparse, facts = True, read_sparse_metadata(weights)
    model = create_recipe_model(recipe, facts, seed=None, load_weights=False)
    take_widths(model, facts.get(WIDTHS), weights)
    if sparse:
        fill_model(model, load_sparse(weights), weights)
    else:
        load_weights(weights, model)
    summary = read_summary(folder) if (folder / SUMMARY).is_file() else None
    settings = read_settings(folder) if (folder / SETTINGS).is_file() else None
    return LoadedRun(model.eval(), recipe, summary, facts, settings)


def unfinished(weights: Path) -> str:
    """The end of a sentence about weights that are missing: that the run there is not finished, if that is why."""
    folder = weights.parent
    begun = weights.name == WEIGHTS and (folder / RECIPE).is_file() and not (folder / SUMMARY).is_file()
    return "; the run there is not finished, go on with --resume" if begun else ""


def _refuse_other_formats(weights: Path) -> None:
    try:
        refuse_masks(weights)
    except ValueError as error:
        if weights.suffix == Path(WEIGHTS).suffix:
            raise
        what = (
            f"a run folder, the {WEIGHTS} or a {SPARSE_SUFFIX} file in one, or, by inspect, an HDF5 file (.hdf5, .h5)"
        )
        published = "other checkpoints can be evaluated with eval --model NAME --weights FILE --data NAME"
        raise ValueError(f"{error}; what is read is {what}; {published}") from error
