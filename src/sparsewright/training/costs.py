"""FLOPs of training, added up step by step while the topology moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from sparsewright.analysis.flops import training_flops_per_step
from sparsewright.training.method_options import default_options

DenseGradient = Literal["never", "updates", "always"]


def dense_gradient_need(method: str, options: Mapping[str, Any]) -> DenseGradient:
    """When a method with these options looks at gradients of masked weights."""
    effective = {**default_options(method), **options}
    if "momentum" in (effective.get("grow"), effective.get("redistribute")):
        return "always"
    return "updates" if effective.get("grow") == "gradient" else "never"


class TrainingCost:
    """Counts as the appendix of RigL does: a dense step is three forward passes, a sparse one three sparse ones, and
    where the method needs the dense gradient the third of them is dense.

    Args:
        layer_flops: dense forward FLOPs per image, by parameter name.
        sparsifier: the stage's sparsifier, or None for dense training.
        need: when the method needs dense gradients.
        dense_layer_flops: of the network that the FLOPs are compared with, where that is another one because this one
            was shrunk.

    Attributes:
        dense: FLOPs so far had the model been dense.
        sparse: FLOPs so far at the densities that it had.
    """

    def __init__(
        self,
        layer_flops: Mapping[str, float],
        sparsifier: Any | None,
        need: DenseGradient,
        dense_layer_flops: Mapping[str, float] | None = None,
    ) -> None:
        self._layer_flops = layer_flops
        self._sparsifier = sparsifier
        self._need = need
        self._per_dense_step = training_flops_per_step(dense_layer_flops or layer_flops, {})
        self.dense = 0.0
        self.sparse = 0.0
        self._look()

    def count(self, images: int) -> None:
        """Adds the step just done over ``images``; costs next to nothing unless the masks have changed."""
        changed = self._sparsifier is not None and self._sparsifier.topology_version != self._version
        wants_all = self._need == "always" or (self._need == "updates" and changed)
        self.dense += self._per_dense_step * images
        self.sparse += (self._per_update_step if wants_all else self._per_step) * images
        if changed:
            self._look()

    def _look(self) -> None:
        density = layer_density(self._sparsifier)
        self._version = self._sparsifier.topology_version if self._sparsifier is not None else 0
        self._per_step = training_flops_per_step(self._layer_flops, density)
        self._per_update_step = training_flops_per_step(self._layer_flops, density, dense_gradient=True)


def layer_density(sparsifier: Any | None) -> dict[str, float]:
    """Name -> fraction of kept weights of the masked layers; empty for dense training, and while nothing is masked."""
    if sparsifier is None or not sparsifier.masks:
        return {}
    return {name: 1.0 - sparsity for name, sparsity in sparsifier.layer_sparsity().items()}
