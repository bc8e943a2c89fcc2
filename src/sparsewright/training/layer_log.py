"""layers.jsonl of a run folder: what happened layer by layer, which reports draw.

Three kinds of lines: ``layers`` names the layers that the ``topology`` lines after it count in the same order, and
``ranks`` has the ranks of every weight. Topology lines are at most about a thousand a run, however often the topology
moves, so that the file stays small; updates that come closer together share a line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparsewright.analysis.history import TopologyChange, TopologyTracker
from sparsewright.analysis.rank import RankRow
from sparsewright.files import append_text, write_text
from sparsewright.masks import MaskSet

LAYERS = "layers.jsonl"
LINES = 1000
"""About how many lines of topology a run has at most."""

_COUNTS = ("kept", "dropped", "grown", "survived", "explored")


@dataclass(frozen=True)
class TopologyLine(TopologyChange):
    """Counts of connections per layer after ``step`` optimizer steps of the whole run; see `TopologyChange`.

    ``dropped`` and ``grown`` are since the line before. A line with other ``names`` or ``initial`` counts than the one
    before begins anew, as at the start and where a stage masks other layers.
    """

    step: int = 0


@dataclass(frozen=True)
class RankLine:
    """The ranks of every weight after ``step`` optimizer steps: name -> numerical, energy_90, energy_95, energy_99,
    stable, effective and full, which none of them exceeds.
    """

    step: int
    layers: dict[str, dict[str, float]]


@dataclass(frozen=True)
class LayerLog:
    """What a run has logged about its layers; empty where it logged nothing."""

    topology: list[TopologyLine] = field(default_factory=list)
    ranks: list[RankLine] = field(default_factory=list)


class LayerRecorder:
    """Writes layers.jsonl while a run trains.

    Args:
        folder: the run folder; None where nothing is to be written (ranks other than 0).
        total_steps: optimizer steps of the whole run, from which follows how close lines may come.
        state: what :meth:`state_dict` gave where the run goes on; the file is brought back to the lines of then.
    """

    def __init__(self, folder: Path | None, total_steps: int, state: Mapping[str, Any] | None = None) -> None:
        self._path = folder / LAYERS if folder is not None else None
        self._interval = max(-(-total_steps // LINES), 1)
        state = state or {}
        if self._path is not None and not _cut(self._path, state.get("lines", 0)):
            state = {}
        self._lines: int = state.get("lines", 0)
        self._last_step: int = state.get("last_step", 0)
        self._pending: dict[str, list[int]] = {key: list(value) for key, value in state.get("pending", {}).items()}
        self._tracker = _restored_tracker(state.get("tracker"))
        self._packed: dict[str, Any] = dict(state.get("tracker", {}))
        self._version: int | None = None

    def look(self, step: int, masks: Mapping[str, Tensor], version: int) -> None:
        """Looks at the masks after ``step`` steps of the run, if their ``version`` is not the one seen last."""
        if version == self._version or self._path is None:
            return
        self._version = version
        if not masks:
            return
        if self._tracker is None or not self._tracker.fits(masks):
            self._begin(step, masks)
            return
        change = self._tracker.look(masks)
        if not any(change.dropped) and not any(change.grown):
            return
        self._packed.pop("before", None)
        self._packed.pop("explored", None)
        self._collect(change)
        if step - self._last_step >= self._interval:
            self._write_change(step, change)

    def forget_version(self) -> None:
        """A new sparsifier counts its versions from the start."""
        self._version = None

    def flush(self, step: int) -> None:
        """Writes what has been collected since the last line."""
        if self._tracker is not None and self._pending:
            self._write_change(step, self._tracker.look(self._tracker.masks()[1]))

    def begin_from(self, held: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
        """Says what the connections were before a method showed the first of its ``masks``: those of ``held``, and all
        weights of the other layers.
        """
        if masks and self._path is not None and (self._tracker is None or not self._tracker.fits(masks)):
            before = {name: held[name] if name in held else torch.ones_like(mask) for name, mask in masks.items()}
            self._begin(self._last_step, before)

    def ranks(self, step: int, rows: Sequence[RankRow]) -> None:
        """Writes the ranks of every weight; nothing without rows."""
        if not rows:
            return
        layers = {row.name: {**_rounded(asdict(row.ranks)), "full": row.full_rank} for row in rows}
        self._write({"kind": "ranks", "step": step, "layers": layers})

    def state_dict(self) -> dict[str, Any]:
        """Plain values and packed masks for a checkpoint."""
        state: dict[str, Any] = {"lines": self._lines, "last_step": self._last_step}
        state["pending"] = dict(self._pending)
        if self._tracker is not None:
            for key, masks in zip(("initial", "before", "explored"), self._tracker.masks(), strict=True):
                # Packing reads every mask, so what has not changed since the last checkpoint is kept.
                if key not in self._packed:
                    self._packed[key] = MaskSet(dict(masks)).state_dict()
            state["tracker"] = dict(self._packed)
        return state

    def _begin(self, step: int, masks: Mapping[str, Tensor]) -> None:
        self._tracker, self._packed, self._pending = TopologyTracker(masks), {}, {}
        start = self._tracker.look(masks)
        names = {"names": start.names, "weights": start.weights, "initial": start.initial}
        self._write({"kind": "layers", "step": step, **names})
        self._write_counts(step, start, start.dropped, start.grown)

    def _collect(self, change: TopologyChange) -> None:
        for key in ("dropped", "grown"):
            before = self._pending.get(key, [0] * len(change.names))
            self._pending[key] = [old + new for old, new in zip(before, getattr(change, key), strict=True)]

    def _write_change(self, step: int, change: TopologyChange) -> None:
        self._write_counts(step, change, self._pending["dropped"], self._pending["grown"])
        self._pending = {}

    def _write_counts(self, step: int, change: TopologyChange, dropped: Sequence[int], grown: Sequence[int]) -> None:
        counts = {"kept": change.kept, "dropped": dropped, "grown": grown}
        self._write(
            {"kind": "topology", "step": step, **counts, "survived": change.survived, "explored": change.explored}
        )
        self._last_step = step

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._path is not None:
            append_text(self._path, json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n")
            self._lines += 1


def read_layer_log(folder: Path) -> LayerLog:
    """The content of layers.jsonl in a run folder; an empty log where there is no such file.

    A last line that a kill cut short is left out.

    Raises:
        ValueError: the file is damaged, or was not written by a run.
    """
    path = folder / LAYERS
    log = LayerLog()
    if not path.is_file():
        return log
    layers: dict[str, Any] = {}
    number = 0
    try:
        for text in path.read_text(encoding="utf-8").splitlines(keepends=True):
            number += 1
            if not text.endswith("\n"):
                break
            line = json.loads(text)
            if line["kind"] == "layers":
                layers = line
            elif line["kind"] == "ranks":
                log.ranks.append(RankLine(line["step"], line["layers"]))
            else:
                log.topology.append(_topology_line(line, layers))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"line {number} of {path} is damaged or was not written by sparsewright train") from error
    return log


def _topology_line(line: Mapping[str, Any], layers: Mapping[str, Any]) -> TopologyLine:
    counts = {key: tuple(line[key]) for key in _COUNTS}
    fixed = {key: tuple(layers[key]) for key in ("names", "weights", "initial")}
    if any(len(values) != len(fixed["names"]) for values in (*counts.values(), *fixed.values())):
        raise ValueError("a line with another number of layers")
    return TopologyLine(step=line["step"], **fixed, **counts)


def _rounded(ranks: Mapping[str, float]) -> dict[str, float]:
    """Four decimals, which keep the file small, are more than a plot shows."""
    return {kind: round(value, 4) for kind, value in ranks.items()}


def _restored_tracker(state: Mapping[str, Any] | None) -> TopologyTracker | None:
    if not state:
        return None
    return TopologyTracker.restore(*(MaskSet.from_state_dict(state[key]) for key in ("initial", "before", "explored")))


def _cut(path: Path, lines: int) -> bool:
    """Takes away what was written after the checkpoint that the run goes on from; False where the rest is not there,
    and the file begins anew.
    """
    there = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    if len(there) < lines or lines == 0:
        path.unlink(missing_ok=True)
        return lines == 0
    if len(there) > lines:
        write_text(path, "".join(there[:lines]))
    return True
