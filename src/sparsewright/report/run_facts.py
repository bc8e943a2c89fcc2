"""What the report of a run and a comparison of runs both say of it, in one way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsewright.training.method_options import DENSE
from sparsewright.training.published_results import Published
from sparsewright.training.recipe import Recipe, Stage
from sparsewright.training.start import StartRecord


def last_sparse_stage(recipe: Recipe) -> Stage | None:
    """The stage that decides how sparse the network ends; None of a dense run, or one that holds masks of others."""
    stages = [stage for stage in recipe.resolved_stages() if stage.needs_sparsity]
    return stages[-1] if stages else None


def asked_for(recipe: Recipe, summary: Mapping[str, Any] | None) -> Any:
    """The sparsity that was asked for: a number, or ratios by pattern or stage; None for dense.

    Args:
        recipe: of the run.
        summary: the content of its summary.json; None while it is not finished.
    """
    if summary is not None:
        return None if summary["method"] == DENSE else summary["target_sparsity"]
    stage = last_sparse_stage(recipe)
    return None if stage is None else stage.sparsity


def published_number(recipe: Recipe, method: str, target: Any) -> Published | None:
    """The number from the literature that ``recipe`` names for a method and what was asked for; None without one."""
    return recipe.published_for(method, target if isinstance(target, float) else None)


def published_sentence(published: Published) -> str:
    """Where a published number comes from, and what was not as its authors had it."""
    changed = f"; ours has another {', '.join(published.changed)}" if published.changed else ""
    return f"published {published.accuracy:.2f} %: {published.source}{changed}"


def uncounted_start(recipe: Recipe, start: StartRecord) -> str:
    """What a run began with that its own training FLOPs leave out, such as "weights and masks"; empty for nothing."""
    pretrained = "@" in recipe.model.name or recipe.model.options.get("pretrained") is True
    given = {"weights": start.weights is not None or pretrained, "masks": start.masks is not None}
    return " and ".join(kind for kind, there in given.items() if there)


def counted(number: int, noun: str) -> str:
    """So many of something, such as "1 run" or "1,200 runs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
