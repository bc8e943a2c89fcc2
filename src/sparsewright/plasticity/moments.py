"""Moments of a run at which it is branched: ends of its epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sparsewright.training.duration import Duration, Share, is_duration, is_share

DEFAULT_MOMENTS = ("20%", "45%", "55%", "90%")


@dataclass(frozen=True)
class Moment:
    """The end of an epoch of the base.

    Attributes:
        epoch: how many epochs are done.
        step: how many optimizer steps are done.
        learning_rate: of the last of them, which every branch keeps; a drop that begins here has not come yet.
    """

    epoch: int
    step: int
    learning_rate: float


def moment_epochs(at: Sequence[str] | None, epochs: float) -> list[int]:
    """The epochs, ascending, at whose ends the moments ``at`` fall: ``20%`` of the run, or ``8ep``.

    Args:
        at: the moments as they are written; a share is rounded to a whole epoch, one that ends before the run does.
            None for ``DEFAULT_MOMENTS``, of which those that fall on the same epoch count once.
        epochs: of the run, the last of which may be cut short.

    Raises:
        ValueError: no moment, one of another form or not within the run, or two that fall on the same epoch.
    """
    last = math.ceil(epochs) - 1
    if last < 1:
        length = f"{epochs:g} epoch" + ("s" if epochs > 1 else "")
        raise ValueError(f"the run has {length}, and a moment is the end of an epoch before the last")
    if at is None:
        return sorted({_epoch(text, epochs, last) for text in DEFAULT_MOMENTS})
    if not at:
        raise ValueError("at least one moment is needed, such as 50%")
    found: dict[int, str] = {}
    for text in at:
        epoch = _epoch(text, epochs, last)
        if found.get(epoch) == text:
            raise ValueError(f"the moment {text} is given twice")
        if epoch in found:
            raise ValueError(
                f"the moments {found[epoch]} and {text} both fall on the end of epoch {epoch} of {epochs:g}; give one "
                "of them with --at"
            )
        found[epoch] = text
    return sorted(found)


def _epoch(text: str, epochs: float, last: int) -> int:
    if is_share(text):
        share = Share.parse(text).percent / 100
        if share < 1:
            return min(max(round(epochs * share), 1), last)
    elif is_duration(text):
        duration = Duration.parse(text)
        if duration.unit == "ep" and duration.amount.is_integer() and 1 <= duration.amount <= last:
            return int(duration.amount)
    raise ValueError(
        f"a moment is the end of an epoch before the last, written as 45% of the run or as 1ep to {last}ep, "
        f"got {text!r}"
    )
