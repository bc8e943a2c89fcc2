"""Exact top-k over many tensors, without sorting or joining them.

The k-th largest value is bracketed from a sample, one pass counts what lies above the bracket and collects the few
values inside, and the search ends exactly among those. Where the bracket misses, another sample gives a wider one, and
the pass is repeated. Ties at the threshold are broken by position (first tensor first, lowest index first), so that a
selection is the same on every device and with any number of threads.

The scores are read in a few passes and none is held. Scores that depend on each entry alone can be given as
:class:`Elementwise`: they are computed piece by piece, in the processor's cache, and the sample computes only itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

# Scores looked at together: few enough for a processor's cache and for exact sums of float32 flags, and enough for the
# calls to cost little, of which a GPU needs more. So many in all, or fewer, are computed once and held.
_PIECE = 1 << 19
_PIECE_ON_GPU = 1 << 22
# Steps of the samples of many scores and of few, another one after each miss: primes that are no usual row length, so
# that a sample does not fall into step with the rows of a weight.
_STRIDES = (131, 113, 97)
_SHORT_STRIDES = (37, 43, 29)
# Half the width of the first bracket, in standard deviations of a rank in the sample, and how much a miss widens it.
_DEVIATIONS = 3.0
_WIDENING = 8.0


class Elementwise:
    """Scores that are a function of each entry alone, computed when they are read and never held.

    Dense tensors are read in the order of the first one's memory, without a copy; one with another memory layout than
    the first is copied whenever it is read.

    Args:
        rule: scores of some entries: takes 1-D tensors of one length, a slice of each of ``tensors``, and returns a
            floating-point tensor of that length, without NaN; must not change its arguments.
        *tensors: one or more, of one shape and device.

    Raises:
        TypeError: no tensor is given.
        ValueError: the tensors differ in shape.
    """

    def __init__(self, rule: Callable[..., Tensor], *tensors: Tensor) -> None:
        if not tensors:
            raise TypeError("elementwise scores need at least one tensor")
        shapes = [tuple(tensor.shape) for tensor in tensors]
        if len(set(shapes)) > 1:
            raise ValueError(f"the tensors of elementwise scores must have one shape, got {shapes}")
        self.rule = rule
        self.tensors = tensors
        self._order = _memory_order(tensors[0])

    def numel(self) -> int:
        """Number of scores."""
        return self.tensors[0].numel()

    def pieces(self, size: int) -> Iterator[Tensor]:
        """All scores in memory order, ``size`` at a time, as 1-D tensors that may be views; the last is shorter."""
        lines = self._lines()
        if self.numel() <= size:
            yield self.rule(*lines)
            return
        for slices in zip(*(line.split(size) for line in lines), strict=True):
            yield self.rule(*slices)

    def every(self, stride: int, start: int) -> Tensor:
        """A copy of every ``stride``-th score in memory order, from the position ``start``; 1-D."""
        return self.rule(*(line[start::stride] for line in self._lines())).clone()

    @torch.no_grad()
    def mask(self, compare: Callable[..., Tensor], bound: Tensor | float) -> Tensor:
        """Where ``compare(scores, bound)`` holds: bool, of the tensors' shape, in the first one's memory layout.

        Args:
            compare: a comparison such as ``torch.gt``.
            bound: a number, or a 0-dimensional tensor of the scores' dtype.
        """
        mask = torch.empty(self.numel(), dtype=torch.bool, device=self.tensors[0].device)
        size = _piece_size(mask.device)
        for part, piece in zip(mask.split(size), self.pieces(size), strict=True):
            part.copy_(_flags(compare, piece, bound))
        if self._order is None:
            return mask.view(self.tensors[0].shape)
        back = [self._order.index(dimension) for dimension in range(len(self._order))]
        return mask.view(self.tensors[0].permute(self._order).shape).permute(back)

    def _lines(self) -> list[Tensor]:
        """The tensors in memory order, with one dimension."""
        if self._order is None:
            return [tensor.reshape(-1) for tensor in self.tensors]
        return [tensor.permute(self._order).reshape(-1) for tensor in self.tensors]


Scores: TypeAlias = Collection[Tensor | Elementwise]


@torch.no_grad()
def kth_largest(scores: Scores, k: int) -> Tensor:
    """The k-th largest value (k counts from 1) over all scores jointly, as a 0-dimensional tensor.

    Beside one piece of the scores it needs memory for a few hundredths of them.

    Args:
        scores: of any shapes, one floating-point dtype and device, without NaN; infinities are allowed.
        k: between 1 and the total number of scores.

    Raises:
        ValueError: k is out of range.
    """
    attempt = 0
    while True:
        scores, sample, total = _survey(scores, attempt)
        if not 1 <= k <= total:
            raise ValueError(f"k must be between 1 and the {total} scores, got {k}")
        low, high = _bracket(sample, k / total, attempt)
        above, inside = _narrow(scores, low, high)
        if above < k <= above + inside.numel():
            return _ranked(inside, k - above)
        # Ties with the ends are only counted: there can be very many, as where most entries are -inf.
        if k <= above and count_above(scores, high) < k:
            return high
        if k > above and _count(scores, torch.ge, low) >= k:
            return low
        attempt += 1


@torch.no_grad()
def top_k(scores: Scores, k: int) -> list[Tensor]:
    """Bool masks of the exactly k largest scores over all of them jointly.

    Args:
        scores: of any shapes, one floating-point dtype and device, without NaN; -inf marks entries that must not be
            chosen before all others are.
        k: how many to choose, from 0 to the total number of scores.

    Returns:
        A mask per entry of ``scores``, of its shape and memory layout.

    Raises:
        ValueError: k is out of range.
    """
    if k == 0:
        return [torch.zeros_like(_elementwise(score).tensors[0], dtype=torch.bool) for score in scores]
    threshold = kth_largest(scores, k)
    masks = [_elementwise(score).mask(torch.ge, threshold) for score in scores]
    if int(torch.stack([mask.count_nonzero() for mask in masks]).sum()) > k:
        _drop_last_ties(scores, masks, threshold, k - count_above(scores, threshold))
    return masks


@torch.no_grad()
def count_above(scores: Scores, bound: Tensor | float) -> int:
    """How many scores are greater than ``bound``, a number or a 0-dimensional tensor of their dtype."""
    return _count(scores, torch.gt, bound)


def _count(scores: Scores, compare: Callable[..., Tensor], bound: Tensor | float) -> int:
    return _sum([_flags(compare, piece, bound).sum() for piece in _pieces(scores)])


def _sum(counts: list[Tensor]) -> int:
    """The sum of whole numbers kept as floats, in one transfer from the device."""
    return int(torch.stack(counts).sum(dtype=torch.float64)) if counts else 0


def _elementwise(score: Tensor | Elementwise) -> Elementwise:
    return score if isinstance(score, Elementwise) else Elementwise(lambda piece: piece, score)


def _memory_order(tensor: Tensor) -> list[int] | None:
    """The order of dimensions in which a tensor lies in memory; None if that is the given order."""
    if tensor.is_contiguous():
        return None
    return sorted(range(tensor.dim()), key=tensor.stride, reverse=True)


def _survey(scores: Scores, attempt: int) -> tuple[Scores, Tensor, int]:
    """The scores to search in, a sample of them, and their number; few scores are computed and joined by it."""
    stride = _STRIDES[attempt % len(_STRIDES)]
    held: list[Tensor] = []
    samples: list[Tensor] = []
    total = 0
    for score in scores:
        given = _elementwise(score)
        if total + given.numel() <= _PIECE:
            held += given.pieces(_PIECE)
        else:
            if held:
                samples.append(torch.cat(held)[::stride])
                held.clear()
            samples.append(given.every(stride, -total % stride))
        total += given.numel()
    if total > _PIECE:
        return scores, torch.cat(samples), total
    joined = torch.cat(held) if held else torch.empty(0)
    return [joined], joined[:: _SHORT_STRIDES[attempt % len(_SHORT_STRIDES)]], total


def _bracket(sample: Tensor, fraction: float, attempt: int) -> tuple[Tensor, Tensor]:
    """Two values between which the score at a fraction from the top lies, almost surely; the search checks."""
    size = sample.numel()
    deviations = _DEVIATIONS * _WIDENING**attempt
    margin = deviations * ((size * fraction * (1 - fraction)) ** 0.5 + 1)
    return _ranked(sample, int(fraction * size + margin) + 1), _ranked(sample, int(fraction * size - margin))


def _ranked(values: Tensor, rank: int) -> Tensor:
    """The value of a rank from the top, which counts from 1; infinite where there are not so many."""
    size = values.numel()
    if not 1 <= rank <= size:
        return values.new_tensor(torch.inf if rank < 1 else -torch.inf)
    # Not kthvalue: on a CPU its time grows with the square of the length where the values descend, and on a GPU torch
    # refuses it where algorithms must be deterministic.
    if 2 * rank <= size:
        return values.topk(rank, sorted=False).values.amin()
    return values.topk(size - rank + 1, largest=False, sorted=False).values.amax()


def _narrow(scores: Scores, low: Tensor, high: Tensor) -> tuple[int, Tensor]:
    """The number of scores that are ``high`` or more, and all those strictly between ``low`` and ``high``."""
    total = 0
    below: list[Tensor] = []
    found: list[Tensor] = []
    for piece in _pieces(scores):
        flags = _flags(torch.lt, piece, high)
        total += piece.numel()
        below.append(flags.sum())
        inside = flags.bool()
        inside &= torch.gt(piece, low, out=flags).bool()
        found += _extract(piece, inside)
    return total - _sum(below), torch.cat(found)


def _flags(compare: Callable[..., Tensor], piece: Tensor, bound: Tensor | float) -> Tensor:
    """1.0 where the comparison holds and 0.0 elsewhere: on a CPU, far faster than with bools for an output."""
    dtype = torch.promote_types(piece.dtype, torch.float32)
    return compare(piece, bound, out=torch.empty_like(piece, dtype=dtype))


def _extract(piece: Tensor, chosen: Tensor) -> list[Tensor]:
    """The few chosen entries of a 1-D tensor, found by looking at eight flags at a time."""
    body = piece.numel() // 8 * 8
    lanes = chosen[:body].view(torch.int64)
    rows = lanes.nonzero().squeeze(1)
    flags = lanes.index_select(0, rows).view(torch.bool)
    values = piece[:body].reshape(-1, 8).index_select(0, rows).view(-1)
    return [values.masked_select(flags), piece[body:].masked_select(chosen[body:])]


def _pieces(scores: Scores) -> Iterator[Tensor]:
    """All scores as 1-D tensors of at most a piece; small tensors come joined, so that they cost few calls."""
    waiting: list[Tensor] = []
    number = 0
    for score in scores:
        given = _elementwise(score)
        size = _piece_size(given.tensors[0].device)
        if given.numel() > size // 2:
            yield from given.pieces(size)
            continue
        waiting += given.pieces(size)
        number += given.numel()
        if number > size // 2:
            yield torch.cat(waiting)
            waiting, number = [], 0
    if waiting:
        yield torch.cat(waiting)


def _piece_size(device: torch.device) -> int:
    return _PIECE if device.type == "cpu" else _PIECE_ON_GPU


def _drop_last_ties(scores: Scores, masks: list[Tensor], threshold: Tensor, kept: int) -> None:
    """Take from the masks, in place, all scores equal to the threshold but the first ``kept``."""
    for score, mask in zip(scores, masks, strict=True):
        ties = _elementwise(score).mask(torch.eq, threshold)
        number = int(ties.count_nonzero())
        if number > kept:
            surplus = ties.reshape(-1)
            surplus[: _end_of_first(surplus, kept)] = False
            mask &= ~surplus.view(mask.shape)
        kept = max(kept - number, 0)


def _end_of_first(flags: Tensor, number: int) -> int:
    """The position after the ``number``-th True of a 1-D tensor."""
    for index, piece in enumerate(flags.split(_PIECE)):
        here = int(piece.count_nonzero())
        if here >= number:
            return index * _PIECE + (int(piece.nonzero()[number - 1]) + 1 if number else 0)
        number -= here
    return flags.numel()
