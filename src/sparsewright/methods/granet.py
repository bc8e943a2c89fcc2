"""GraNet: a pruning ramp with zero-cost regrowth at every step of it."""

from __future__ import annotations

from typing import ClassVar

from sparsewright.dynamic import DynamicSparsifier
from sparsewright.options import MOVING, RAMP, SHARING


class GraNet(DynamicSparsifier):
    """Gradual pruning with zero-cost neuroregeneration (Liu et al., arXiv 2106.10404, algorithm 1).

    Between ``prune_start`` and ``prune_end`` the sparsity rises as a cubic by global magnitude pruning; after each
    pruning a fraction of each layer's weights is dropped and as many regrow where the gradient is largest. After the
    ramp only the exchange goes on, until ``update_end``. ``initial_sparsity=0`` is the paper's dense-to-sparse form,
    0.5 its sparse-to-sparse form, whose random start masks follow ``initial_distribution``. The preset
    "granet-uniform" prunes each layer by the same fraction instead, keeping 20 % of the last layer.

    Unlike the original code: the ramp includes its end point and so reaches the target exactly; no weight is lost to a
    strict comparison; start masks have exact counts; a layer that starts with fewer weights than a uniform ramp gives
    it regrows the difference by gradient and never turns dense by accident; nothing grows at the very last step.
    """

    defaults: ClassVar = {**MOVING, **RAMP, "initial_distribution": "erk", **SHARING, "distribution": "global"}
