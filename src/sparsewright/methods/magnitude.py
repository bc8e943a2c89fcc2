"""Magnitude: prune once, at creation, and hold the mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from sparsewright import scores, topology
from sparsewright.distribution import kept_budget
from sparsewright.options import SHARING
from sparsewright.selection import Elementwise, top_k
from sparsewright.sharing import LayerShares
from sparsewright.sparsifier import Sparsifier


class Magnitude(Sparsifier):
    """One-shot pruning of single weights (Han et al., arXiv 1506.02626, without the retraining rounds).

    The weights of lowest score are removed when the sparsifier is made, which is why the model should be trained by
    then; training on with it attached is fine-tuning with a fixed mask.

    ``criterion="magnitude"`` removes the smallest weights; "random" and "largest" are the baselines that show what
    magnitude is worth. ``total_steps`` is not needed, since nothing is scheduled.
    """

    defaults: ClassVar = {**SHARING, "distribution": "global", "criterion": "magnitude"}

    needs_total_steps: ClassVar = False
    one_shot: ClassVar = True

    def _prepare(self) -> None:
        self._shares = LayerShares(self.parameters, self.options, self.target_sparsity)

    @torch.no_grad()
    def _start_masks(self) -> dict[str, Tensor]:
        score = self._scores()
        budget = kept_budget(self.target_sparsity, self._shares.total)
        if self._shares.is_global:
            return topology.prune_globally(score, budget, self.options.min_kept_per_layer)
        target = self._shares.counts(self.target_sparsity, budget, self._shares.sizes)
        return {name: top_k([score[name]], kept)[0] for name, kept in target.items()}

    def _scores(self) -> Mapping[str, Tensor | Elementwise]:
        if self.options.criterion == "random":
            return {name: scores.random(weight, self._generator) for name, weight in self.parameters.items()}
        rule = scores.largest if self.options.criterion == "largest" else scores.magnitude
        return {name: Elementwise(rule, weight) for name, weight in self.parameters.items()}
