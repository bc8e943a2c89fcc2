"""Lists that are written with commas on the command line."""

from __future__ import annotations


def listed(text: str, option: str) -> list[str]:
    """The entries of a list written with commas.

    Raises:
        ValueError: an entry is missing.
    """
    entries = [entry.strip() for entry in text.split(",")]
    if not all(entries):
        raise ValueError(f"{option} is a list with commas between its entries, and one is missing in {text!r}")
    return entries


def listed_shares(text: str, option: str) -> list[float]:
    """The shares of a list written with commas, as 0.9 or 90%.

    Raises:
        ValueError: an entry is missing or no number.
    """
    entries = listed(text, option)
    try:
        return [float(entry[:-1]) / 100 if entry.endswith("%") else float(entry) for entry in entries]
    except ValueError as error:
        raise ValueError(f"{option} is a list of shares such as 0.5,0.9 or 50%,90%, got {text!r}") from error


def listed_whole(text: str, option: str) -> list[int]:
    """The whole numbers of a list written with commas.

    Raises:
        ValueError: an entry is missing or no whole number.
    """
    entries = listed(text, option)
    try:
        return [int(entry) for entry in entries]
    except ValueError as error:
        raise ValueError(f"{option} is a list of whole numbers such as 0,1,2, got {text!r}") from error
