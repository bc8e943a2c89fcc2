"""Magnitude: prune once, at creation, and hold the mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsewright import scores, topology
from sparsewright.distribution import kept_budget
from sparsewright.groups import PrunedGroups
from sparsewright.layer_groups import LayerGroups, Silenced
from sparsewright.masks import MaskSet
from sparsewright.options import SHARING
from sparsewright.ratios import as_settings, check_ratios
from sparsewright.selection import Elementwise, top_k
from sparsewright.sharing import LayerShares
from sparsewright.sparsifier import Sparsifier


class Magnitude(Sparsifier):
    """One-shot pruning of weights, filters or channels (Han et al., arXiv 1506.02626, without the retraining rounds;
    Li et al., arXiv 1608.08710, for filters).

    What scores lowest is removed when the sparsifier is made, which is why the model should be trained by then;
    training on with it attached is fine-tuning with a fixed mask. ``criterion="magnitude"`` removes the smallest (of
    filters and channels those with the smallest L1 norm); "random" and "largest" are the baselines that show what
    magnitude is worth. ``total_steps`` is not needed, since nothing is scheduled.

    With ``granularity="filter"`` or "channel", or with ``sparsity`` as a mapping or list of ratios, each layer loses
    min(ceil(ratio * groups), groups - 1) groups, as with :class:`sparsewright.GReg1`, and the options that share a
    sparsity among layers have no use. With filters, their biases and batch norms are zeroed too.

    Args:
        sparsity: a number; or ratios per layer as for :class:`sparsewright.GReg1`.
        granularity: "weight", "filter" or "channel".
        criterion: "magnitude", "random" or "largest".
        distribution, min_kept_per_layer, last_layer_density, dense_first_layer: see
            :class:`sparsewright.options.Options`; for single weights at one ``sparsity``.
        **others: the other common arguments of :class:`sparsewright.Sparsifier`.

    Raises:
        ValueError, TypeError: an argument is wrong; the message names it and says what is allowed.
    """

    defaults: ClassVar = {**SHARING, "distribution": "global", "criterion": "magnitude", "granularity": "weight"}

    needs_total_steps: ClassVar = False
    one_shot: ClassVar = True

    def _checked_sparsity(self, sparsity: Any) -> float:
        self._ratios = check_ratios(sparsity)
        return self._ratios if isinstance(self._ratios, float) else 0.0

    def _prepare(self) -> None:
        self._shares: LayerShares | None = None
        self._groups = LayerGroups(self._model, self.parameters, self.options.granularity, self._ratios)
        self._removed: dict[str, Tensor] = {}
        self._silenced: list[Silenced] = []
        if self.options.granularity == "weight" and isinstance(self._ratios, float):
            self._shares = LayerShares(self.parameters, self.options, self._ratios)
            return
        self._refuse_sharing()
        self.target_sparsity = self._groups.sparsity()

    def _refuse_sharing(self) -> None:
        for name in SHARING:
            value = getattr(self.options, name)
            if value != self.defaults[name]:
                raise ValueError(
                    f"{name}={value!r} is for single weights that share one sparsity; with granularity="
                    f"{self.options.granularity!r} and sparsity={self._ratios} each layer has its ratio"
                )

    @property
    def pruned_groups(self) -> PrunedGroups:
        """What is removed, for every layer: indices of filters, channels or flattened weights."""
        if self.options.granularity == "weight":
            return self._groups.indices({name: mask.logical_not() for name, mask in self.masks.items()})
        return self._groups.indices(self._removed)

    @property
    def left_whole(self) -> dict[str, str]:
        """Name -> why a single ratio, or ratios per stage, leave a layer whole."""
        return dict(self._groups.left_whole)

    @torch.no_grad()
    def _start_masks(self) -> dict[str, Tensor]:
        if self._shares is not None:
            return self._shared_masks(self._shares)
        for name, number in self._groups.numbers.items():
            if number:
                leader = self._removed.get(self._groups.leader(name))
                shape = self._groups.groupings[name].flags_shape
                self._removed[name] = self._lowest(name) if leader is None else leader.reshape(shape)
        return self._groups.masks(self._removed)

    def _shared_masks(self, shares: LayerShares) -> dict[str, Tensor]:
        """Masks of single weights that share one sparsity."""
        score = {name: self._score(weight) for name, weight in self.parameters.items()}
        budget = kept_budget(self.target_sparsity, shares.total)
        if shares.is_global:
            return topology.prune_globally(score, budget, self.options.min_kept_per_layer)
        target = shares.counts(self.target_sparsity, budget, shares.sizes)
        return {name: top_k([score[name]], kept)[0] for name, kept in target.items()}

    def _lowest(self, name: str) -> Tensor:
        """Flags of the groups of a layer that score lowest."""
        grouping, number = self._groups.groupings[name], self._groups.numbers[name]
        single = grouping.dimension is None
        magnitude = self.parameters[name].detach() if single else self._groups.scores(name)
        return top_k([self._score(magnitude)], grouping.count - number)[0].logical_not_()

    def _score(self, weight: Tensor) -> Tensor | Elementwise:
        if self.options.criterion == "random":
            return scores.random(weight, self._generator)
        return Elementwise(scores.largest if self.options.criterion == "largest" else scores.magnitude, weight)

    @torch.no_grad()
    def _apply_start(self) -> None:
        super()._apply_start()
        # The first rank's masks count, and with them its choice.
        self._take_from(self.masks)

    def _take_from(self, masks: Mapping[str, Tensor]) -> None:
        """Take over which groups masks remove, and what falls silent with them."""
        if self.options.granularity == "weight":
            return
        self._removed = {name: self._groups.groupings[name].removed(masks[name]) for name in self._removed}
        self._silenced = self._groups.silenced(self._removed)
        self._silence()

    def _after_step(self) -> None:
        self._silence()

    def _silence(self) -> None:
        """Hold the biases and norms of removed filters at zero, which training on would revive."""
        for silenced in self._silenced:
            silenced.apply()

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "sparsity": as_settings(self._ratios)}

    def _load_extra_state(self, state: Mapping[str, Any]) -> None:
        self._take_from(MaskSet.from_state_dict(state["masks"]))
