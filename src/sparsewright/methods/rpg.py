"""RPG: gradual global pruning whose regrowth is guided towards weights of high rank."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsewright import growth, scores
from sparsewright import optimizers as optim
from sparsewright.checks import join_names
from sparsewright.dynamic import DynamicSparsifier
from sparsewright.gradient_mean import GradientMean, check_sums
from sparsewright.low_rank import rank_losses
from sparsewright.options import MOVING, RANK, SHARING
from sparsewright.schedule import ExponentialRamp

NO_RANK_LOSS = (
    "the rank loss is of weights with 3 or more dimensions, and none is in scope; set rank_linear_layers=True for "
    "those of Linear layers, or rank_weight=0"
)


class RPG(DynamicSparsifier):
    """Rank-based pruning: growth guided by an adversarial rank loss (Tian et al., arXiv 2311.17493).

    Starts dense. At each update the density falls by the same factor (exponential schedule) by global magnitude
    pruning, until ``prune_end``; then a fraction of each layer's weights is dropped and as many grow where
    |d task loss / dw + rank_weight * d rank loss / dw| is largest. The rank loss is the mean of
    :func:`sparsewright.rank_loss` over the layers that have one: weights with 3 or more dimensions (with
    ``rank_linear_layers`` those with 2 as well) that are not all zero and whose sparsity is at least
    ``min_layer_sparsity``. Growing where it is steep works against the best approximation of low rank, to which very
    sparse layers otherwise collapse. As in RigL an update replaces the optimizer step. As in the original code a weight
    that is pruned and regrown in the same update restarts from 0, but keeps its momentum.

    Everything happens inside ``optimizer.step()``: the user's loss does not change, and the rank loss reaches the
    weights only through what grows. Singular values are computed on the last ``growth_steps`` steps before an update,
    never on others. A weight that cannot be decomposed adds nothing to the score at that update; a warning names it.

    Unlike the original code: the final density is used at the last update by ``update_end`` at the latest, while the
    original stops short of it in short runs; no connection is lost to rounding; an update due exactly at
    ``update_end`` happens; and with ``growth_steps`` above 1 the rank loss does not enter the optimizer steps in
    between. With several ranks the score is the absolute value of the mean gradient, not the mean of absolute values.

    With ``growth_steps`` above 1 gradients are kept from the first of these steps to the update, at most 8 bytes per
    weight, and saved in the state. :meth:`update_topology` scores by the gradients in place alone.

    Args:
        sparsity, total_steps, **options: as for :class:`sparsewright.DynamicSparsifier`.

    Warns:
        UserWarning: options of the rank loss are given, and no weight in scope has one.
    """

    defaults: ClassVar = {
        **MOVING,
        "prune_start": 0,
        "prune_end": 0.9,
        **SHARING,
        **RANK,
        "update_interval": 100,
        "update_end": 0.901,
        "update_replaces_step": True,
        "drop_fraction": 0.3,
        "min_drop_fraction": 0.0,
        "drop_rounding": "down",
        "distribution": "global",
    }

    state_survives_ramp: ClassVar[bool] = True

    def _prepare(self) -> None:
        super()._prepare()
        self._mean = GradientMean()
        useless = [name for name in RANK if getattr(self.options, name) != RANK[name]]
        if useless and self.options.rank_weight > 0 and not self.rank_layers:
            warnings.warn(
                f"{useless[0]}={getattr(self.options, useless[0])} has no effect: {NO_RANK_LOSS}",
                stacklevel=3,
            )

    @property
    def rank_layers(self) -> list[str]:
        """Names of the weights that can have a rank loss."""
        least = 2 if self.options.rank_linear_layers else 3
        return [name for name, parameter in self.parameters.items() if parameter.dim() >= least]

    def _shape_ramp(self, start: int, end: int, first: int) -> ExponentialRamp:
        interval = self.options.update_interval
        updates = end // interval - start // interval
        last = min(first + updates * interval, self._times.last() or first)
        return ExponentialRamp(self.target_sparsity, start, first, updates, last, interval)

    # Growth scores.

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, recomputed: bool) -> None:
        step = self.step_count + 1
        if self._collects_at(step):
            owned = [name for name, owner in self._owner.items() if owner is optimizer]
            for name, gradient in self._guided_gradients(owned).items():
                self._mean.add(name, gradient, step)
        super()._before_step(optimizer, recomputed)

    def _after_step(self) -> None:
        super()._after_step()
        if self.step_count % self.options.update_interval == 0:
            self._mean.clear()

    def _collects_at(self, step: int) -> bool:
        """Whether a step is one of those before an update whose gradients enter its growth score."""
        interval = self.options.update_interval
        update = -(-step // interval) * interval
        return step != update and update - step < self.options.growth_steps and self._updates_at(update)

    def _score_gradients(self, names: Collection[str], step: int | None) -> dict[str, Tensor]:
        guided = self._guided_gradients(names)
        if step is not None:
            guided = {name: self._mean.with_gradient(name, gradient, step) for name, gradient in guided.items()}
        return {name: scores.finite(gradient.abs_()) for name, gradient in guided.items()}

    def _guided_gradients(self, names: Collection[str]) -> dict[str, Tensor]:
        """Gradients of task loss + rank_weight * rank loss, float32 in new tensors, where there is a gradient."""
        guided: dict[str, Tensor] = {}
        for name in names:
            grad = self.parameters[name].grad
            if grad is not None:
                guided[name] = growth.dense(grad).float() / optim.gradient_scale(self._owner[name])
        ranked = self._layers_with_rank_loss() if self.options.rank_weight > 0 else []
        left = {name: self.parameters[name] for name in ranked if name in guided}
        for name, loss in rank_losses(dict(left), self.options.residual_energy):
            guided[name].add_(loss.gradient, alpha=self.options.rank_weight / len(ranked))
            del left[name]
        if left:
            warnings.warn(
                f"the singular values of {join_names(left)} could not be computed after step {self.step_count}: there "
                "the growth score is the gradient of the task loss alone",
                stacklevel=2,
            )
        return guided

    def _layers_with_rank_loss(self) -> list[str]:
        """The layers over which the rank loss is a mean."""
        sparsity = self.masks.layer_sparsity()
        enough = [name for name in self.rank_layers if sparsity[name] >= self.options.min_layer_sparsity]
        return [name for name in enough if bool(self.parameters[name].count_nonzero())]

    # Saving.

    def _extra_state(self) -> dict[str, Any]:
        return {**super()._extra_state(), "collected": self._mean.state_dict()}

    def _load_extra_state(self, state: Mapping[str, Any]) -> None:
        collected = state.get("collected")
        check_sums(collected, self.parameters)
        super()._load_extra_state(state)
        self._mean.load_state_dict(collected or {}, self.parameters)
