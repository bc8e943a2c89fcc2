"""The base of methods that push groups of weights to zero by a growing L2 penalty, and remove them at the end."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsewright import optimizers as optim
from sparsewright.checks import join_names
from sparsewright.distributed import broadcast
from sparsewright.groups import PrunedGroups, ratio_apart
from sparsewright.growing_penalty import single, updated_average
from sparsewright.layer_groups import LayerGroups
from sparsewright.masks import MaskSet, pack_bits, unpack_bits
from sparsewright.options import Options, resolve_options
from sparsewright.ratios import as_settings, check_ratios
from sparsewright.sparsifier import Sparsifier

Phase = Literal["pick", "push", "stabilize", "done"]


@dataclass
class LayerPenalty:
    """How far the penalty of one layer is.

    Attributes:
        level: penalty of the chosen groups; of all groups before the choice.
        kept_level: penalty of the others.
        average: running average of the ratio of the mean magnitudes, kept over chosen; None before the first, which for
            single weights comes after the choice.
        picked: whether the choice is made.
        finished: whether the penalty grows no further.
    """

    level: float = 0.0
    kept_level: float = 0.0
    average: float | None = None
    picked: bool = False
    finished: bool = False


class PenaltySparsifier(Sparsifier):
    """Adds penalty * weight to gradients, with a penalty per group that subclasses let grow from update to update.

    Nothing is masked until :meth:`finalize`, which removes the chosen groups. An update happens every ``reg_interval``
    steps, the first in the first step, until every layer is finished; the last penalties are then held for
    ``stabilize_steps``. A subclass says when a layer's groups are chosen (:meth:`_choose`), how its penalty grows
    (:meth:`_advance_layer`) and how many updates that can take (:meth:`_most_updates`).
    """

    needs_total_steps: ClassVar[bool] = False
    prunes_at_end: ClassVar[bool] = True

    @classmethod
    def steps_needed(cls, options: Mapping[str, Any] | None = None) -> int:
        """The most optimizer steps until :attr:`finished`, for the given options of this class (others: defaults).

        Raises:
            ValueError, TypeError: an unknown option, a value that is not allowed, or a penalty that never grows.
        """
        return cls._bound(resolve_options(cls.__name__, cls.defaults, dict(options or {})))

    @classmethod
    def _bound(cls, options: Options) -> int:
        return (cls._most_updates(options) - 1) * options.reg_interval + options.stabilize_steps + 1

    @classmethod
    def _most_updates(cls, options: Options) -> int:
        """Updates until the penalties pass their limit."""
        raise NotImplementedError

    def _advance_layer(self, name: str, layer: LayerPenalty) -> None:
        """One update of an unfinished layer, whose average is up to date."""
        raise NotImplementedError

    def _checked_sparsity(self, sparsity: Any) -> float:
        self._ratios = check_ratios(sparsity)
        return 0.0

    def _prepare(self) -> None:
        needed = self._bound(self.options)
        if self.total_steps is None:
            self.total_steps = needed
        elif self.total_steps < needed:
            raise ValueError(
                f"total_steps={self.total_steps} is less than the {needed} steps that {type(self).__name__} may need "
                "with these options: leave it out, or change reg_step, reg_interval, reg_limit or stabilize_steps"
            )
        self._groups = LayerGroups(self._model, self.parameters, self.options.granularity, self._ratios)
        self.target_sparsity = self._groups.sparsity()
        self._layers = {name: LayerPenalty(finished=not n) for name, n in self._groups.numbers.items()}
        self._chosen: dict[str, Tensor] = {}
        self._penalties = {name: self._new_penalty(name) for name in self.parameters}
        self._advanced_at: int | None = None
        self._stable_since: int | None = None
        self._warn_of_adaptive_optimizers()

    def _new_penalty(self, name: str) -> Tensor:
        weight, grouping = self.parameters[name], self._groups.groupings[name]
        if self._groups.numbers[name] and grouping.dimension is None:
            return torch.zeros_like(weight, dtype=torch.float32)
        shape = grouping.flags_shape if self._groups.numbers[name] else [1] * weight.dim()
        return torch.zeros(shape, dtype=torch.float32, device=weight.device)

    def _warn_of_adaptive_optimizers(self) -> None:
        adaptive = [type(item).__name__ for item in self._optimizers if not optim.scales_with_gradient(item)]
        if adaptive:
            warnings.warn(
                f"{type(self).__name__} adds its penalty to the gradient, and {join_names(adaptive)} scales gradients "
                "by their own size, so that a growing penalty does not push harder: use SGD",
                stacklevel=4,
            )

    # Looking.

    @property
    def phase(self) -> Phase:
        """ "pick" while a layer is not chosen from, "push" while a penalty grows, "stabilize" while all are held,
        "done" when nothing is left but to remove (:meth:`finalize`)."""
        if self.finished:
            return "done"
        if self._stable_since is not None:
            return "stabilize"
        phases = set(self.layer_phases.values())
        return "pick" if "pick" in phases else "push"

    @property
    def layer_phases(self) -> dict[str, Phase]:
        """Name -> the phase of each layer; "stabilize" as soon as its own penalty grows no further, which for a layer
        left whole is from the start."""
        if self.finished:
            return dict.fromkeys(self._layers, "done")
        return {
            name: "stabilize" if layer.finished else "push" if layer.picked else "pick"
            for name, layer in self._layers.items()
        }

    @property
    def penalties(self) -> dict[str, Tensor]:
        """Name -> penalty that the last completed step added, times the weight, to its gradient; float32 tensors that
        broadcast to the weight (one entry for a layer left whole). They are live: do not write into them."""
        return dict(self._penalties)

    @property
    def pruned_groups(self) -> PrunedGroups:
        """What is removed, for every layer; empty until picked."""
        return self._groups.indices(self._chosen)

    @property
    def left_whole(self) -> dict[str, str]:
        """Name -> why a single ratio, or ratios per stage, leave a layer whole."""
        return dict(self._groups.left_whole)

    @property
    def finished(self) -> bool:
        """Whether the penalties have been held for ``stabilize_steps``, or the groups are removed."""
        since = self._stable_since
        return bool(self.masks) or (since is not None and self.step_count > since + self.options.stabilize_steps)

    # Inside optimizer.step().

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, recomputed: bool) -> None:
        if self._advanced_at != self.step_count:
            self._advance()
            self._advanced_at = self.step_count
        scale, climbing = optim.gradient_scale(optimizer), optim.maximised(optimizer)
        for name, weight in self.parameters.items():
            if self._groups.numbers[name] and self._owner[name] is optimizer and weight.grad is not None:
                sign = -1.0 if id(weight) in climbing else 1.0
                _add_penalty(name, weight.grad, weight, self._penalties[name], sign * scale)

    def _advance(self) -> None:
        """Let the penalties of unfinished layers grow, if it is time."""
        if self._stable_since is not None or self.step_count % self.options.reg_interval:
            return
        unfinished = {name: layer for name, layer in self._layers.items() if not layer.finished}
        for name, ratio in self._measure(self._measurable(unfinished)).items():
            unfinished[name].average = updated_average(unfinished[name].average, ratio)
        for name, layer in unfinished.items():
            self._advance_layer(name, layer)
            self._write_penalty(name)
        if all(layer.finished for layer in self._layers.values()):
            self._stable_since = self.step_count

    def _measurable(self, layers: Mapping[str, LayerPenalty]) -> dict[str, LayerPenalty]:
        """All but layers of single weights before the choice, where finding the smallest costs more than a step may."""
        groupings = self._groups.groupings
        return {n: layer for n, layer in layers.items() if layer.picked or groupings[n].dimension is not None}

    def _measure(self, layers: Mapping[str, LayerPenalty]) -> dict[str, float]:
        """Mean magnitude of what is kept over that of what is chosen, or would be now; one wait for the device."""
        if not layers:
            return {}
        ratios = []
        for name, layer in layers.items():
            removed = self._chosen[name] if layer.picked else self._groups.smallest(name)
            grouping, number = self._groups.groupings[name], self._groups.numbers[name]
            ratios.append(ratio_apart(*grouping.mean_magnitudes(self.parameters[name], removed, number)))
        together = torch.stack([ratio.to(ratios[0].device) for ratio in ratios])
        broadcast([together], self._group)
        return dict(zip(layers, together.tolist(), strict=True))

    def _choose(self, name: str) -> None:
        self._chosen[name] = self._groups.smallest(name)
        broadcast([self._chosen[name]], self._group)
        self._layers[name].picked = True

    def _write_penalty(self, name: str) -> None:
        layer, penalty = self._layers[name], self._penalties[name]
        level = layer.level if self.options.growing else single(self.options.reg_limit)
        if name not in self._chosen:
            penalty.fill_(level)
            return
        torch.where(self._chosen[name], penalty.new_tensor(level), penalty.new_tensor(layer.kept_level), out=penalty)

    # Ending, and saving.

    @torch.no_grad()
    def _end(self) -> None:
        """Remove what is chosen; what is not yet is chosen now.

        Raises:
            ValueError: weights that are not finite; nothing is changed then.
        """
        diverged = [name for name, weight in self.parameters.items() if not bool(weight.isfinite().all())]
        if diverged:
            raise ValueError(f"training diverged: {join_names(diverged)} is not finite, and nothing was removed")
        for name, number in self._groups.numbers.items():
            if number and name not in self._chosen:
                self._choose(name)
        masks = self._groups.masks(self._chosen)
        self.masks = MaskSet({name: self._laid_out(name, mask) for name, mask in masks.items()})
        for silenced in self._groups.silenced(self._chosen):
            silenced.apply()
        self.topology_version += 1

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "sparsity": as_settings(self._ratios)}

    def _extra_state(self) -> dict[str, Any]:
        return {
            "layers": {name: asdict(layer) for name, layer in self._layers.items()},
            "chosen": {name: pack_bits(flags) for name, flags in self._chosen.items()},
            "stable_since": self._stable_since,
        }

    def _load_extra_state(self, state: Mapping[str, Any]) -> None:
        self._layers = {name: LayerPenalty(**state["layers"][name]) for name in self.parameters}
        self._chosen = {
            name: unpack_bits(bits, self._groups.groupings[name].flags_shape).to(self.parameters[name].device)
            for name, bits in state["chosen"].items()
        }
        self._stable_since = state["stable_since"]
        self._advanced_at = None
        for name, layer in self._layers.items():
            if layer.level > 0:
                self._write_penalty(name)
            else:
                self._penalties[name].zero_()


def _add_penalty(name: str, gradient: Tensor, weight: Tensor, penalty: Tensor, scale: float) -> None:
    """Add scale * penalty * weight to a gradient in place."""
    if gradient.layout is not torch.strided:
        raise TypeError(f"the gradient of {name} is sparse, and a penalty needs dense ones: exclude it")
    if penalty.device != gradient.device:
        penalty = penalty.to(gradient.device)
    if gradient.dtype == penalty.dtype == weight.dtype:
        gradient.addcmul_(penalty, weight, value=scale)
    else:
        gradient.add_((penalty * weight * scale).to(gradient.dtype))
