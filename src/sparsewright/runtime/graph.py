"""A network as a list of steps, each with what it computes and from which values: what the planner works on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

Pair = tuple[int, int]


@dataclass(frozen=True)
class Limits:
    """What an activation leaves of a value: ReLU is (0, inf), ReLU6 (0, 6)."""

    low: float = -math.inf
    high: float = math.inf

    def then(self, after: Limits) -> Limits:
        """Both, one after the other."""
        return Limits(*(min(max(bound, after.low), after.high) for bound in (self.low, self.high)))


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step.

    Attributes:
        name: of its result; unique.
        inputs: names of the values that it reads, the network's input among them.
        shape: of its result.
        limits: applied to the result.
        residual: a value of the same shape that is added before the limits.
    """

    name: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    limits: Limits = Limits()
    residual: str | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """All values that it reads."""
        return self.inputs if self.residual is None else (*self.inputs, self.residual)


@dataclass(frozen=True, kw_only=True)
class Weighted(Step):
    """A convolution or a linear layer; ``weight`` and ``bias`` as their modules hold them, batch norm folded in.

    Attributes:
        layer: name of the weight in the model, with a number (``#2``) for each further use; unique.
    """

    layer: str
    weight: Tensor
    bias: Tensor

    @property
    def sparsity(self) -> float:
        """Share of zeros in the weight."""
        return 1 - float(self.weight.count_nonzero()) / self.weight.numel()


@dataclass(frozen=True, kw_only=True)
class Convolution(Weighted):
    """A convolution of images, (samples, channels, height, width)."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


@dataclass(frozen=True, kw_only=True)
class Linear(Weighted):
    """A linear layer on (samples, features)."""


@dataclass(frozen=True, kw_only=True)
class Pool(Step):
    """The largest value or the average under a window.

    Attributes:
        average: the average; else the largest value.
        divisor: of the average; 0 counts the pixels under the window, those of the padding left out.
    """

    average: bool
    kernel: Pair
    stride: Pair
    padding: Pair
    divisor: int = 0


@dataclass(frozen=True, kw_only=True)
class GlobalAverage(Step):
    """The average over all pixels."""


@dataclass(frozen=True, kw_only=True)
class Affine(Step):
    """``scale[channel] * x + shift[channel]``: a batch norm that nothing precedes, an activation or a sum alone."""

    scale: Tensor
    shift: Tensor


@dataclass(frozen=True, kw_only=True)
class Flatten(Step):
    """(samples, channels, height, width) as (samples, features)."""


@dataclass(frozen=True, kw_only=True)
class Join(Step):
    """Channels of several images behind each other."""


@dataclass(frozen=True, kw_only=True)
class TorchCall(Step):
    """Anything else, which runs through torch.

    Attributes:
        target: the operator.
        arguments, options: with :class:`Value` in place of tensors that the network computes.
        numbers: whether its result is a float32 tensor, not an empty one.
    """

    target: Any
    arguments: Sequence[Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    numbers: bool = True


@dataclass(frozen=True)
class Value:
    """Stands for a value that the network computes among the arguments of a :class:`TorchCall`."""

    name: str


@dataclass(frozen=True)
class Network:
    """Steps in an order in which they can run.

    Attributes:
        input: name of the network's input.
        input_shape: its shape.
        output: name of the value that it returns.
    """

    steps: tuple[Step, ...]
    input: str
    input_shape: tuple[int, ...]
    output: str

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every value."""
        return {self.input: self.input_shape} | {step.name: step.shape for step in self.steps}

    def readers(self) -> dict[str, list[Step]]:
        """The steps that read each value."""
        result: dict[str, list[Step]] = {name: [] for name in self.shapes()}
        for step in self.steps:
            for name in step.reads:
                result[name].append(step)
        return result
