"""RPG: gradual global pruning whose regrowth is guided towards weights of high rank."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsewright import growth
from sparsewright import optimizers as optim
from sparsewright.checks import join_names
from sparsewright.dynamic import DynamicSparsifier
from sparsewright.low_rank import rank_losses
from sparsewright.options import MOVING, RANK, SHARING
from sparsewright.schedule import ExponentialRamp


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
    never on others. A weight that cannot be decomposed has no rank loss at that update; a warning names it.

    Unlike the original code: the final density is used at the last update by ``update_end`` at the latest, while the
    original stops short of it in short runs; no connection is lost to rounding; an update due exactly at
    ``update_end`` happens; and with ``growth_steps`` above 1 the rank loss does not enter the optimizer steps in
    between. With several ranks the score is the absolute value of the mean gradient, not the mean of absolute values.

    With ``growth_steps`` above 1 a sum of gradients is kept from the first of these steps to the update, 4 bytes per
    weight, and saved in the state.
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
        self._collected: dict[str, Tensor] = {}
        self._collected_steps: dict[str, int] = {}

    def _shape_ramp(self, start: int, end: int, first: int) -> ExponentialRamp:
        interval = self.options.update_interval
        updates = end // interval - start // interval
        last = min(first + updates * interval, self._times.last() or first)
        return ExponentialRamp(self.target_sparsity, start, first, updates, last, interval)

    # Growth scores.

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, recomputed: bool) -> None:
        if self._collects_at(self.step_count + 1):
            owned = [name for name, owner in self._owner.items() if owner is optimizer]
            for name, gradient in self._guided_gradients(owned).items():
                earlier = self._collected.get(name)
                self._collected[name] = gradient if earlier is None else earlier.add_(gradient)
                self._collected_steps[name] = self._collected_steps.get(name, 0) + 1
        super()._before_step(optimizer, recomputed)

    def _collects_at(self, step: int) -> bool:
        """Whether a step is one of those before an update whose gradients enter its growth score."""
        interval = self.options.update_interval
        update = -(-step // interval) * interval
        return step != update and update - step < self.options.growth_steps and self._updates_at(update)

    def _score_gradients(self, names: Collection[str]) -> dict[str, Tensor]:
        score = self._guided_gradients(names)
        for name, gradient in score.items():
            earlier = self._collected.pop(name, None)
            if earlier is not None:
                gradient.add_(earlier).div_(self._collected_steps.pop(name) + 1)
        return {name: growth.gradient(gradient) for name, gradient in score.items()}

    def _guided_gradients(self, names: Collection[str]) -> dict[str, Tensor]:
        """Gradients of task loss + rank_weight * rank loss, float32 in new tensors, where there is a gradient."""
        guided: dict[str, Tensor] = {}
        for name in names:
            grad = self.parameters[name].grad
            if grad is not None:
                guided[name] = growth.dense(grad).float() / optim.gradient_scale(self._owner[name])
        ranked = self._ranked_layers() if self.options.rank_weight > 0 else []
        if not ranked:
            return guided
        weights = {name: self.parameters[name] for name in ranked if name in guided}
        losses = rank_losses(weights, self.options.residual_energy)
        for name, loss in losses.items():
            guided[name].add_(loss.gradient, alpha=self.options.rank_weight / len(ranked))
        _warn_of_failures([name for name in weights if name not in losses], self.step_count + 1)
        return guided

    def _ranked_layers(self) -> list[str]:
        """The layers over which the rank loss is a mean."""
        least = 2 if self.options.rank_linear_layers else 3
        sparsity = self.masks.layer_sparsity()
        return [
            name
            for name, parameter in self.parameters.items()
            if parameter.dim() >= least
            and sparsity[name] >= self.options.min_layer_sparsity
            and bool(parameter.count_nonzero())
        ]

    # Saving.

    def _extra_state(self) -> dict[str, Any]:
        collected = {
            name: {"sum": total.clone(), "steps": self._collected_steps[name]}
            for name, total in self._collected.items()
        }
        return {**super()._extra_state(), "collected": collected}

    def _load_extra_state(self, state: Mapping[str, Any]) -> None:
        collected = state.get("collected", {})
        for name, entry in collected.items():
            parameter = self.parameters.get(name)
            if parameter is None or entry["sum"].shape != parameter.shape:
                raise ValueError(f"the saved sum of gradients of {name!r} does not fit this sparsifier's weights")
        super()._load_extra_state(state)
        self._collected = {
            name: torch.empty_like(self.parameters[name], dtype=torch.float32).copy_(entry["sum"])
            for name, entry in collected.items()
        }
        self._collected_steps = {name: int(entry["steps"]) for name, entry in collected.items()}


def _warn_of_failures(names: Collection[str], step: int) -> None:
    if names:
        warnings.warn(
            f"the singular values of {join_names(names)} could not be computed at step {step}: there the growth score "
            "is the gradient of the task loss alone for this update",
            stacklevel=2,
        )
