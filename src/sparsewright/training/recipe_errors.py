"""One sentence for the user about what is wrong in a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from sparsewright.training.by_method import BY_METHOD
from sparsewright.training.lr_schedule import ConstantSchedule, CosineSchedule, StepSchedule
from sparsewright.training.optimizers import AdagradSettings, AdamSettings, RMSpropSettings, SGDSettings
from sparsewright.training.published_results import Published
from sparsewright.training.recipe import (
    DataSettings,
    MethodSettings,
    ModelSettings,
    Recipe,
    Stage,
    StageError,
    StageOverrides,
)
from sparsewright.training.sparsity_setting import KINDS
from sparsewright.training.suggestions import nearest

_SECTIONS: dict[str, type[BaseModel]] = {"data": DataSettings, "model": ModelSettings, "method": MethodSettings}
_TAGGED: dict[str, dict[str, type[BaseModel]]] = {
    "optimizer": {
        "sgd": SGDSettings,
        "adam": AdamSettings,
        "adamw": AdamSettings,
        "rmsprop": RMSpropSettings,
        "adagrad": AdagradSettings,
    },
    "schedule": {"constant": ConstantSchedule, "step": StepSchedule, "cosine": CosineSchedule},
}


def explain(error: ValidationError, tree: Mapping[str, Any]) -> str:
    """One sentence about the first problem: an unknown key before a wrong value."""
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    location = list(_without_tags(first["loc"]))
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, StageError):
        return _explain_stage(cause)
    key = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        return f"unknown key {key!r}{nearest(str(location[-1]), _allowed_keys(location[:-1], tree))}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "too_short":
        return f"{key} needs at least one entry"
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        section = str(location[-1])
        wrong = str(first.get("ctx", {}).get("tag", ""))
        return f"{key}.name must be one of the known ones, got {wrong!r}{nearest(wrong, _TAGGED[section])}"
    if first["type"] == "value_error":
        return f"{key}: {message}" if location and not message.startswith(key) else message
    return f"{key} {_lower(message).removeprefix('input ')}, got {first['input']!r}"


def _explain_stage(problem: StageError) -> str:
    sentence = explain(problem.error, problem.tree)
    first = problem.error.errors(include_url=False)[0]["loc"]
    own = bool(first) and first[0] in problem.written
    return f"in stages.{problem.index}: {sentence}" if own else sentence


def _without_tags(location: tuple[int | str, ...]) -> Iterator[int | str]:
    """Pydantic puts the name of the chosen optimizer or schedule, and the kind of a sparsity, into the path; the user
    did not write it there.
    """
    for index, part in enumerate(location):
        before = location[index - 1] if index else None
        if part in (KINDS if before == "sparsity" else _TAGGED.get(str(before), ())):
            continue
        yield part


def _allowed_keys(location: Sequence[int | str], tree: Mapping[str, Any]) -> list[str]:
    if not location:
        model: type[BaseModel] = Stage if "kind" in tree else Recipe
        return [*model.model_fields, *(["extends", BY_METHOD] if model is Recipe else [])]
    section = str(location[-1] if not isinstance(location[-1], int) else location[0])
    if section == "stages":
        return list(StageOverrides.model_fields)
    if section == "published":
        return [key for key in Published.model_fields if key != "changed"]
    if section in _TAGGED:
        here: Any = tree.get(section, {})
        chosen = here.get("name", next(iter(_TAGGED[section]))) if isinstance(here, dict) else ""
        return list(_TAGGED[section].get(str(chosen), BaseModel).model_fields)
    return list(_SECTIONS[section].model_fields) if section in _SECTIONS else []


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
