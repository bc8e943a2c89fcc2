"""Which weights are kept, as Rice-coded gaps (Rice 1979; Golomb 1966): within a few per cent of the mask's entropy.

The gap before a kept weight is the number of zeros since the one before it. For a random mask gaps are geometric, and
for those a Rice code is close to the best: the low ``shift`` bits of a gap as they are, the rest in unary.

The code is laid out for decoding without a loop over weights: first the low bits, as one bit map of all gaps for each
of the ``shift`` bits, lowest first; then one bit map in which each gap has as many zeros as its high bits say, and a
one. Every bit map has eight entries a byte, lowest bit first, and is filled up with zeros to a whole byte.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsewright.masks import pack_bits, unpack_bits

MOST_SHIFT = 48
"""More zeros in a row than any tensor has."""


@dataclass(frozen=True)
class GapCode:
    """The positions of ``count`` kept weights.

    Attributes:
        shift: bits of each gap that are stored as they are.
        count: number of kept weights.
        code: 1-D uint8 tensor.
    """

    shift: int
    count: int
    code: Tensor


def encode_gaps(mask: Tensor) -> GapCode:
    """Code a bool tensor, taken flat; the shift is the one that gives the shortest code."""
    kept = mask.reshape(-1).nonzero().reshape(-1)
    gaps = kept.diff(prepend=kept.new_tensor([-1])) - 1
    shift = min(_likely_shifts(gaps), key=lambda candidate: int((gaps >> candidate).sum()) + candidate * len(gaps))
    high = gaps >> shift
    unary = torch.zeros(int(high.sum()) + len(gaps), dtype=torch.bool)
    unary[(high + 1).cumsum(0) - 1] = True
    low = [pack_bits((gaps >> bit & 1).bool()) for bit in range(shift)]
    return GapCode(shift, len(gaps), torch.cat([*low, pack_bits(unary)]))


def decode_gaps(coded: GapCode, size: int) -> Tensor:
    """The positions of the kept weights in a flat tensor of ``size`` weights: rising int64.

    Needs memory in proportion to the code, whatever its numbers say.

    Raises:
        ValueError: the code does not hold ``count`` positions below ``size``.
    """
    plane = (coded.count + 7) // 8
    if not 0 <= coded.shift <= MOST_SHIFT or coded.count < 0 or coded.shift * plane > coded.code.numel():
        raise ValueError(f"{coded.code.numel()} bytes do not hold {coded.count} gaps of {coded.shift} bits and more")
    unary = coded.code[coded.shift * plane :]
    ends = unpack_bits(unary, (8 * unary.numel(),)).nonzero().reshape(-1)
    if len(ends) != coded.count:
        raise ValueError(f"there are {len(ends)} positions and {coded.count} values")
    high = ends.diff(prepend=ends.new_tensor([-1])) - 1
    if coded.count and int(high.max()) << coded.shift >= size:
        raise ValueError(f"a gap is longer than the tensor, which has {size} weights")
    gaps = high << coded.shift
    for bit in range(coded.shift):
        low = coded.code[bit * plane : (bit + 1) * plane]
        gaps |= unpack_bits(low, (coded.count,)).long() << bit
    # Each gap is checked before they are added up, which could else overflow.
    if coded.count > size or (coded.count and int(gaps.max()) >= size):
        raise ValueError(f"a gap is longer than the tensor, which has {size} weights")
    positions = (gaps + 1).cumsum(0) - 1
    if coded.count and not (
        int(positions[0]) >= 0 and int(positions[-1]) < size and bool((positions.diff() > 0).all())
    ):
        raise ValueError(f"a position lies outside the tensor, which has {size} weights")
    return positions


def _likely_shifts(gaps: Tensor) -> range:
    """The best shift of geometric gaps is near the logarithm of ln 2 times their mean; its neighbours are tried too."""
    mean = float(gaps.double().mean()) if len(gaps) else 0.0
    best = max(0, round(math.log2(max(1.0, mean * math.log(2)))))
    return range(max(0, best - 1), best + 2)
