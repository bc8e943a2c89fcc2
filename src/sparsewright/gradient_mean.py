"""The mean gradient of each weight over several steps, exact also where a step's gradient is computed twice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class GradientMean:
    """Gradients of some steps, summed by weight.

    The gradient of the last step is kept beside the sum of those before it, 8 bytes per weight together, so that it can
    be replaced: an optimizer may evaluate its closure twice, or repeat a step that a gradient scaler has skipped.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps: dict[str, int] = {}
        self._last: dict[str, tuple[int, Tensor]] = {}

    def add(self, name: str, gradient: Tensor, step: int) -> None:
        """Add a weight's gradient of a step, in place of one of the same step.

        Args:
            name: the weight.
            gradient: float32 of its shape; kept, and must not change afterwards.
            step: number of the step, which never falls.
        """
        self._fold(name, step)
        self._last[name] = (step, gradient)

    def with_gradient(self, name: str, gradient: Tensor, step: int) -> Tensor:
        """The mean of the gradients added before ``step`` and this one, which is changed in place and returned."""
        self._fold(name, step)
        if name in self._sums:
            gradient.add_(self._sums[name]).div_(self._steps[name] + 1)
        return gradient

    def clear(self) -> None:
        """Forget everything."""
        self._sums.clear()
        self._steps.clear()
        self._last.clear()

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Name -> sum (tensor) and number of steps, between two steps."""
        for name in list(self._last):
            self._fold(name)
        return {name: {"sum": total.clone(), "steps": self._steps[name]} for name, total in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> None:
        """Continue from a saved state, on the parameters' devices; see :func:`check_sums`."""
        self.clear()
        for name, entry in state.items():
            self._sums[name] = torch.empty_like(parameters[name], dtype=torch.float32).copy_(entry["sum"])
            self._steps[name] = int(entry["steps"])

    def _fold(self, name: str, step: int | None = None) -> None:
        """Add the kept gradient to the sum, unless it is of this very step; then forget it."""
        if name not in self._last:
            return
        added, gradient = self._last.pop(name)
        if added == step:
            return
        self._sums[name] = self._sums[name].add_(gradient) if name in self._sums else gradient
        self._steps[name] = self._steps.get(name, 0) + 1


def check_sums(state: Any, parameters: Mapping[str, Tensor]) -> None:
    """Refuse sums that do not fit the parameters.

    Raises:
        ValueError: not what :meth:`GradientMean.state_dict` gives, or of other weights or shapes; the weight is named.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"the saved sums of gradients are damaged: a mapping is expected, not {type(state).__name__}")
    for name, entry in state.items():
        parameter = parameters.get(name)
        total = entry.get("sum") if isinstance(entry, Mapping) else None
        if parameter is None or not isinstance(total, Tensor) or total.shape != parameter.shape:
            raise ValueError(f"the saved sum of gradients of {name!r} does not fit this sparsifier's weights")
        if not isinstance(entry.get("steps"), int) or entry["steps"] < 1:
            raise ValueError(f"the saved sum of gradients of {name!r} lacks its number of steps")
