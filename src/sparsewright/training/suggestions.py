"""What to say about a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable

from sparsewright.checks import did_you_mean


def nearest(wrong: str, allowed: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: the nearest valid one if any is near, and all valid ones."""
    names = list(allowed)
    if not names:
        return "; it has none"
    return f"{did_you_mean(wrong, names) or ';'} allowed: {', '.join(names)}"
