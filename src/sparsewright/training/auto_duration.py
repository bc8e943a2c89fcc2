"""Stages that last as long as the schedule of their method: ``duration: auto``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import PlainSerializer, PlainValidator

from sparsewright.checks import join_names
from sparsewright.methods.registry import list_methods, method_info
from sparsewright.sparsifier import Sparsifier
from sparsewright.training.duration import Duration, Share, is_share
from sparsewright.training.method_options import DENSE

AUTO = "auto"


def _parse(value: object) -> Duration | Literal["auto"]:
    if isinstance(value, Duration):
        return value
    if value == AUTO:
        return AUTO
    try:
        return Duration.parse(value)
    except ValueError as error:
        methods = join_names(methods_with_own_length())
        raise ValueError(f"{error}; {AUTO} is for methods with a length of their own ({methods})") from error


StageDuration = Annotated[Duration | Literal["auto"], PlainValidator(_parse), PlainSerializer(str, when_used="json")]
"""A duration, or "auto"."""


def _parse_written(value: object) -> Duration | Share | Literal["auto"]:
    if isinstance(value, Share):
        return value
    return Share.parse(value) if isinstance(value, str) and is_share(value) else _parse(value)


WrittenDuration = Annotated[
    Duration | Share | Literal["auto"], PlainValidator(_parse_written), PlainSerializer(str, when_used="json")
]
"""What a stage may say: a duration, "auto", or a share of the recipe's duration."""


def share_of(share: Share, whole: str) -> str:
    """``share`` of the recipe's duration ``whole``, both as they are written.

    Raises:
        ValueError: the recipe's duration is auto.
    """
    if whole == AUTO:
        raise ValueError(f"duration {share} is a share of the recipe's duration, which is {AUTO}; give it a length")
    return str(share.of(Duration.parse(whole)))


@dataclass(frozen=True)
class StageEnd:
    """Where a train stage ends: before a step, and with ``duration: auto`` as soon as its method has finished.

    Attributes:
        step: the optimizer step of the stage before which it ends at the latest.
        sparsifier: the one whose schedule it follows; None where only the step counts.
    """

    step: int
    sparsifier: Sparsifier | None = None

    def finished(self) -> bool:
        """Whether the method has finished, where that ends the stage."""
        return self.sparsifier is not None and self.sparsifier.finished

    def reached(self, step: int) -> bool:
        """Whether the stage is over before ``step``."""
        return step >= self.step or self.finished()


def methods_with_own_length() -> list[str]:
    """The methods that know how many steps they need."""
    return [info.name for info in list_methods() if _steps_needed(info.name) is not None]


def method_steps(method: str, options: Mapping[str, Any]) -> int:
    """The most optimizer steps that ``method`` needs with these options, those of its scope left aside.

    Raises:
        ValueError, TypeError: an option with a value that is not allowed.
    """
    needed = _steps_needed(method)
    assert needed is not None, method
    return needed({key: value for key, value in options.items() if key in method_info(method).options})


def _steps_needed(method: str) -> Callable[[Mapping[str, Any]], int] | None:
    return None if method == DENSE else getattr(method_info(method).cls, "steps_needed", None)
