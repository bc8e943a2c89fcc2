"""A method's layers and how it shares a sparsity among them: exact counts, bounds, and random start masks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparsewright import distribution
from sparsewright.distribution import Densities, Shapes, allocate, kept_budget
from sparsewright.options import Options

LAST_LAYER_FROM = 0.8


class LayerShares:
    """Turns a sparsity into exact counts per layer.

    Args:
        parameters: name -> weight, in the model's order.
        options: the method's options.
        sparsity: the sparsity at the end.

    Raises:
        ValueError: the final budget is below the sum of the layers' minima, or fixed layer densities contradict it.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], options: Options, sparsity: float) -> None:
        self._options = options
        self._final = sparsity
        self._devices = {name: parameter.device for name, parameter in parameters.items()}
        self.shapes: Shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        self.sizes = {name: math.prod(shape) for name, shape in self.shapes.items()}
        self.total = sum(self.sizes.values())
        self._minimum = {name: min(options.min_kept_per_layer, size) for name, size in self.sizes.items()}
        self._check_budget(sparsity)
        self._final_counts = dict(self._minimum)
        if not self.is_global:
            self._final_counts = self.counts(sparsity, kept_budget(sparsity, self.total), self.sizes)

    @property
    def is_global(self) -> bool:
        """Whether weights of all layers compete with each other."""
        return self._options.distribution == "global"

    def counts(self, sparsity: float, budget: int, ceiling: Mapping[str, int]) -> dict[str, int]:
        """Kept weights per layer that add up to ``budget``.

        No layer falls below its final count on the way, so that the end is exact even where nothing regrows.

        Args:
            sparsity: the scheduled sparsity that is shared among the layers.
            budget: the total to reach.
            ceiling: name -> the most that a layer can have now.
        """
        densities = self.densities(sparsity, self._options.distribution)
        ideal = {name: densities[name] * size for name, size in self.sizes.items()}
        lower = {name: min(self._final_counts[name], ceiling[name]) for name in self.sizes}
        return allocate(ideal, max(budget, sum(lower.values())), lower, ceiling)

    def densities(self, sparsity: float, how: str | Mapping[str, float], mapped_at: float | None = None) -> Densities:
        """Density of each layer before rounding.

        Args:
            sparsity: the overall sparsity.
            how: a rule, or explicit sparsities of layers.
            mapped_at: the overall sparsity at which explicit ones are reached; before it they are in proportion.
                None: the sparsity at the end.

        Raises:
            ValueError: fixed densities (last layer, first layer, explicit ones) contradict the sparsity.
        """
        density = 1.0 - sparsity
        if isinstance(how, Mapping):
            reached = self._final if mapped_at is None else mapped_at
            grown = sparsity / reached if reached > 0 else 1.0
            return distribution.explicit(self.shapes, density, {p: value * grown for p, value in how.items()})
        rule = distribution.RULES.get(how, distribution.uniform)
        fixed = self._fixed(sparsity)
        return distribution.with_fixed(self.shapes, density, fixed, rule) if fixed else rule(self.shapes, density)

    def random_masks(
        self, sparsity: float, how: str | Mapping[str, float], generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Random masks with the exact budget of a sparsity."""
        budget = kept_budget(sparsity, self.total)
        if how == "global":
            # Drawing without regard to layers is the same as giving each layer a random share of the budget.
            order = torch.randperm(self.total, generator=generator)[:budget]
            bounds = torch.tensor([0, *self.sizes.values()]).cumsum(0)
            drawn = torch.histogram(order.double(), bounds.double()).hist
            ideal = {name: float(value) for name, value in zip(self.sizes, drawn, strict=True)}
        else:
            densities = self.densities(sparsity, how, mapped_at=sparsity)
            ideal = {name: densities[name] * size for name, size in self.sizes.items()}
        counts = allocate(ideal, budget, self._minimum, self.sizes)
        masks: dict[str, Tensor] = {}
        for name, shape in self.shapes.items():
            mask = torch.zeros(self.sizes[name], dtype=torch.bool)
            mask[torch.randperm(self.sizes[name], generator=generator)[: counts[name]]] = True
            masks[name] = mask.reshape(tuple(shape)).to(self._devices[name])
        return masks

    def _fixed(self, sparsity: float) -> dict[str, float]:
        fixed: dict[str, float] = {}
        names = list(self.shapes)
        if self._options.dense_first_layer:
            fixed[names[0]] = 1.0
        last = self._options.last_layer_density
        if last is not None and sparsity >= LAST_LAYER_FROM:
            fixed[names[-1]] = last
        return fixed

    def _check_budget(self, sparsity: float) -> None:
        budget, least = kept_budget(sparsity, self.total), sum(self._minimum.values())
        if budget < least:
            raise ValueError(
                f"sparsity={sparsity} keeps {budget} of {self.total} weights, fewer than the {least} that "
                f"min_kept_per_layer={self._options.min_kept_per_layer} asks for over {len(self.sizes)} layers"
            )
