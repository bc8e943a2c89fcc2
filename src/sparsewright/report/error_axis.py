"""An axis of accuracy that is logarithmic in the error: 99.0 and 99.5 % are as far apart as 90 and 95 %."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sparsewright.report.log_ticks import log_ticks

_STEPS = 7
"""Between the labels of a narrow range, for which a page has room in the height."""

LEAST_ERROR = 0.01
"""In per cent; less, such as none at all, is drawn there."""


def error_of(accuracy: float) -> float:
    """The place of an accuracy in per cent on the axis."""
    return max(100.0 - accuracy, LEAST_ERROR)


def error_bars(accuracies: Sequence[float], deviations: Sequence[float | None]) -> dict[str, Any]:
    """Bars of one standard deviation around places on the axis, as plotly takes them; cut off at its end."""
    known = [deviation or 0.0 for deviation in deviations]
    errors = [error_of(accuracy) for accuracy in accuracies]
    return {
        "type": "data",
        "array": known,
        "arrayminus": [min(one, error - LEAST_ERROR) for one, error in zip(known, errors, strict=True)],
        "visible": any(known),
        "thickness": 1,
        "width": 3,
    }


def accuracy_axis(accuracies: Sequence[float], deviations: Sequence[float | None]) -> dict[str, Any]:
    """Settings of plotly for the y axis of a plot that shows ``accuracies``, in per cent, with their bars."""
    errors = [error_of(accuracy) for accuracy in accuracies]
    known = [deviation or 0.0 for deviation in deviations]
    low = min(max(error - one, error / 2) for error, one in zip(errors, known, strict=True))
    high = max(error + one for error, one in zip(errors, known, strict=True))
    room = max((high / low) ** 0.06, 1.01)
    ticks = [tick for tick in log_ticks(low, high, _STEPS, dense=True) if tick <= 100]
    return {
        "title": {"text": "accuracy, % (logarithmic in the error)"},
        "type": "log",
        "range": [math.log10(high * room), math.log10(low / room)],
        "tickvals": ticks,
        "ticktext": [f"{100 - tick:.6g}" for tick in ticks],
        "zeroline": False,
    }
