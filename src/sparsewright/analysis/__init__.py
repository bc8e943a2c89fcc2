"""What a sparse network is and costs: FLOPs, layer tables, exploration. Model-agnostic; needs torch only."""

from __future__ import annotations

from sparsewright.analysis.flops import inference_flops, layer_flops, training_flops_per_step
from sparsewright.analysis.itop import ExplorationTracker
from sparsewright.analysis.table import LayerRow, layer_table, table_totals

__all__ = [
    "ExplorationTracker",
    "LayerRow",
    "inference_flops",
    "layer_flops",
    "layer_table",
    "table_totals",
    "training_flops_per_step",
]
