"""Which kernel a layer gets: each that can do it is timed, and the fastest is taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from sparsewright.runtime.graph import Convolution
from sparsewright.runtime.library import Kernels, Kind, program
from sparsewright.runtime.memory import SLACK
from sparsewright.runtime.operations import PlannedOperation, bound
from sparsewright.runtime.packing import (
    SparseRows,
    checked_offsets,
    convolution_offsets,
    convolution_rows,
    dense_blocks,
    feature_offsets,
    sparse_rows,
)
from sparsewright.runtime.planning import WeightedTask

DENSE, SPARSE = "dense", "sparse"

ROUNDS = 5
"""Of timing, in turn; a kernel's time is the shortest, since whatever else the machine does only adds to it."""

HOPELESS = 2.0
"""A kernel that takes so many times as long as another in the first round is not timed again."""

PASSES = (1, 4)
"""Tiles side by side before the next row."""

SHORT_PLACES = 2**16
"""So many inputs of a layer on one sample are numbered with two bytes, as ``kernels/rows.h`` expects."""

Builder = Callable[[], PlannedOperation]


@dataclass(frozen=True)
class LayerChoice:
    """What was chosen for a layer.

    Attributes:
        layer: name of its weight.
        kernel: "dense", or "sparse" with the largest number of vectors that are worked on at a time, and how many times
            before the next row; without kernels "dense" or "torch CSR".
        sparsity: of the weight.
        milliseconds: of each kernel that was timed, by name; empty where the choice was given.
    """

    layer: str
    kernel: str
    sparsity: float
    milliseconds: Mapping[str, float]


def choose(
    task: WeightedTask, kernels: Kernels, threads: int, given: str | None = None
) -> tuple[PlannedOperation, LayerChoice]:
    """The operation of a layer.

    Args:
        task: the layer.
        kernels: that it will run on.
        threads: how many.
        given: the name of a kernel, to be taken untimed.

    Raises:
        ValueError: ``given`` is not the name of a kernel that can run the layer.
    """
    builders = _builders(task, kernels)
    step = task.step
    if given is not None:
        if given not in builders:
            raise no_such_kernel(step.layer, given, builders)
        return builders[given](), LayerChoice(step.layer, given, step.sparsity, {})
    if len(builders) == 1:
        ((name, builder),) = builders.items()
        return builder(), LayerChoice(step.layer, name, step.sparsity, {})
    built = {name: builder() for name, builder in builders.items()}
    times = _timed(built, task, kernels, threads)
    best = min(times, key=lambda name: times[name])
    rounded = {name: round(1000 * seconds, 4) for name, seconds in times.items()}
    return built[best], LayerChoice(step.layer, best, step.sparsity, rounded)


def no_such_kernel(layer: str, given: str, known: Iterable[str]) -> ValueError:
    """That a choice names a kernel which cannot run a layer here."""
    return ValueError(f"{layer} has no kernel {given!r} here; there are {', '.join(known)}")


def kernel_names(task: WeightedTask, kernels: Kernels) -> list[str]:
    """The kernels that can run a layer."""
    return list(_builders(task, kernels))


def _builders(task: WeightedTask, kernels: Kernels) -> dict[str, Builder]:
    """Every kernel that can run a layer, by name, and what packs the weights for it."""
    step, operation, source = task.step, task.operation, task.source
    one_sample = operation.kind == Kind.SPARSE_ROW
    builders: dict[str, Builder] = {}
    grouped = isinstance(step, Convolution) and step.groups > 1
    if not grouped:
        builders[DENSE] = lambda: _dense(task, kernels)
    if not grouped and bool((step.weight != 0).all()):
        return builders
    if one_sample:
        builders[SPARSE] = lambda: _one_sample(task)
        return builders
    packed: list[SparseRows] = []

    def rows() -> SparseRows:
        # The same for every size of tile.
        if not packed:
            if isinstance(step, Convolution):
                packed.append(convolution_rows(step, source))
            else:
                offsets = feature_offsets(step.weight.shape[1], source)
                packed.append(sparse_rows(step.weight, offsets, sort=True))
        return packed[0]

    for tile, passes in _tiles(operation.target.positions, kernels):
        name = f"{SPARSE} {tile}" if passes == 1 else f"{SPARSE} {tile} x {passes}"
        builders[name] = lambda tile=tile, passes=passes: _with_rows(operation, rows(), tile=tile, passes=passes)
    return builders


