"""A mask in as few bytes as it needs: as a bit map, or as coded gaps where few entries are True."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsewright.export.gap_code import GapCode, decode_gaps, encode_gaps
from sparsewright.masks import pack_bits, unpack_bits

BIT_MASK, GAPS = "bit mask", "gaps"


@dataclass(frozen=True)
class MaskCode:
    """A flat bool tensor.

    Attributes:
        encoding: :data:`BIT_MASK` or :data:`GAPS`.
        count: number of True entries.
        shift: of the gaps (:class:`GapCode`); 0 for a bit mask.
        code: 1-D uint8 tensor.
    """

    encoding: str
    count: int
    shift: int
    code: Tensor


def encode_mask(mask: Tensor, least_bytes: int = 0) -> MaskCode:
    """Code a 1-D bool tensor in the shorter of the two ways; gaps only where their code has ``least_bytes`` or more."""
    gaps = encode_gaps(mask)
    if least_bytes <= gaps.code.numel() < (len(mask) + 7) // 8:
        return MaskCode(GAPS, gaps.count, gaps.shift, gaps.code)
    return MaskCode(BIT_MASK, gaps.count, 0, pack_bits(mask))


def decode_mask(coded: MaskCode, size: int) -> Tensor:
    """Positions of the True entries of a mask with ``size`` entries: rising int64.

    Raises:
        ValueError: the code is not one of such a mask.
    """
    if coded.code.dtype != torch.uint8 or coded.code.dim() != 1:
        raise ValueError(f"a mask must be bytes in one dimension, not {coded.code.dtype} of {tuple(coded.code.shape)}")
    if coded.encoding == GAPS:
        return decode_gaps(GapCode(coded.shift, coded.count, coded.code), size)
    positions = unpack_bits(coded.code, (size,)).nonzero().reshape(-1)
    if len(positions) != coded.count:
        raise ValueError(f"there are {len(positions)} positions and {coded.count} values")
    return positions
