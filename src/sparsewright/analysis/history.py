"""How connections come and go: what each topology update dropped and grew, what survives, what was ever active."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TopologyChange:
    """Numbers of connections per layer, in the order of ``names``.

    Attributes:
        names: parameter names of the masked layers.
        weights: weights of a layer, kept or not.
        kept: connections now.
        dropped, grown: connections that went and came since the masks were shown before.
        initial: connections at the start.
        survived: initial connections that are kept now, also those that were dropped and grown again.
        explored: weights that were ever active, as in-time over-parametrisation counts them (arXiv 2102.02887).
    """

    names: tuple[str, ...]
    weights: tuple[int, ...]
    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    grown: tuple[int, ...]
    initial: tuple[int, ...]
    survived: tuple[int, ...]
    explored: tuple[int, ...]


class TopologyTracker:
    """Counts how masks change from one look to the next.

    Keeps 3 bytes per masked weight on the masks' device. The device is waited for once a look.

    Args:
        masks: the first masks, name -> bool tensor, True = kept. They are copied.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self._initial = {name: mask.clone() for name, mask in masks.items()}
        self._before = {name: mask.clone() for name, mask in masks.items()}
        self._explored = {name: mask.clone() for name, mask in masks.items()}

    def fits(self, masks: Mapping[str, Tensor]) -> bool:
        """Whether ``masks`` are of the same layers and shapes."""
        return masks.keys() == self._initial.keys() and all(
            mask.shape == self._initial[name].shape for name, mask in masks.items()
        )

    @torch.no_grad()
    def look(self, masks: Mapping[str, Tensor]) -> TopologyChange:
        """What has changed since the last look.

        Args:
            masks: those of now; they have to fit.
        """
        counts = [self._look_at_layer(name, masks[name]) for name in self._initial]
        kept, grown, before, initial, survived, explored = zip(*torch.stack(counts).tolist(), strict=True)
        return TopologyChange(
            names=tuple(self._initial),
            weights=tuple(mask.numel() for mask in self._initial.values()),
            kept=kept,
            dropped=tuple(old + new - now for old, new, now in zip(before, grown, kept, strict=True)),
            grown=grown,
            initial=initial,
            survived=survived,
            explored=explored,
        )

    def _look_at_layer(self, name: str, mask: Tensor) -> Tensor:
        if self._initial[name].device != mask.device:
            for kept in (self._initial, self._before, self._explored):
                kept[name] = kept[name].to(mask.device)
        initial, before, explored = self._initial[name], self._before[name], self._explored[name]
        explored |= mask
        counts = [
            mask.count_nonzero(),
            (mask > before).count_nonzero(),
            before.count_nonzero(),
            initial.count_nonzero(),
            (mask & initial).count_nonzero(),
            explored.count_nonzero(),
        ]
        before.copy_(mask)
        return torch.stack(counts)

    def masks(self) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, Tensor]]:
        """The initial masks, those of the last look, and what was ever active: live tensors."""
        return self._initial, self._before, self._explored

    @classmethod
    def restore(
        cls, initial: Mapping[str, Tensor], before: Mapping[str, Tensor], explored: Mapping[str, Tensor]
    ) -> TopologyTracker:
        """A tracker that goes on from what :meth:`masks` returned; the tensors are copied."""
        tracker = cls(initial)
        tracker._before = {name: mask.clone() for name, mask in before.items()}
        tracker._explored = {name: mask.clone() for name, mask in explored.items()}
        return tracker
