"""Magnitude: prune once, at creation, and hold the mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewright import scores, topology
from sparsewright.options import SHARING, check_choice, resolve_options
from sparsewright.sharing import LayerShares
from sparsewright.sparsifier import Sparsifier, kept_budget

CRITERIA = ("magnitude", "random", "largest")


class Magnitude(Sparsifier):
    """One-shot pruning of single weights (Han et al., arXiv 1506.02626, without the retraining rounds).

    The weights of lowest score are removed when the sparsifier is made, which is why the model should be trained by
    then; training on with it attached is fine-tuning with a fixed mask.

    Args:
        total_steps: not needed, since nothing is scheduled.
        criterion: "magnitude" removes the smallest weights; "random" and "largest" are the baselines that show what
            magnitude is worth.
        **options: ``distribution`` ("global"), ``min_kept_per_layer`` (1), ``last_layer_density`` (None),
            ``dense_first_layer`` (False).
    """

    defaults: ClassVar[Mapping[str, Any]] = {**SHARING, "distribution": "global"}

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        sparsity: float,
        total_steps: int | None = None,
        criterion: str = "magnitude",
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        seed: int = 0,
        process_group: Any = None,
        **options: Any,
    ) -> None:
        check_choice(criterion, "criterion", CRITERIA)
        self.criterion = criterion
        self.options = resolve_options(type(self).__name__, self.defaults, options)
        super().__init__(
            model,
            optimizer,
            sparsity=sparsity,
            total_steps=total_steps,
            include=include,
            exclude=exclude,
            seed=seed,
            process_group=process_group,
        )

    def _prepare(self) -> None:
        self._shares = LayerShares(self.parameters, self.options, self.target_sparsity)

    @torch.no_grad()
    def _start_masks(self) -> dict[str, Tensor]:
        score = {name: self._score(parameter) for name, parameter in self.parameters.items()}
        budget = kept_budget(self.target_sparsity, self._shares.total)
        if self._shares.is_global:
            return topology.prune_globally(score, budget, self.options.min_kept_per_layer)
        target = self._shares.counts(self.target_sparsity, budget, self._shares.sizes)
        everything = {name: torch.ones_like(value, dtype=torch.bool) for name, value in score.items()}
        return {name: topology.select_among(score[name], everything[name], target[name]) for name in score}

    def _score(self, weight: Tensor) -> Tensor:
        if self.criterion == "random":
            return scores.random(weight, self._generator)
        return scores.largest(weight) if self.criterion == "largest" else scores.magnitude(weight)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "criterion": self.criterion}
