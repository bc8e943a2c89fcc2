"""How a user may spell the weight of a layer."""

from __future__ import annotations

from typing import Any

from torch import nn

from sparsewright.checks import did_you_mean
from sparsewright.scope import canonical_names

_WEIGHT = ".weight"


class ParameterNames:
    """Finds parameters by their own names, by the names sparsifiers give them, and by the layer whose weight they are.

    Args:
        network: the unwrapped network.
    """

    def __init__(self, network: nn.Module) -> None:
        own = [name for name, _ in network.named_parameters(remove_duplicate=False)]
        canonical = canonical_names(own)
        self._known = {canonical[name]: name for name in own} | {name: name for name in own}

    def find(self, given: Any) -> str:
        """The parameter's own name.

        Raises:
            TypeError: ``given`` is no string.
            ValueError: no parameter and no layer with a weight is called so.
        """
        if not isinstance(given, str):
            raise TypeError(f"pruned_groups must have names of parameters or layers as keys, got {given!r}")
        for name in (given, f"{given}{_WEIGHT}"):
            for spelling in (name, *canonical_names([name]).values()):
                if spelling in self._known:
                    return self._known[spelling]
        raise ValueError(
            f"pruned_groups: the model has no parameter, and no layer with a weight, {given!r}{self._suggestion(given)}"
        )

    def _suggestion(self, given: str) -> str:
        # Compared without their common ending, which would make any two of them look alike.
        if given.endswith(_WEIGHT):
            return did_you_mean(given.removesuffix(_WEIGHT), self._layers())
        return did_you_mean(given, [*self._layers(), *self._known])

    def _layers(self) -> list[str]:
        return [name.removesuffix(_WEIGHT) for name in self._known if name.endswith(_WEIGHT)]
