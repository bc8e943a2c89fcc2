"""The records of a run folder as reports calculate with them: other types, NaN and infinity are errors."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sparsewright.training.folder import METRICS, SETTINGS, SUMMARY, RunSettings
from sparsewright.training.layer_log import LAYERS, LayerLog
from sparsewright.training.rank_log import logged_ranks

Count: TypeAlias = Annotated[int, Field(ge=0)]
Counts: TypeAlias = tuple[Count, ...]


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class _LayerFigures(_Record):
    shape: list[Count]
    sparsity: float


class _Summary(_Record):
    """What is there; the defaults stand for keys that another version does not write."""

    method: str = ""
    seed: Count = 0
    target_sparsity: float | list[float] | dict[str, float] | None = None
    sparsity: float = 0
    test_accuracy: float | None = None
    test_accuracy_before_pruning: float | None = None
    epochs: Count = 0
    steps: Count = 0
    shrunk: bool = False
    not_removed: dict[str, str] = {}
    parameters: Count = 0
    parameters_dense: Count = 0
    nonzero_parameters: Count = 0
    kept_parameters: Count = 0
    layers: dict[str, _LayerFigures] = {}
    inference_flops_dense: float = 0
    inference_flops_sparse: float = 0
    training_flops_dense: float = 0
    training_flops_sparse: float = 0
    theoretical_speedup: float | None = None
    train_seconds: float = 0
    versions: dict[str, str] = {}


class _Metrics(_Record):
    stage: str
    kind: str
    epoch: Count
    step: Count
    sparsity: float
    seconds: float
    lr: float | None = None
    train_loss: float | None = None
    train_accuracy: float | None = None
    test_loss: float | None = None
    test_accuracy: float | None = None


class _MeanRanks(_Record):
    rank_numerical: float
    rank_energy_99: float
    rank_energy_95: float
    rank_energy_90: float
    rank_effective: float
    rank_stable: float


class _Topology(_Record):
    step: Count
    names: tuple[str, ...]
    weights: Counts
    initial: Counts
    kept: Counts
    dropped: Counts
    grown: Counts
    survived: Counts
    explored: Counts


class _Ranks(_Record):
    step: Count
    layers: dict[str, dict[str, float]]


def check_summary(folder: Path, summary: Mapping[str, Any], needed: Sequence[str]) -> None:
    """Raises ValueError unless summary.json has all that is ``needed``, and what it has is of the right types."""
    file = folder / SUMMARY
    if missing := [key for key in needed if key not in summary]:
        raise ValueError(f"{file} has no {missing[0]}: it is damaged, or of another version")
    _check(_Summary, summary, file)


def check_settings(folder: Path, settings: RunSettings) -> None:
    """Raises ValueError unless what run.json holds is of the right types."""
    try:
        TypeAdapter(RunSettings).validate_json(json.dumps(asdict(settings)), strict=True)
    except ValidationError as error:
        raise _damaged(folder / SETTINGS, error) from error


def check_metrics(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError unless every line of metrics.jsonl has what reports draw; it names the line."""
    for number, line in enumerate(lines, start=1):
        where = f"line {number} of {folder / METRICS}"
        _check(_Metrics, line, where)
        if logged_ranks(line):
            _check(_MeanRanks, line, where)


def check_layer_log(folder: Path, log: LayerLog) -> None:
    """Raises ValueError unless the lines of layers.jsonl are of the right types; it names the step of the line."""
    for kind, schema, lines in (("topology", _Topology, log.topology), ("ranks", _Ranks, log.ranks)):
        for line in lines:
            _check(schema, vars(line), f"the line of {folder / LAYERS} about {kind} after step {line.step!r}")


def _check(schema: type[_Record], record: Mapping[str, Any], where: object) -> None:
    try:
        schema.model_validate(record)
    except ValidationError as error:
        raise _damaged(where, error) from error


def _damaged(where: object, error: ValidationError) -> ValueError:
    first = error.errors(include_url=False)[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return ValueError(f"{where} is damaged: it has no {key}")
    return ValueError(f"{where} is damaged: {key} is {reprlib.repr(first['input'])}, but {_lower(first['msg'])}")


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