def _tiles(positions: int, kernels: Kernels) -> list[tuple[int, int]]:
    """Sizes of tiles that make a difference for so many positions, and how many of them go side by side.

    Rows with few weights are bound by memory, which likes longer runs of positions than the registers hold.
    """
    vectors = -(-positions // kernels.width)
    by_count: dict[int, int] = {}
    for tile in range(min(kernels.most_vectors, vectors), min(3, vectors - 1), -1):
        by_count.setdefault(-(-vectors // tile), -(-vectors // -(-vectors // tile)))
    sizes = list(dict.fromkeys(by_count.values()))
    return [(tile, passes) for tile in sizes for passes in PASSES if passes == 1 or vectors >= 2 * tile]


def _with_rows(operation: PlannedOperation, rows: SparseRows, tile: int = 0, passes: int = 1) -> PlannedOperation:
    tensors = {"values": rows.values, "offsets": rows.offsets, "starts": rows.starts, "rows": rows.rows}
    return replace(operation, tensors={**operation.tensors, **tensors}, sizes={"tile": tile, "passes": passes})


def _one_sample(task: WeightedTask) -> PlannedOperation:
    inputs = task.step.weight.shape[1]
    rows = sparse_rows(task.step.weight, feature_offsets(inputs, task.source), sort=False)
    places = rows.offsets.to(torch.uint16) if inputs <= SHORT_PLACES else rows.offsets
    tensors = {"values": rows.values, "offsets": places, "starts": rows.starts}
    return replace(task.operation, tensors={**task.operation.tensors, **tensors}, sizes={"inputs": inputs})


def _dense(task: WeightedTask, kernels: Kernels) -> PlannedOperation:
    step, operation = task.step, task.operation
    weight = step.weight.flatten(1).float()
    sizes = {"inputs": weight.shape[1]}
    if operation.kind == Kind.SPARSE_ROW:
        tensors = {**operation.tensors, "values": weight.clone(memory_format=torch.contiguous_format)}
        return replace(operation, kind=Kind.DENSE_ROW, tensors=tensors, sizes=sizes)
    if isinstance(step, Convolution):
        offsets = convolution_offsets(step, task.source)
    else:
        offsets = feature_offsets(weight.shape[1], task.source)
    packed = {"values": dense_blocks(weight, kernels.dense_rows), "offsets": checked_offsets(offsets.reshape(-1))}
    return replace(operation, kind=Kind.DENSE, tensors={**operation.tensors, **packed}, sizes=sizes)


def _timed(
    built: Mapping[str, PlannedOperation], task: WeightedTask, kernels: Kernels, threads: int
) -> dict[str, float]:
    """Shortest seconds of each."""
    places = {place: torch.zeros(size + SLACK, dtype=torch.float32) for place, size in _sizes(task).items()}
    addresses = {place: tensor.data_ptr() for place, tensor in places.items()}
    programs = {name: program([bound(operation, addresses)]) for name, operation in built.items()}
    times = dict.fromkeys(programs, float("inf"))
    running = dict(programs)
    for _ in range(ROUNDS):
        for name, operations in running.items():
            kernels.run(operations, threads)
            begin = time.perf_counter()
            kernels.run(operations, threads)
            times[name] = min(times[name], time.perf_counter() - begin)
        limit = HOPELESS * min(times.values())
        running = {name: operations for name, operations in running.items() if times[name] <= limit}
    return times


def _sizes(task: WeightedTask) -> dict[str, int]:
    operation = task.operation
    sizes = {operation.input: task.source.size, operation.output: operation.target.size}
    return sizes if operation.residual is None else {operation.residual: operation.target.size, **sizes}
