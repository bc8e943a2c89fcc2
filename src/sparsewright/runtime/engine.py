"""A planned network bound to memory, ready to run."""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from sparsewright.runtime.graph import TorchCall, Value
from sparsewright.runtime.library import Kernels, Operation, program
from sparsewright.runtime.memory import SLACK, Lifetime, arrange, lifetimes
from sparsewright.runtime.operations import PlannedOperation, bound
from sparsewright.runtime.planning import Plan, TorchTask

_NOWHERE = 0
"""The address of what is only known at a call: its input and its result."""


@dataclass(frozen=True)
class _Patch:
    """A pointer that is set at each call."""

    operation: Operation
    name: str
    place: str
    offset: int


class Engine:
    """Runs the tasks of a plan, whose layers have their kernels.

    One call at a time: others wait.

    Args:
        plan: where everything lies.
        tasks: the plan's, with an operation in place of each layer.
        kernels: that run the operations.
        threads: how many.
    """

    def __init__(
        self, plan: Plan, tasks: Sequence[PlannedOperation | TorchTask], kernels: Kernels, threads: int
    ) -> None:
        # Not the plan itself, whose layers hold their dense weights.
        self._input, self._output = plan.input, plan.output
        self._output_held = plan.output in plan.layouts
        self._kernels, self._threads = kernels, threads
        self._lock = threading.Lock()
        self._keep_alive = [
            tensor for task in tasks if not isinstance(task, TorchTask) for tensor in task.tensors.values()
        ]
        offsets, total = arrange(*_places(plan, tasks))
        # Zeros, because numbers that nothing has written yet could be slow to compute with.
        self._memory = torch.zeros(total + SLACK, dtype=torch.float32, device="cpu")
        self._views = {
            place: self._memory[offset : offset + math.prod(shape)].view(shape)
            for place, shape in plan.tensors.items()
            if (offset := offsets.get(place)) is not None
        }
        addresses = {place: self._memory.data_ptr() + 4 * offset for place, offset in offsets.items()}
        self._segments: list[ctypes.Array[Operation] | TorchTask] = []
        self._patches: list[_Patch] = []
        self._bind(tasks, addresses)

    @property
    def working_bytes(self) -> int:
        """Memory for values and for weights as the kernels read them."""
        tensors = {tensor.data_ptr(): tensor.nbytes for tensor in [self._memory, *self._keep_alive]}
        return sum(tensors.values())

    def run(self, value: Tensor, output_shape: Sequence[int]) -> Tensor:
        """The network's result for a contiguous float32 tensor of the planned shape."""
        with self._lock:
            return self._run(value, output_shape)

    def _run(self, value: Tensor, output_shape: Sequence[int]) -> Tensor:
        computed: dict[str, Any] = {self._input: value}
        if self._output_held:
            # Whatever type and device the caller has made the default.
            computed[self._output] = torch.empty(output_shape, dtype=torch.float32, device="cpu")
        for patch in self._patches:
            setattr(patch.operation, patch.name, computed[patch.place].data_ptr() + patch.offset)
        for segment in self._segments:
            if isinstance(segment, TorchTask):
                self._call(segment, computed)
            else:
                self._kernels.run(segment, self._threads)
        result = computed[self._output]
        # What a call has returned may lie in memory that the next run writes.
        return result if self._output_held else result.clone()

    def _call(self, task: TorchTask, computed: dict[str, Any]) -> None:
        def value_of(leaf: object) -> object:
            if not isinstance(leaf, Value):
                return leaf
            place = task.reads[leaf.name]
            return computed[place] if place in computed else self._views[place]

        step: TorchCall = task.step
        with torch.no_grad():
            result = step.target(*tree_map(value_of, step.arguments), **tree_map(value_of, step.options))
        place = step.name
        if place in computed:
            computed[place].copy_(result)
        elif place in self._views:
            self._views[place].copy_(result)
        else:
            computed[place] = result

    def _bind(self, tasks: Sequence[PlannedOperation | TorchTask], addresses: Mapping[str, int]) -> None:
        outside = {self._input: _NOWHERE, self._output: _NOWHERE}
        group: list[PlannedOperation] = []
        for task in [*tasks, None]:
            if isinstance(task, PlannedOperation):
                group.append(task)
                continue
            if group:
                operations = program([bound(planned, {**addresses, **outside}) for planned in group])
                self._segments.append(operations)
                for planned, operation in zip(group, operations, strict=True):
                    self._patches += _patches(planned, operation, outside)
                group = []
            if task is not None:
                self._segments.append(task)


def _patches(planned: PlannedOperation, operation: Operation, outside: Mapping[str, int]) -> list[_Patch]:
    pointers = [
        ("input", planned.input, planned.input_begin),
        ("output", planned.output, planned.output_begin),
        ("residual", planned.residual, 0),
    ]
    return [_Patch(operation, name, place, 4 * begin) for name, place, begin in pointers if place in outside]


def _places(plan: Plan, tasks: Sequence[PlannedOperation | TorchTask]) -> tuple[dict[str, int], dict[str, Lifetime]]:
    """Sizes and lifetimes of what lies in the engine's memory."""
    uses: list[list[str]] = []
    for task in tasks:
        if isinstance(task, TorchTask):
            uses.append([*task.reads.values(), task.step.name])
        else:
            uses.append([*task.reads, task.output])
    # What a call returns may be a view of what it reads, so that is never written over.
    kept = {place for task in tasks if isinstance(task, TorchTask) for place in task.reads.values()}
    spans = {
        place: Lifetime(span.first, len(tasks)) if place in kept else span for place, span in lifetimes(uses).items()
    }
    inside = [place for place in spans if place in plan.layouts and place not in (plan.input, plan.output)]
    return {place: plan.layouts[place].size for place in inside}, spans
