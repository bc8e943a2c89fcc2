"""Reading back the metrics that a run has written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparsewright.training.folder import METRICS


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` in a run folder, one per epoch and one per prune or evaluate stage.

    A damaged last line is left out: a kill cuts it short, and a run that goes on may be writing it just now.

    Raises:
        FileNotFoundError: no such folder, or one without metrics.
        ValueError: a line before the last one is damaged.
    """
    path = folder / METRICS
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no run folder {folder}")
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {METRICS}; is it a run folder, and has its first epoch ended?")
    texts = path.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(_parsed(text))
        except ValueError as error:
            if number == len(texts):
                break
            raise ValueError(f"line {number} of {path} is damaged: {error}") from error
    return lines


def _parsed(text: str) -> dict[str, Any]:
    line = json.loads(text)
    if not isinstance(line, dict):
        raise ValueError("not a JSON object")
    return line
