"""What a sparse network is and costs: FLOPs, layer tables, ranks, exploration. Model-agnostic; needs torch only."""

from __future__ import annotations

from sparsewright.analysis.flops import inference_flops, layer_flops, training_flops_per_step
from sparsewright.analysis.itop import ExplorationTracker
from sparsewright.analysis.latency import Latency, measure_latency
from sparsewright.analysis.rank import (
    DecompositionError,
    RankAverages,
    RankRow,
    Ranks,
    effective_rank,
    energy_rank,
    numerical_rank,
    rank_averages,
    rank_rows,
    rank_table,
    singular_values,
    stable_rank,
)
from sparsewright.analysis.table import LayerRow, layer_table, table_totals

__all__ = [
    "DecompositionError",
    "ExplorationTracker",
    "Latency",
    "LayerRow",
    "RankAverages",
    "RankRow",
    "Ranks",
    "effective_rank",
    "energy_rank",
    "inference_flops",
    "layer_flops",
    "layer_table",
    "measure_latency",
    "numerical_rank",
    "rank_averages",
    "rank_rows",
    "rank_table",
    "singular_values",
    "stable_rank",
    "table_totals",
    "training_flops_per_step",
]
