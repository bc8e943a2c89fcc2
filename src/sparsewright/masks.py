"""A set of masks: parameter name -> bool tensor, True where the weight is kept."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsewright.checks import did_you_mean, join_names
from sparsewright.scope import find_scope, named_parameters

_GATHER_BITS = sum(1 << (56 - 7 * byte) for byte in range(8))
_INTEGER_OF_SIZE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def zero_outside_(tensor: Tensor, mask: Tensor) -> Tensor:
    """Set ``tensor`` to exactly 0 in place wherever ``mask`` (same shape, bool) is False; returns ``tensor``."""
    integer = _INTEGER_OF_SIZE.get(tensor.element_size())
    if integer is None:
        return tensor.masked_fill_(mask.logical_not(), 0)
    # Read as integers, the bits multiplied by 1 stay as they are and those multiplied by 0 are 0, for NaN and -0.0 too.
    # Unlike masked_fill_ this has no branch per weight (4 times faster on a CPU) and needs no inverted mask.
    tensor.detach().view(integer).mul_(mask)
    return tensor


def pack_bits(mask: Tensor) -> Tensor:
    """Pack a bool tensor of any shape into a 1-D uint8 CPU tensor, eight entries a byte, lowest bit first."""
    flat = mask.detach().cpu().reshape(-1)
    padded = torch.zeros((flat.numel() + 7) // 8 * 8, dtype=torch.uint8)
    padded[: flat.numel()] = flat
    if sys.byteorder == "little":
        # Eight bytes of 0 or 1 read as one integer: the product moves bit 0 of byte i to bit i of the highest byte, and
        # no two of its 64 terms meet, so nothing carries. Twenty times faster than a sum over eight columns.
        return ((padded.view(torch.int64) * _GATHER_BITS) >> 56).to(torch.uint8)
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)
    return (padded.view(-1, 8) * weights).sum(dim=1, dtype=torch.uint8)


def unpack_bits(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """Undo :func:`pack_bits`: a bool CPU tensor of the given shape.

    Raises:
        ValueError: the number of bytes does not fit the shape.
    """
    count = 1
    for size in shape:
        count *= size
    if bits.dtype != torch.uint8 or bits.dim() != 1 or bits.numel() != (count + 7) // 8:
        raise ValueError(f"{tuple(bits.shape)} bytes of {bits.dtype} do not hold a mask of shape {tuple(shape)}")
    shifts = torch.arange(8, dtype=torch.uint8)
    flat = (bits.cpu().unsqueeze(1) >> shifts).bitwise_and_(1).reshape(-1)[:count]
    return flat.to(torch.bool).reshape(tuple(shape))


class MaskSet(Mapping[str, Tensor]):
    """Masks of a model's sparsified parameters.

    A mapping of canonical parameter names (wrapper prefixes stripped) to bool tensors of the parameter's shape, True =
    kept. The tensors of a sparsifier's ``.masks`` are live: writing into one in place changes the topology from the
    next step on. The mapping itself cannot be assigned to.

    Args:
        masks: name -> bool tensor.

    Raises:
        TypeError: a value is not a bool tensor.
    """

    def __init__(self, masks: Mapping[str, Tensor] | None = None) -> None:
        self._masks = dict(masks or {})
        for name, mask in self._masks.items():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise TypeError(f"mask {name!r} must be a bool tensor (True = kept), got {kind}")

    @classmethod
    def from_zeros(
        cls, model: nn.Module, include: str | Sequence[str] | None = None, exclude: str | Sequence[str] | None = None
    ) -> MaskSet:
        """Take the exact zeros of a pruned model as masks, over the default scope or the one that the patterns give."""
        scope = find_scope(model, include, exclude)
        return cls({name: parameter.detach() != 0 for name, parameter in scope.parameters.items()})

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._masks:
            raise KeyError(f"there is no mask of {name!r}{self._what_there_is(name)}")
        return self._masks[name]

    def __contains__(self, name: object) -> bool:
        return name in self._masks

    def _what_there_is(self, wrong: str) -> str:
        if not self:
            return "; the set is empty, as it is until finalize() for a method that prunes at its end (GSM, GReg)"
        return f"{did_you_mean(wrong, self)} (masks: {join_names(self)})"

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __repr__(self) -> str:
        if not self:
            return "MaskSet(no masks)"
        return f"MaskSet({len(self)} masks, {self.kept():,} of {self.total():,} weights kept)"

    def kept(self) -> int:
        """Number of kept weights over all masks."""
        return sum(int(mask.count_nonzero()) for mask in self.values())

    def total(self) -> int:
        """Number of weights over all masks, kept or not."""
        return sum(mask.numel() for mask in self.values())

    def density(self) -> float:
        """Kept fraction over all masks; 1.0 without any mask, as before a method prunes that does so at its end."""
        return self.kept() / self.total() if self else 1.0

    def sparsity(self) -> float:
        """Fraction of zeros over all masks; 0.0 without any mask, as before a method prunes that does so at its end."""
        return (self.total() - self.kept()) / self.total() if self else 0.0

    def layer_sparsity(self) -> dict[str, float]:
        """Name -> fraction of zeros."""
        return {name: 1.0 - int(mask.count_nonzero()) / mask.numel() for name, mask in self.items()}

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Zero the masked weights of any model with the same parameter names, such as an averaged (EMA) copy.

        Raises:
            ValueError: the model lacks a parameter, or has it in another shape; nothing is changed then.
        """
        parameters = named_parameters(model)
        for name, mask in self.items():
            if name not in parameters:
                raise ValueError(f"{type(model).__name__} has no parameter {name!r}, which these masks cover")
            if parameters[name].shape != mask.shape:
                shapes = f"{tuple(parameters[name].shape)}, the mask has {tuple(mask.shape)}"
                raise ValueError(f"parameter {name!r} of {type(model).__name__} has shape {shapes}")
        for name, mask in self.items():
            zero_outside_(parameters[name], mask.to(parameters[name].device))

    def move(self, name: str, device: torch.device) -> Tensor:
        """Put one mask on a device, as when a model moves after its sparsifier was made; returns the mask there."""
        self._masks[name] = self._masks[name].to(device)
        return self._masks[name]

    def state_dict(self) -> dict[str, Any]:
        """Masks as plain values and uint8 tensors, one bit a weight: name -> {"shape": [...], "bits": tensor}."""
        return {name: {"shape": list(mask.shape), "bits": pack_bits(mask)} for name, mask in self.items()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> MaskSet:
        """Masks (on the CPU) from what :meth:`state_dict` returned.

        Raises:
            ValueError: an entry is malformed; it is named.
        """
        masks: dict[str, Tensor] = {}
        for name, entry in state.items():
            try:
                masks[name] = unpack_bits(entry["bits"], entry["shape"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"the saved mask of {name!r} is malformed: {error}") from error
        return cls(masks)
