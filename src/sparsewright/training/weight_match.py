"""How the tensors of a file fit a model that they were not written for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsewright.checks import join_names
from sparsewright.training.weights import first_names

# A count that only training reads; checkpoints from before torch 0.4.1 lack it.
_NOT_NEEDED = "num_batches_tracked"

Shape = tuple[int, ...]


@dataclass(frozen=True)
class WeightMatch:
    """What fits and what does not; names are those of the model without wrappers.

    Attributes:
        matched: names that the file and the model have, with the same shape.
        missing: parameters and buffers of the model that the file lacks.
        unexpected: entries of the file that the model lacks.
        misshapen: name -> (shape in the file, shape in the model), where the two differ.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: Mapping[str, tuple[Shape, Shape]]

    @property
    def complete(self) -> bool:
        """Whether everything fits."""
        return not (self.missing or self.unexpected or self.misshapen)

    def describe(self) -> str:
        """What does not fit, with counts and the first names; empty if everything fits."""
        shapes = [f"{name} {there} for {here}" for name, (there, here) in self.misshapen.items()]
        kinds = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", shapes),
        )
        return "; ".join(f"{len(names)} {kind}: {join_names(names)}" for kind, names in kinds if names)


def match_weights(model: nn.Module, tensors: Mapping[str, Tensor], others: Iterable[str] = ()) -> WeightMatch:
    """Compares names and shapes; a tensor that the model shares is looked for under its first name.

    Args:
        model: unwrapped, on any device.
        tensors: the file's, by name.
        others: further names of the file, which fit nothing.
    """
    needed, known = first_names(model), model.state_dict(keep_vars=True)
    common = [name for name in tensors if name in known]
    differing = {name: _shapes(tensors[name], known[name]) for name in common}
    misshapen = {name: shapes for name, shapes in differing.items() if shapes[0] != shapes[1]}
    return WeightMatch(
        matched=tuple(name for name in common if name not in misshapen),
        missing=tuple(name for name in needed if name not in tensors and not name.endswith(_NOT_NEEDED)),
        unexpected=(*(name for name in tensors if name not in known), *others),
        misshapen=misshapen,
    )


@torch.no_grad()
def fill_matched(model: nn.Module, tensors: Mapping[str, Tensor], match: WeightMatch) -> None:
    """Copies the matched tensors into ``model``, in its own types and on its own devices."""
    state = model.state_dict(keep_vars=True)
    for name in match.matched:
        state[name].copy_(tensors[name])


def _shapes(there: Tensor, here: Tensor) -> tuple[Shape, Shape]:
    return tuple(there.shape), tuple(here.shape)
