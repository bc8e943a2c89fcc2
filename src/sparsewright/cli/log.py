"""Reading back what runs have written about themselves."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"


def last_metrics(run: Path, count: int) -> list[dict[str, Any]]:
    """The last ``count`` lines of a run folder's metrics; a line that is still being written is left out.

    Raises:
        FileNotFoundError: no such folder, or one without metrics.
        ValueError: a line before the last one is not a JSON object.
    """
    path = run / METRICS
    if not run.is_dir():
        raise FileNotFoundError(f"there is no run folder {run}")
    if not path.is_file():
        raise FileNotFoundError(f"{run} has no {METRICS}; is it a run folder, and has its first epoch ended?")
    with path.open(encoding="utf-8") as stream:
        numbered = deque(enumerate(stream, start=1), maxlen=count + 1)
    metrics = []
    for position, (number, text) in enumerate(numbered):
        try:
            line = json.loads(text)
            if not isinstance(line, dict):
                raise ValueError("not a JSON object")
        except ValueError as error:
            if position == len(numbered) - 1 and not text.endswith("\n"):
                continue
            raise ValueError(f"line {number} of {path} is damaged: {error}") from error
        metrics.append(line)
    return metrics[-count:]


def columns_of(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every key with a plain value, in the order in which the lines bring them."""
    return list(
        dict.fromkeys(key for line in lines for key, value in line.items() if not isinstance(value, (dict, list)))
    )
