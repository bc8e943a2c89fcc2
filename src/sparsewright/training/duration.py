"""Lengths of training written as ``160ep`` (epochs) or ``5000it`` (optimizer steps), and shares of one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

_PATTERN = re.compile(r"(\d+(?:\.\d+)?)\s*(ep|it)")
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_EXPECTED = "a duration is written as 160ep (epochs) or 5000it (optimizer steps)"


@dataclass(frozen=True)
class Duration:
    """A non-negative length of training in epochs ("ep") or optimizer steps ("it")."""

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: object) -> Duration:
        """Reads ``160ep``, ``0.5ep`` or ``5000it``.

        Raises:
            ValueError: the text is not of that form, or a number of steps is not whole.
        """
        match = _PATTERN.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"{_EXPECTED}, got {text!r}")
        amount, unit = float(match[1]), match[2]
        if unit == "it" and not amount.is_integer():
            raise ValueError(f"a number of optimizer steps is whole, got {text!r}")
        return cls(amount, unit)

    def steps(self, steps_per_epoch: int) -> int:
        """The number of optimizer steps when an epoch has ``steps_per_epoch`` of them."""
        return round(self.amount * steps_per_epoch) if self.unit == "ep" else int(self.amount)

    def __str__(self) -> str:
        return f"{self.amount:g}{self.unit}" if self.amount < 1e6 else f"{int(self.amount)}{self.unit}"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def validate(value: object) -> Duration:
            return value if isinstance(value, Duration) else cls.parse(value)

        return core_schema.no_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="json")
        )


@dataclass(frozen=True)
class Share:
    """A part of another duration, written as ``50%``."""

    percent: float

    @classmethod
    def parse(cls, text: str) -> Share:
        """Reads ``50%``.

        Raises:
            ValueError: the text is not of that form, or the share is not above 0 and at most 100.
        """
        match = _SHARE.fullmatch(text.strip())
        if match is None or not 0 < float(match[1]) <= 100:
            raise ValueError(
                f"a share of the recipe's duration is written as 50%, above 0% and up to 100%, got {text!r}"
            )
        return cls(float(match[1]))

    def of(self, whole: Duration) -> Duration:
        """This part of ``whole``; optimizer steps are rounded, to one at least."""
        amount = whole.amount * self.percent / 100
        return Duration(amount if whole.unit == "ep" else max(round(amount), 1), whole.unit)

    def __str__(self) -> str:
        return f"{self.percent:g}%"


def is_share(value: object) -> bool:
    """Whether ``value`` is text that ends like a share of a duration."""
    return isinstance(value, str) and value.strip().endswith("%")


def is_duration(value: object) -> bool:
    """Whether ``value`` is text of the form ``160ep`` or ``5000it``."""
    return isinstance(value, str) and _PATTERN.fullmatch(value.strip()) is not None


def moment_to_steps(value: Any, steps_per_epoch: int) -> Any:
    """Turns a duration given as a method's option into steps, and leaves every other value as it is."""
    return Duration.parse(value).steps(steps_per_epoch) if is_duration(value) else value
