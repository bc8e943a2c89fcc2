"""In-time over-parametrisation: how much of a network dynamic sparse training has explored (arXiv 2102.02887)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class ExplorationTracker:
    """Remembers which weights were ever active, from the masks it is shown.

    Whoever wants the figure shows it the masks after each topology update; between updates nothing changes::

        tracker = ExplorationTracker(sparsifier.masks)
        ...
        optimizer.step()
        if sparsifier.topology_version != seen:
            seen = sparsifier.topology_version
            tracker.update(sparsifier.masks)

    Costs 1 byte per masked weight, on the masks' device.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        """Start from the first masks: name -> bool tensor, True = active. They are copied."""
        self._explored = {name: mask.to(torch.bool, copy=True) for name, mask in masks.items()}

    def update(self, masks: Mapping[str, Tensor]) -> None:
        """Count what is active now as explored.

        Raises:
            ValueError: other names or shapes than at the start; nothing is counted then.
        """
        if masks.keys() != self._explored.keys():
            different = sorted(masks.keys() ^ self._explored.keys())
            raise ValueError(f"masks of other layers than at the start; different: {', '.join(different)}")
        for name, explored in self._explored.items():
            if masks[name].shape != explored.shape:
                raise ValueError(
                    f"mask {name!r} has shape {tuple(masks[name].shape)}, at the start it had {tuple(explored.shape)}"
                )
        for name, explored in self._explored.items():
            explored |= masks[name].to(device=explored.device, dtype=torch.bool)

    def layer_rates(self) -> dict[str, float]:
        """Name -> fraction of the layer's weights that were active at some time, in [0, 1]."""
        return {name: int(mask.sum()) / max(1, mask.numel()) for name, mask in self._explored.items()}

    def rate(self) -> float:
        """The ITOP rate R_s: fraction of all masked weights that were active at some time; 1.0 without masks."""
        total = sum(mask.numel() for mask in self._explored.values())
        return sum(int(mask.sum()) for mask in self._explored.values()) / total if total else 1.0

    def state_dict(self) -> dict[str, Tensor]:
        """Name -> bool tensor of explored weights, copied."""
        return {name: mask.clone() for name, mask in self._explored.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a saved state.

        Raises:
            ValueError: other names or shapes than this tracker's; nothing is changed then.
        """
        fresh = ExplorationTracker({name: torch.zeros_like(mask) for name, mask in self._explored.items()})
        fresh.update(state)
        self._explored = fresh._explored
