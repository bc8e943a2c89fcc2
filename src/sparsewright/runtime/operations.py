"""Operations of the kernels, with names in place of addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from sparsewright.runtime.graph import Limits
from sparsewright.runtime.layout import Layout
from sparsewright.runtime.library import Kind, Operation, Planes


@dataclass(frozen=True, kw_only=True)
class PlannedOperation:
    """One operation; see ``kernels/program.h`` for what the kernels make of it.

    Attributes:
        kind: what it does.
        step: name of the step that it belongs to.
        input, output, residual: places of values; whoever binds the operation knows their addresses.
        source, target: layouts of input and output. Convolutions find their input by offsets from the output's pixels.
        input_begin, output_begin: floats from the places to where the operation begins to count.
        channels: of the output.
        clears: whether it zeroes what lies between the pixels.
        tensors: weights and the like; the bound operation points into them.
        sizes: further numbers of the operation.
    """

    kind: Kind
    step: str
    input: str
    output: str
    target: Layout
    source: Layout | None = None
    residual: str | None = None
    input_begin: int = 0
    output_begin: int = 0
    channels: int
    limits: Limits = field(default_factory=Limits)
    clears: bool = True
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def reads(self) -> tuple[str, ...]:
        """Places that it reads."""
        return (self.input,) if self.residual is None else (self.input, self.residual)


def bound(planned: PlannedOperation, addresses: Mapping[str, int]) -> Operation:
    """The operation for the kernels; its tensors have to outlive it.

    Args:
        planned: the operation.
        addresses: of every place in memory.
    """
    operation = Operation()
    operation.kind = planned.kind
    operation.input = addresses[planned.input] + 4 * planned.input_begin
    operation.output = addresses[planned.output] + 4 * planned.output_begin
    operation.residual = addresses[planned.residual] if planned.residual is not None else None
    operation.low, operation.high = planned.limits.low, planned.limits.high
    operation.channels = planned.channels
    operation.images = planned.target.images
    operation.height, operation.width = planned.target.height, planned.target.width
    operation.positions = planned.target.positions if planned.clears else 0
    operation.target = _planes(planned.target)
    if planned.source is not None:
        operation.origin = _planes(planned.source)
        operation.input_height, operation.input_width = planned.source.height, planned.source.width
    for name, tensor in planned.tensors.items():
        setattr(operation, name, tensor.data_ptr())
    for name, size in planned.sizes.items():
        setattr(operation, name, size)
    return operation


def _planes(layout: Layout) -> Planes:
    return Planes(layout.plane, layout.begin, layout.image, layout.row, layout.column)
