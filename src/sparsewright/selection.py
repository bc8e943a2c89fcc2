"""Exact top-k over many tensors, without sorting or joining them.

The k-th largest value is bracketed from a sample, one pass counts what lies above the bracket and collects the few
values inside, and the search ends exactly among those. Ties at the threshold are broken by position (first tensor
first, lowest index first), so that a selection is the same on every device and with any number of threads.

The scores are read in a few passes, one tensor after the other, and none is held: a collection that computes its
tensors when they are asked for needs the memory of one of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

_SMALL = 1 << 17
# A prime, so that the sample does not fall into step with the rows of a weight.
_STRIDE = 251


def kth_largest(scores: Collection[Tensor], k: int) -> Tensor:
    """The k-th largest value (k counts from 1) over all tensors jointly, as a 0-dimensional tensor.

    Args:
        scores: tensors of any shapes, one dtype and device, without NaN.
        k: between 1 and the total number of entries.

    Raises:
        ValueError: k is out of range.
    """
    total = 0
    samples: list[Tensor] = []
    for score in scores:
        total += score.numel()
        # A copy: a view would hold the whole tensor.
        samples.append(score.reshape(-1)[::_STRIDE].clone())
    if not 1 <= k <= total:
        raise ValueError(f"k must be between 1 and the {total} scores, got {k}")
    sample = torch.cat(samples)
    if total <= _SMALL:
        low, high = sample.new_tensor(-torch.inf), sample.new_tensor(torch.inf)
    else:
        low, high = _bracket(sample, k / total, len(samples))
    return _search(scores, k, low, high)


def top_k(scores: Collection[Tensor], k: int) -> list[Tensor]:
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
    missing = k - _sum_counts(chosen)
    for score, mask in zip(scores, chosen, strict=True):
        if missing == 0:
            break
        ties = (score == threshold).reshape(-1).nonzero().squeeze(1)[:missing]
        flat = mask.reshape(-1)
        flat[ties] = True
        mask.copy_(flat.reshape(mask.shape))
        missing -= ties.numel()
    return chosen


def _search(scores: Collection[Tensor], k: int, low: Tensor, high: Tensor) -> Tensor:
    """The k-th largest value, looked for between ``low`` and ``high`` first."""
    above, at_high, at_low = 0, 0, 0
    inside: list[Tensor] = []
    for score in scores:
        flat = score.reshape(-1)
        # Ties with the ends are only counted: there can be very many, as where most entries are -inf.
        counts = [(flat > high).count_nonzero(), (flat == high).count_nonzero(), (flat == low).count_nonzero()]
        more_above, more_high, more_low = torch.stack(counts).tolist()
        above, at_high, at_low = above + more_above, at_high + more_high, at_low + more_low
        inside.append(flat[(flat > low) & (flat < high)])
    if k <= above:
        return _search(scores, k, high, high.new_tensor(torch.inf))
    if k <= above + at_high:
        return high
    values = torch.cat(inside)
    rank = k - above - at_high
    if rank <= values.numel():
        return values.kthvalue(values.numel() - rank + 1).values
    if low < high and rank <= values.numel() + at_low:
        return low
    return _search(scores, k, low.new_tensor(-torch.inf), low)


def _bracket(sample: Tensor, fraction: float, tensors: int) -> tuple[Tensor, Tensor]:
    """Two values between which the score at a fraction from the top lies, almost surely; the search checks."""
    ordered = sample.sort(descending=True).values
    size = ordered.numel()
    margin = int(5 * (size * fraction * (1 - fraction)) ** 0.5) + tensors + 8
    first, last = int(fraction * size) - margin, int(fraction * size) + margin
    infinity = ordered.new_tensor(torch.inf)
    return (ordered[last] if last < size else -infinity), (ordered[first] if first >= 0 else infinity)


def _sum_counts(masks: Sequence[Tensor]) -> int:
    return int(torch.stack([mask.count_nonzero() for mask in masks]).sum())
