"""RigL: drop by magnitude, grow by gradient, at constant sparsity."""

from __future__ import annotations

from typing import Any, ClassVar

from sparsewright.dynamic import DynamicSparsifier
from sparsewright.options import MOVING, SHARING

ITOP: dict[str, Any] = {
    "update_interval": 1000,
    "update_end": 1.0,
    "update_replaces_step": False,
    "drop_fraction": 0.5,
    "min_drop_fraction": 0.005,
    "drop_rounding": "up",
}


class RigL(DynamicSparsifier):
    """Rigging the Lottery (Evci et al., arXiv 1911.11134).

    Starts from random masks at the final sparsity. Every ``update_interval`` steps each layer drops its smallest
    weights and grows as many connections where the gradient of the loss is largest. As in the paper's algorithm 1 an
    update replaces the optimizer step, and the topology is frozen after three quarters of the run.

    The preset "rigl-itop" holds the settings of In-Time Over-Parameterization (Liu et al., arXiv 2102.02887): longer
    intervals, a larger drop fraction, updates until the end, and beside the optimizer step rather than instead of it.
    Unlike that code, start masks have exact counts, and nothing grows at the very last step, where it could not train.
    """

    defaults: ClassVar = {
        **MOVING,
        **SHARING,
        "update_interval": 100,
        "update_end": 0.75,
        "update_replaces_step": True,
        "drop_fraction": 0.3,
        "min_drop_fraction": 0.0,
        "drop_rounding": "down",
    }
