"""Methods that move their masks: a sparsity ramp, then drop and grow, at the scheduled steps."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsewright import growth, scores, topology
from sparsewright import optimizers as optim
from sparsewright.distribution import kept_budget
from sparsewright.schedule import CubicRamp, DropFraction, Ramp, UpdateTimes, resolve_moment
from sparsewright.selection import Elementwise
from sparsewright.sharing import LAST_LAYER_FROM, LayerShares
from sparsewright.sparsifier import Sparsifier


class DynamicSparsifier(Sparsifier):
    """A sparsifier whose topology is updated every ``update_interval`` steps.

    An update first prunes to the ramp's sparsity, if the method has a ramp, and then drops a fraction of each layer's
    weights and grows as many others. A method is a table of option defaults; see
    :class:`sparsewright.options.Options` for what each option means.

    Args:
        **options: any option named in the class's ``defaults``. The other arguments are those of
            :class:`sparsewright.Sparsifier`.

    Raises:
        TypeError: an option that the method does not have.
        ValueError: a value that is not allowed, a schedule without any update, a budget below the sum of
            ``min_kept_per_layer``.
    """

    state_survives_ramp: ClassVar[bool] = False
    """Whether a weight that the ramp prunes and the same update regrows, at 0, keeps its optimizer state."""

    @property
    def finished(self) -> bool:
        """Whether the topology will not change any more by itself."""
        return self.step_count >= self._last_update

    @property
    def has_ramp(self) -> bool:
        """Whether the method raises the sparsity over time."""
        return "prune_end" in self.defaults

    @property
    def starts_dense(self) -> bool:
        """Whether there are no start masks, wherever the ramp starts."""
        return self.has_ramp and self.options.initial_sparsity == 0

    def drop_fraction(self, step: int | None = None) -> float:
        """Fraction of each layer's kept weights that an update drops after ``step`` completed steps (default: now)."""
        return self._drop_fraction.at(self.step_count if step is None else step)

    def scheduled_sparsity(self, step: int | None = None) -> float:
        """Sparsity that the schedule asks for at an update after ``step`` completed steps (default: now)."""
        return self._ramp.sparsity(self.step_count if step is None else step) if self._ramp else self.target_sparsity

    @torch.no_grad()
    def update_topology(self) -> None:
        """Do one topology update now, with the gradients in place, at any step.

        Between prune_start and the ramp's last update it prunes to the sparsity scheduled for this step, and wherever
        the method grows it drops and grows, with the drop fraction of this step.

        Raises:
            ValueError: the method grows weights, but no sparsified weight has a gradient.
        """
        self._capture_scores(self.parameters)
        if self.options.grow is not None and not self._with_gradient:
            raise ValueError(
                "update_topology needs gradients, and no sparsified weight has one: call it after backward() and "
                "before zero_grad()"
            )
        self._update(self.step_count)

    # Preparation.

    def _prepare(self) -> None:
        assert self.total_steps is not None
        self._growth_scores: dict[str, Tensor] = {}
        self._with_gradient: set[str] = set()
        self._averages: dict[str, Tensor] = {}
        self._replaced: dict[str, int] = {}
        options, total = self.options, self.total_steps
        self._shares = LayerShares(self.parameters, options, self.target_sparsity)
        end = resolve_moment(options.update_end, total, "update_end")
        start = resolve_moment(options.prune_start, total, "prune_start") if self.has_ramp else 0
        self._times = UpdateTimes(options.update_interval, start, end)
        self._ramp = self._make_ramp(start, end) if self.has_ramp else None
        self._drop_fraction = DropFraction(options.drop_fraction, options.min_drop_fraction, end, options.drop_schedule)
        self._last_update = self._find_last_update()
        self._read_moments = options.grow is not None and "momentum" in (options.grow, options.redistribute)
        self._moment_keys = {
            name: growth.moment_keys(self._owner[name], parameter) if self._read_moments else ()
            for name, parameter in self.parameters.items()
        }
        if self._read_moments:
            self._averages = {
                name: torch.zeros_like(parameter, dtype=torch.float32)
                for name, parameter in self.parameters.items()
                if not self._moment_keys[name]
            }
        if options.update_replaces_step:
            self._refuse_restless_optimizers()

    def _make_ramp(self, start: int, update_end: int) -> Ramp:
        options = self.options
        assert self.total_steps is not None
        end = resolve_moment(options.prune_end, self.total_steps, "prune_end")
        if start > end:
            raise ValueError(f"prune_start (step {start}) lies after prune_end (step {end})")
        if options.initial_sparsity > self.target_sparsity:
            raise ValueError(
                f"initial_sparsity={options.initial_sparsity} is above the final sparsity={self.target_sparsity}"
            )
        first = self._times.first_at_or_after(start)
        if first is None or first > end:
            raise ValueError(
                f"no topology update is due in the pruning window, steps {start} to {min(end, update_end)}: updates "
                f"come every update_interval={options.update_interval} steps up to update_end (step {update_end}); "
                "lower update_interval or widen the window"
            )
        ramp = self._shape_ramp(start, end, first)
        # A last layer that fits at the end may not fit on the way; that is an error now, not in the middle of the run.
        on_the_way = (ramp.sparsity(step) for step in range(first, ramp.last + 1, options.update_interval))
        lowest = next((sparsity for sparsity in on_the_way if sparsity >= LAST_LAYER_FROM), None)
        if lowest is not None and not self._shares.is_global:
            self._shares.densities(lowest, options.distribution)
        return ramp

    def _shape_ramp(self, start: int, end: int, first: int) -> Ramp:
        """The ramp between two steps, of which ``first`` is the first with an update due."""
        options = self.options
        last = self._times.first_at_or_after(end) or self._times.last() or first
        interval = options.update_interval if options.distribution == "global" else None
        return CubicRamp(options.initial_sparsity, self.target_sparsity, start, end, last, interval)

    def _find_last_update(self) -> int:
        """The last step at which an update changes anything."""
        last = self._times.last()
        if last is None:
            raise ValueError(
                f"{type(self).__name__} would never update its topology: update_interval="
                f"{self.options.update_interval} is longer than update_end (step {self._times.end} of "
                f"{self.total_steps})"
            )
        ramp_last = self._ramp.last if self._ramp else 0
        if self.options.grow is None:
            return ramp_last
        if last == self.total_steps:
            last -= self.options.update_interval
        if last < 1 and not self._ramp:
            warnings.warn(
                f"{type(self).__name__} updates its topology only at the very last step, where nothing grows: its "
                f"masks will not move (update_interval={self.options.update_interval}, total_steps={self.total_steps})",
                stacklevel=5,
            )
        return max(last, ramp_last)

    def _refuse_restless_optimizers(self) -> None:
        for optimizer in self._optimizers:
            if optim.moves_without_gradient(optimizer):
                raise ValueError(
                    f"update_replaces_step needs an optimizer that stands still without gradients; "
                    f"{type(optimizer).__name__} moves: set update_replaces_step=False"
                )

    def _start_masks(self) -> dict[str, Tensor]:
        if self.starts_dense:
            return {name: torch.ones_like(p, dtype=torch.bool) for name, p in self.parameters.items()}
        sparsity = self.options.initial_sparsity if self.has_ramp else self.target_sparsity
        how = self.options.initial_distribution if self.has_ramp else self.options.distribution
        return self._shares.random_masks(sparsity, how, self._generator)

    def _extra_state(self) -> dict[str, Any]:
        return {"averages": {name: average.clone() for name, average in self._averages.items()}}

    def _load_extra_state(self, state: Mapping[str, Any]) -> None:
        saved = state.get("averages", {})
        if set(saved) != set(self._averages):
            raise ValueError(
                "the state does not fit this sparsifier (another optimizer?): it averages the gradients of "
                f"{sorted(saved) or 'no weights'}, here of {sorted(self._averages) or 'no weights'}"
            )
        for name, average in self._averages.items():
            if saved[name].shape != average.shape:
                raise ValueError(
                    f"the saved average of {name!r} has shape {tuple(saved[name].shape)}, not the weight's"
                )
        for name, average in self._averages.items():
            average.copy_(saved[name])

    # The two moments of a step.

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, recomputed: bool) -> None:
        owned = [name for name, owner in self._owner.items() if owner is optimizer]
        if self._averages:
            scale = optim.gradient_scale(optimizer)
            for name in owned:
                grad = self.parameters[name].grad
                if name in self._averages and grad is not None:
                    growth.update_average(self._averages, name, grad, scale)
        if not self._updates_at(self.step_count + 1):
            return
        # Some optimizers change gradients in place, so that the scores must be taken before they move.
        self._capture_scores(owned, self.step_count + 1)
        if self.options.update_replaces_step:
            self._replaced.update({name: self.parameters[name]._version for name in owned})
            optim.drop_gradients(optimizer)

    def _after_step(self) -> None:
        if not self._updates_at(self.step_count):
            return
        self._update(self.step_count)

    def _post_hook(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for name in [name for name in self._replaced if self._owner[name] is optimizer]:
            if self.parameters[name]._version != self._replaced.pop(name):
                raise RuntimeError(
                    f"{type(optimizer).__name__} moved {name!r} without a gradient, on a step that a topology update "
                    "replaces: set update_replaces_step=False"
                )
        super()._post_hook(optimizer, args, kwargs)

    def _updates_at(self, step: int) -> bool:
        """Whether the schedule changes the topology once ``step`` steps are completed."""
        if not self._times.due(step):
            return False
        pruning = self._ramp is not None and step <= self._ramp.last
        return pruning or self._may_grow(step)

    def _unmasked_state(self, name: str) -> Collection[str]:
        return self._moment_keys[name]

    def _capture_scores(self, names: Collection[str], step: int | None = None) -> None:
        """Take the growth scores of weights for the update after ``step`` steps; None for one out of turn."""
        for name in names:
            grad = self.parameters[name].grad
            if grad is None:
                self._with_gradient.discard(name)
                continue
            self._with_gradient.add(name)
        if self.options.grow == "gradient":
            present = [name for name in names if name in self._with_gradient]
            self._growth_scores.update(self._score_gradients(present, step))

    def _score_gradients(self, names: Collection[str], step: int | None) -> dict[str, Tensor]:
        """Growth scores of weights that have a gradient, float32 in new tensors; see :meth:`_capture_scores`."""
        gradients = {name: self.parameters[name].grad for name in names}
        return {name: growth.gradient(grad) for name, grad in gradients.items() if grad is not None}

    # The update.

    @torch.no_grad()
    def _update(self, step: int) -> None:
        # A moment that the growth rule reads must not be the one of a pruned weight.
        state_last = self.state_survives_ramp and self._may_grow(step) and not self._read_moments
        if self._ramp and self._ramp.start <= step <= self._ramp.last:
            self._prune_to(self._ramp.sparsity(step), self._growing(step), mask_state=not state_last)
        if self._may_grow(step):
            self._drop_and_grow(self.drop_fraction(step), self._growing(step), mask_state=not state_last)
        if state_last:
            self._hold_masks(self.masks)
        self._growth_scores.clear()
        self._with_gradient.clear()

    def _prune_to(self, sparsity: float, growing: list[str], *, mask_state: bool) -> None:
        """Bring the kept weights to the budget of a sparsity; a shortfall is regrown by the growth rule.

        Args:
            sparsity: the scheduled sparsity.
            growing: layers that may regrow weights.
            mask_state: whether optimizer state is masked at once.
        """
        budget = kept_budget(sparsity, self._shares.total)
        if self._shares.is_global:
            masks = self._pruned_globally(budget, growing)
        else:
            masks = self._pruned_by_layer(sparsity, budget, growing)
        self._commit(masks, mask_state=mask_state)

    def _pruned_globally(self, budget: int, growing: list[str]) -> dict[str, Tensor]:
        kept = topology.count(self.masks)
        total = min(budget, sum(kept.values()))
        score = {name: self._score_kept(name) for name in self.masks}
        masks = topology.prune_globally(score, total, self.options.min_kept_per_layer)
        if budget > total and growing:
            room = sum(self._shares.sizes[name] - kept[name] for name in growing)
            growth_scores = {name: self._score_growth(name) for name in growing}
            masks = topology.grow_globally(growth_scores, masks, min(budget - total, room))
        return masks

    def _score_kept(self, name: str) -> Elementwise:
        """Magnitude of a layer's kept weights, -inf for the dropped ones."""
        return Elementwise(_kept_magnitude, self.parameters[name], self.masks[name])

    def _pruned_by_layer(self, sparsity: float, budget: int, growing: list[str]) -> dict[str, Tensor]:
        kept = topology.count(self.masks)
        ceiling = {name: size if name in growing else kept[name] for name, size in self._shares.sizes.items()}
        target = self._shares.counts(sparsity, min(budget, sum(ceiling.values())), ceiling)
        masks: dict[str, Tensor] = {}
        for name, mask in self.masks.items():
            if target[name] > kept[name]:
                masks[name] = topology.grow_weights(self._score_growth(name), mask, target[name] - kept[name])
            else:
                masks[name] = topology.select_among(scores.magnitude(self.parameters[name]), mask, target[name])
        return masks

    def _may_grow(self, step: int) -> bool:
        """Whether an update after ``step`` steps grows: not at the last step, where new weights could not train."""
        return self.options.grow is not None and step < (self.total_steps or 0)

    def _growing(self, step: int) -> list[str]:
        """Layers that may grow weights in this update: a layer without gradient neither drops nor grows."""
        return [name for name in self.parameters if name in self._with_gradient and self._may_grow(step)]

    def _drop_and_grow(self, fraction: float, names: list[str], *, mask_state: bool) -> None:
        """Drop in every layer first, then grow as many weights; the counts found are kept."""
        kept = {name: int(self.masks[name].count_nonzero()) for name in names}
        masks: dict[str, Tensor] = {}
        dropped: dict[str, int] = {}
        shares = self._redistribution_weights(names)
        for name in names:
            dropped[name] = self._count_dropped(name, kept[name], fraction)
            score = topology.drop_score(self.options.drop, self.parameters[name], self.masks[name])
            masks[name] = topology.drop_weights(score, self.masks[name], dropped[name])
        grown: Mapping[str, int] = dropped
        if shares:
            left = {name: kept[name] - dropped[name] for name in names}
            sizes = {name: self._shares.sizes[name] for name in names}
            grown = topology.redistributed(shares, dropped, left, sizes, self.options.min_kept_per_layer)
        for name in names:
            if grown[name] > 0:
                masks[name] = topology.grow_weights(self._score_growth(name), masks[name], grown[name])
        self._commit(masks, mask_state=mask_state)

    def _count_dropped(self, name: str, kept: int, fraction: float) -> int:
        dropped = topology.drop_count(kept, fraction, self.options.drop_rounding)
        if self.options.drop == "threshold":
            small = (self.parameters[name].abs() < self.options.drop_threshold) & self.masks[name]
            dropped = min(dropped, int(small.count_nonzero()))
        return dropped

    def _score_growth(self, name: str) -> Tensor:
        if self.options.grow == "gradient":
            return self._growth_scores[name]
        if self.options.grow == "random":
            return scores.random(self.parameters[name], self._generator)
        return growth.momentum(self._moment(name))

    def _moment(self, name: str) -> Tensor:
        """Momentum of a weight: the optimizer's where we know it, else our own average."""
        if name in self._averages:
            return self._averages[name]
        moment = growth.read_moment(self._owner[name], self.parameters[name])
        return torch.zeros_like(self.parameters[name]) if moment is None else moment

    def _redistribution_weights(self, names: Collection[str]) -> dict[str, float]:
        """Each layer's share of the regrown weights, before dropping; empty where layers keep their own count."""
        rule = self.options.redistribute
        if rule is None:
            return {}
        weights: dict[str, float] = {}
        for name in names:
            mask = self.masks[name]
            kept = max(int(mask.count_nonzero()), 1)
            if rule == "nonzeros":
                weights[name] = float(kept)
                continue
            value = self._moment(name) if rule == "momentum" else self.parameters[name]
            mean = float(value.abs().double().masked_fill(~mask, 0).sum()) / kept
            weights[name] = mean if math.isfinite(mean) else 0.0
        return weights


def _kept_magnitude(weight: Tensor, mask: Tensor) -> Tensor:
    return topology.among(scores.magnitude(weight), mask)
