"""Checks of arguments, with errors that name the argument and what is allowed."""

from __future__ import annotations

import difflib
import numbers
from collections.abc import Iterable
from typing import Any


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The middle of an error message, "; did you mean 'X'?" with the nearest known name; empty if none is near."""
    near = difflib.get_close_matches(str(wrong), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_sparsity(value: Any, option: str = "sparsity") -> float:
    """Return a sparsity as a float.

    Raises:
        TypeError: not a number.
        ValueError: outside [0, 1), or an N:M pattern.
    """
    if isinstance(value, str) and ":" in value:
        raise ValueError(f"{option}={value!r}: N:M patterns are not supported yet; give a fraction in [0, 1)")
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        ratios = isinstance(value, (dict, list, tuple)) and option == "sparsity"
        hint = " (ratios per layer are for greg-1, greg-2 and magnitude)" if ratios else ""
        raise TypeError(f"{option} must be a number in [0, 1), the fraction of zeros{hint}, got {value!r}")
    if not 0 <= float(value) < 1:
        raise ValueError(f"{option} must be in [0, 1), the fraction of zeros, got {value}")
    return float(value)


def check_count(value: Any, option: str, least: int = 1) -> int:
    """Return a whole number that is at least ``least``.

    Raises:
        TypeError: not a whole number.
        ValueError: too small.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{option} must be an int, got {value!r}")
    if int(value) < least:
        raise ValueError(f"{option} must be at least {least}, got {value}")
    return int(value)


def check_seed(value: Any) -> int:
    """Return a seed, a whole number of at least 0 that fits into 63 bits.

    Raises:
        TypeError: not a whole number.
        ValueError: out of range.
    """
    seed = check_count(value, "seed", least=0)
    if seed >= 2**63:
        raise ValueError(f"seed must be below 2**63, got {value}")
    return seed


def check_number(value: Any, option: str, highest: float | None = None) -> float:
    """Return a number between 0 and ``highest``.

    Raises:
        TypeError: not a number.
        ValueError: negative, NaN or too large.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{option} must be a number, got {value!r}")
    number = float(value)
    # Written so that NaN, which compares false with everything, is refused too.
    if not (number >= 0 and (highest is None or number <= highest)):
        raise ValueError(f"{option} must be {'at least 0' if highest is None else f'in [0, {highest:g}]'}, got {value}")
    return number


def check_positive(value: Any, option: str) -> float:
    """Return a finite number above 0.

    Raises:
        TypeError: not a number.
        ValueError: zero, negative, infinite or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{option} must be a number, got {value!r}")
    if not 0 < float(value) < float("inf"):
        raise ValueError(f"{option} must be a finite number above 0, got {value}")
    return float(value)


def check_moment(value: Any, option: str) -> float | int:
    """Return a moment as a plain float (fraction of the run) or int (steps).

    Raises:
        TypeError: neither int nor float.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{option} must be a float (fraction of total_steps) or an int (steps), got {value!r}")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def check_choice(value: Any, option: str, choices: tuple[str | None, ...]) -> None:
    """Raise a ValueError unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{option} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_bool(value: Any, option: str) -> None:
    """Raise a TypeError unless the value is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{option} must be True or False, got {value!r}")


def join_names(names: Iterable[str], shown: int = 5) -> str:
    """The first names joined by commas, and how many more there are."""
    everything = list(names)
    more = f" and {len(everything) - shown} more" if len(everything) > shown else ""
    return ", ".join(everything[:shown]) + more
