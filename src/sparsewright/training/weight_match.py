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

_INTEGERS = frozenset(
    (torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64, torch.int64)
)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class WeightMatch:
    """What fits and what does not; names are those of the model without wrappers.

    Attributes:
        matched: names that the file and the model have, with the same shape and kind.
        missing: parameters and buffers of the model that the file lacks.
        unexpected: entries of the file that the model lacks.
        misshapen: name -> (shape in the file, shape in the model), where the two differ.
        mistyped: name -> (type in the file, type in the model), where the shapes are the same and the kinds differ.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: Mapping[str, tuple[Shape, Shape]]
    mistyped: Mapping[str, tuple[str, str]]

    @property
    def complete(self) -> bool:
        """Whether everything fits."""
        return not (self.missing or self.unexpected or self.misshapen or self.mistyped)

    def describe(self) -> str:
        """What does not fit, with counts and the first names; empty if everything fits."""
        shapes = [f"{name} {there} for {here}" for name, (there, here) in self.misshapen.items()]
        types = [f"{name} {there} for {here}" for name, (there, here) in self.mistyped.items()]
        kinds = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", shapes),
            ("of another type", types),
        )
        return "; ".join(f"{len(names)} {kind}: {join_names(names)}" for kind, names in kinds if names)


def match_weights(model: nn.Module, tensors: Mapping[str, Tensor], others: Iterable[str] = ()) -> WeightMatch:
    """Compares names, shapes and kinds; a tensor that the model shares is looked for under its first name.

    The kinds are floating point, integer, and each other type or layout (bool, complex, quantised, sparse) on its own;
    values of one kind become those of the model's type by rounding, and nothing converts one kind to another.

    Args:
        model: unwrapped, on any device.
        tensors: the file's, by name.
        others: further names of the file, which fit nothing.
    """
    needed, known = first_names(model), model.state_dict(keep_vars=True)
    common = {name: (tensor, known[name]) for name, tensor in tensors.items() if name in known}
    misshapen = {
        name: (tuple(there.shape), tuple(here.shape))
        for name, (there, here) in common.items()
        if there.shape != here.shape
    }
    mistyped = {
        name: (_type(there), _type(here))
        for name, (there, here) in common.items()
        if name not in misshapen and not _same_kind(name, there, here)
    }
    return WeightMatch(
        matched=tuple(name for name in common if name not in misshapen and name not in mistyped),
        missing=tuple(name for name in needed if name not in tensors and not name.endswith(_NOT_NEEDED)),
        unexpected=(*(name for name in tensors if name not in known), *others),
        misshapen=misshapen,
        mistyped=mistyped,
    )


@torch.no_grad()
def fill_matched(model: nn.Module, tensors: Mapping[str, Tensor], match: WeightMatch) -> None:
    """Copies the matched tensors into ``model``, in its own types and on its own devices."""
    state = model.state_dict(keep_vars=True)
    for name in match.matched:
        state[name].copy_(tensors[name])


def names_of_nonfinite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the ``tensors`` with a NaN or an infinity, in their order."""
    return [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]


def _same_kind(name: str, there: Tensor, here: Tensor) -> bool:
    kinds = {_kind(there), _kind(here)}
    # Averages over the weights of several steps turn this count into a floating-point number.
    return len(kinds) == 1 or (name.endswith(_NOT_NEEDED) and kinds == {"floating point", "integer"})


def _kind(tensor: Tensor) -> str:
    if tensor.layout is torch.strided and not tensor.is_meta:
        if tensor.is_floating_point():
            return "floating point"
        if tensor.dtype in _INTEGERS:
            return "integer"
    return _type(tensor)


def _type(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "meta"
    return str(tensor.dtype if tensor.layout is torch.strided else tensor.layout).removeprefix("torch.")
