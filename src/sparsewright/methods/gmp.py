"""GMP: the sparsity rises along a cubic ramp, the smallest weights go, nothing comes back."""

from __future__ import annotations

from typing import Any, ClassVar

from sparsewright.dynamic import DynamicSparsifier
from sparsewright.options import MOVING, RAMP, SHARING

UNIFORM: dict[str, Any] = {"distribution": "uniform", "last_layer_density": 0.2}
_TIMES = ("update_interval", "update_end", "update_replaces_step")


class GMP(DynamicSparsifier):
    """Gradual magnitude pruning (Zhu and Gupta, arXiv 1710.01878).

    Starts dense. Between ``prune_start`` and ``prune_end`` the sparsity rises as a cubic, and every
    ``update_interval`` steps the weights of smallest magnitude are removed for good, over all layers jointly (preset
    "gmp") or with the same sparsity in each layer (preset "gmp-uniform", whose last layer keeps 20 % from a sparsity
    of 0.8 on, as in Gale et al., arXiv 1902.09574). ``initial_sparsity`` only says where the ramp starts.

    Unlike the code base that GraNet grew from, the ramp includes its end point and so reaches the target exactly, and
    no weight is lost to a strict comparison.
    """

    defaults: ClassVar = {**{name: MOVING[name] for name in _TIMES}, **RAMP, **SHARING, "distribution": "global"}

    @property
    def starts_dense(self) -> bool:
        """Always: the start of the ramp is not the start of the network."""
        return True
