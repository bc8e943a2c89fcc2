"""Exact top-k over many tensors, without sorting or joining them.

The k-th largest value is bracketed from a sample, one pass counts what lies above the bracket and collects the few
values inside, and the search ends exactly among those. Ties at the threshold are broken by position (first tensor
first, lowest index first), so that a selection is the same on every device and with any number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_SMALL = 1 << 17
_SAMPLE = 1 << 16


def kth_largest(scores: Sequence[Tensor], k: int) -> Tensor:
    """The k-th largest value (k counts from 1) over all tensors jointly, as a 0-dimensional tensor.

    Args:
        scores: tensors of any shapes, one dtype and device, without NaN.
        k: between 1 and the total number of entries.

    Raises:
        ValueError: k is out of range.
    """
    total = sum(score.numel() for score in scores)
    if not 1 <= k <= total:
        raise ValueError(f"k must be between 1 and the {total} scores, got {k}")
    flat = [score.reshape(-1) for score in scores]
    if total <= _SMALL:
        return _kth_of(torch.cat(flat), k)
    low, high = _bracket(flat, k, total)
    above = sum(int((score > high).count_nonzero()) for score in flat)
    if above >= k:
        low, high, above = high, high.new_tensor(torch.inf), 0
    inside = torch.cat([score[(score >= low) & (score <= high)] for score in flat])
    if above + inside.numel() < k:
        inside = torch.cat([score[score <= high] for score in flat])
    return _kth_of(inside, k - above)


def top_k(scores: Sequence[Tensor], k: int) -> list[Tensor]:
    """Bool masks of the exactly k largest scores over all tensors jointly.

    Args:
        scores: tensors of any shapes, one dtype and device, without NaN; -inf marks entries that must not be chosen
            before all others are.
        k: how many to choose, from 0 to the total number of entries.

    Raises:
        ValueError: k is out of range.
    """
    if k == 0:
        return [torch.zeros_like(score, dtype=torch.bool) for score in scores]
    threshold = kth_largest(scores, k)
    chosen = [score > threshold for score in scores]
    missing = k - sum(int(mask.count_nonzero()) for mask in chosen)
    for score, mask in zip(scores, chosen, strict=True):
        if missing == 0:
            break
        ties = (score == threshold).reshape(-1).nonzero().squeeze(1)[:missing]
        flat = mask.reshape(-1)
        flat[ties] = True
        mask.copy_(flat.reshape(mask.shape))
        missing -= ties.numel()
    return chosen


def _kth_of(values: Tensor, k: int) -> Tensor:
    return values.kthvalue(values.numel() - k + 1).values


def _bracket(flat: Sequence[Tensor], k: int, total: int) -> tuple[Tensor, Tensor]:
    """Two values between which the k-th largest lies, almost surely; the caller checks."""
    stride = max(total // _SAMPLE, 1)
    sample = torch.cat([score[::stride] for score in flat]).sort(descending=True).values
    size = sample.numel()
    fraction = k / total
    margin = int(5 * (size * fraction * (1 - fraction)) ** 0.5) + len(flat) + 8
    position = int(fraction * size)
    first, last = position - margin, position + margin
    infinity = sample.new_tensor(torch.inf)
    return (sample[last] if last < size else -infinity), (sample[first] if first >= 0 else infinity)
