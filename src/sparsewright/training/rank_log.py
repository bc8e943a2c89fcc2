"""Ranks of a model's weights for the logs of its run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from sparsewright.analysis.rank import DecompositionError, RankRow, rank_averages, rank_table
from sparsewright.training.loop import TrainingError

PREFIX = "rank_"
"""What the keys of ranks in a line of metrics begin with."""


def passes_multiple(before: int, now: int, interval: int) -> bool:
    """Whether a multiple of ``interval`` lies above ``before`` and not above ``now``, all in steps."""
    return now // interval > before // interval


def measure_ranks(model: nn.Module) -> list[RankRow]:
    """The ranks of every weight; none where a decomposition fails, with a warning.

    The model is only read, and no random number is drawn.

    Raises:
        TrainingError: a weight is not finite.
        ValueError: the model has no Linear layer or convolution.
    """
    try:
        return rank_table(model)
    except ValueError as error:
        raise TrainingError(f"training diverged: {error}") from error
    except DecompositionError as error:
        # Training does not need the figure.
        warnings.warn(f"the ranks are left out of the metrics: {error}", stacklevel=2)
        return []


def average_ranks(rows: Sequence[RankRow]) -> dict[str, float]:
    """Means over the layers, by the key in a line of metrics; empty without rows.

    ``rank_numerical``, ``rank_energy_90``, ``rank_energy_95``, ``rank_energy_99``, ``rank_stable`` and
    ``rank_effective`` are means of ranks, ``rank_numerical_ratio`` is that of the numerical rank over the full one.
    """
    if not rows:
        return {}
    averages = rank_averages(rows)
    ranks = {f"{PREFIX}{kind}": value for kind, value in asdict(averages.ranks).items()}
    return {**ranks, f"{PREFIX}numerical_ratio": averages.ratios.numerical}


def logged_ranks(line: Mapping[str, Any]) -> dict[str, float]:
    """The ranks in a line of metrics; empty where none were measured."""
    return {key: value for key, value in line.items() if key.startswith(PREFIX)}
