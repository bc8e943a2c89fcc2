"""Static: masks that never move, random or given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from sparsewright.distribution import kept_budget
from sparsewright.masks import MaskSet
from sparsewright.options import COMMON, SHARING, refuse_unknown
from sparsewright.sharing import LayerShares
from sparsewright.sparsifier import Sparsifier


class Static(Sparsifier):
    """Fixed masks: random ones with the layer densities of ``distribution``, or any given set.

    Random masks with ERK densities are the baseline that every dynamic method must beat (Liu et al., arXiv
    2202.02643). A given MaskSet holds a ticket or the zeros of a pruned checkpoint (``MaskSet.from_zeros``).

    Args:
        sparsity: fraction of zeros; None takes that of the given masks.
        total_steps: not needed, since nothing is scheduled.
        masks: masks to hold instead of random ones; they must cover exactly the scope.
        **others: the other arguments and options of :class:`sparsewright.Sparsifier`.

    Raises:
        ValueError: neither sparsity nor masks, masks that do not fit the scope, or whose count contradicts sparsity.
    """

    defaults: ClassVar = SHARING
    needs_total_steps: ClassVar = False
    one_shot: ClassVar = True

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        sparsity: float | None = None,
        total_steps: int | None = None,
        masks: MaskSet | None = None,
        **others: Any,
    ) -> None:
        if masks is not None and not isinstance(masks, MaskSet):
            raise TypeError(f"masks must be a MaskSet, got {type(masks).__name__}; MaskSet(mapping) makes one")
        useless = [name for name in others if masks is not None and name in self.defaults]
        if useless:
            raise ValueError(f"{', '.join(useless)} shape random masks and have no use where masks are given")
        self._given = masks
        self._asked = sparsity
        if sparsity is None:
            if masks is None:
                for name in others.keys() - set(COMMON):
                    refuse_unknown("Static", name, self.defaults)
                raise ValueError("Static needs a sparsity for random masks, or masks")
            if masks.kept() == 0:
                raise ValueError("the given masks keep no weight at all")
            sparsity = masks.sparsity()
        super().__init__(model, optimizer, sparsity=sparsity, total_steps=total_steps, **others)

    def _prepare(self) -> None:
        if self._given is None:
            self._shares = LayerShares(self.parameters, self.options, self.target_sparsity)
            return
        if set(self._given) != set(self.parameters):
            odd = sorted(set(self._given) ^ set(self.parameters))
            raise ValueError(f"the given masks and the scope differ at {', '.join(odd)}: choose the scope with include")
        for name, mask in self._given.items():
            if mask.shape != self.parameters[name].shape:
                shape = tuple(self.parameters[name].shape)
                raise ValueError(f"the given mask of {name!r} has shape {tuple(mask.shape)}, the weight has {shape}")
        budget = kept_budget(self.target_sparsity, self._given.total())
        if self._asked is not None and self._given.kept() != budget:
            raise ValueError(
                f"sparsity={self._asked} keeps {budget} weights, but the given masks keep {self._given.kept()}: leave "
                "sparsity out to take the masks as they are"
            )

    def _start_masks(self) -> dict[str, Tensor]:
        if self._given is None:
            return self._shares.random_masks(self.target_sparsity, self.options.distribution, self._generator)
        given = self._given
        return {name: given[name].to(parameter.device, copy=True) for name, parameter in self.parameters.items()}
