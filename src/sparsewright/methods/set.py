"""SET: drop what is nearest to zero, grow at random."""

from __future__ import annotations

from typing import ClassVar

from sparsewright.dynamic import DynamicSparsifier
from sparsewright.options import MOVING, SHARING


class SET(DynamicSparsifier):
    """Sparse Evolutionary Training (Mocanu et al., arXiv 1707.04780, algorithm 1).

    Starts from random masks at the final sparsity. Every ``update_interval`` steps each layer drops the same fraction
    of its smallest positive and of its largest negative weights and grows as many connections at random.
    """

    defaults: ClassVar = {**MOVING, **SHARING, "drop": "set", "grow": "random"}
