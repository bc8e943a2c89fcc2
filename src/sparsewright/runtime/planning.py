"""From the steps of a network to operations on places in memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparsewright.runtime.graph import (
    Affine,
    Convolution,
    Flatten,
    GlobalAverage,
    Join,
    Limits,
    Linear,
    Network,
    Pool,
    Step,
    TorchCall,
    Value,
    Weighted,
)
from sparsewright.runtime.layout import (
    Layout,
    Spacing,
    Spacings,
    features,
    phases_of,
    plain,
    spacing_of,
)
from sparsewright.runtime.library import Kind
from sparsewright.runtime.operations import PlannedOperation

_NATIVE_IMAGES = (Affine, Convolution, Pool, GlobalAverage, Join)


@dataclass(frozen=True)
class WeightedTask:
    """A convolution or linear layer whose kernel is still to be chosen.

    Attributes:
        step: the layer.
        operation: what all of its kernels have in common.
        source: layout of what it reads: the input, or the phases of it.
    """

    step: Weighted
    operation: PlannedOperation
    source: Layout


@dataclass(frozen=True)
class TorchTask:
    """A step that torch runs.

    Attributes:
        step: what to run.
        reads: the place of each value that it reads: a plain tensor, or whatever an earlier call has returned.
    """

    step: TorchCall
    reads: Mapping[str, str]


Task = PlannedOperation | WeightedTask | TorchTask


@dataclass(frozen=True)
class Plan:
    """What to do, in order, and the layouts of all places.

    Attributes:
        tensors: the shapes of the places that hold tensors as torch does.
        input: the place of the network's input, a plain tensor.
        output: the place of its result, a plain tensor; or what a call has returned.
    """

    tasks: tuple[Task, ...]
    layouts: Mapping[str, Layout]
    tensors: Mapping[str, tuple[int, ...]]
    input: str
    output: str


def plan(network: Network) -> Plan:
    """Lay a network out."""
    planner = _Planner(network)
    for step in network.steps:
        planner.add(step)
    output = planner.plain(network.output)
    return Plan(tuple(planner.tasks), planner.layouts, planner.tensors, network.input, output)


class _Planner:
    """Adds tasks step by step; a value is converted between ways to hold it where a step needs another one."""

    def __init__(self, network: Network) -> None:
        self.shapes = network.shapes()
        self.tasks: list[Task] = []
        self.layouts: dict[str, Layout] = {network.input: plain(network.input_shape)}
        self.tensors: dict[str, tuple[int, ...]] = {}
        self._native = {step.name for step in network.steps if _holds_image(step)}
        self._spacings = Spacings()
        for step in network.steps:
            self._space(step)

    def add(self, step: Step) -> None:
        """Add what a step does."""
        if isinstance(step, Convolution):
            self._convolution(step)
        elif isinstance(step, Linear):
            self._linear(step)
        elif isinstance(step, (Pool, GlobalAverage)):
            self._pool(step)
        elif isinstance(step, Affine):
            self._affine(step)
        elif isinstance(step, Flatten):
            self.flat(step.inputs[0], step.name)
        elif isinstance(step, Join):
            self._join(step)
        else:
            assert isinstance(step, TorchCall)
            reads = {name: self.plain(name) for name in step.inputs}
            if step.numbers and len(step.shape) in (2, 4):
                self.layouts[step.name] = plain(step.shape)
                self.tensors[step.name] = step.shape
            self.tasks.append(TorchTask(step, reads))

    def image(self, name: str) -> str:
        """The place that holds images with the spacing of their group."""
        place = self._image_place(name)
        if place not in self.layouts:
            self.layouts[place] = self._spacings.layout(place, self.shapes[name])
            self._copy(name, place, self.layouts[name], self.layouts[place], clears=True)
        return place

    def flat(self, name: str, place: str | None = None) -> str:
        """The place that holds features: of a value that has them, or of the pixels of images."""
        layout, shape = self.layouts[name], self.shapes[name]
        samples, count = shape[0], math.prod(shape[1:])
        wanted = features(samples, count)
        if place is None and _same_memory(layout, wanted):
            return name
        place = place or f"{name}:features"
        if place in self.layouts:
            return place
        self.layouts[place] = wanted
        width = layout.width
        rows = (layout.height * width * wanted.plane, width * wanted.plane, wanted.plane)
        target = Layout(samples, layout.channels, layout.height, width, rows[0], 0, 1, rows[1], rows[2])
        self._copy(name, place, layout, target, clears=False)
        return place

    def plain(self, name: str) -> str:
        """The place that holds a contiguous tensor as torch does, or what a call has returned."""
        if name not in self.layouts:
            return name
        layout, wanted = self.layouts[name], plain(self.shapes[name])
        if layout.size == wanted.size and _same_memory(layout, wanted):
            self.tensors[name] = self.shapes[name]
            return name
        place = f"{name}:plain"
        self.tensors[place] = self.shapes[name]
        if place not in self.layouts:
            self.layouts[place] = wanted
            self._copy(name, place, layout, wanted, clears=False)
        return place

    def _space(self, step: Step) -> None:
        """Note what a step needs of the spacing of the images that it reads and writes."""
        if isinstance(step, (Pool, GlobalAverage)):
            place = self._image_place(step.inputs[0])
            self._spacings.need(place, _spacing_of_size(self.shapes[step.inputs[0]]))
        if not _holds_image(step):
            return
        self._spacings.need(step.name, _spacing_of_size(step.shape))
        if step.residual is not None:
            self._share(step.residual, step.name)
        if isinstance(step, Convolution):
            size = self.shapes[step.inputs[0]][2:]
            self._spacings.need(step.name, spacing_of(step, (size[0], size[1])))
            if step.stride == (1, 1):
                self._share(step.inputs[0], step.name)
        elif isinstance(step, (Affine, Join)):
            for name in step.inputs:
                self._share(name, step.name)

    def _share(self, name: str, other: str) -> None:
        place = self._image_place(name)
        self._spacings.need(place, _spacing_of_size(self.shapes[name]))
        self._spacings.join([place, other])

    def _image_place(self, name: str) -> str:
        return name if name in self._native else f"{name}:image"

    def _new_image(self, step: Step) -> Layout:
        self.layouts[step.name] = self._spacings.layout(step.name, step.shape)
        return self.layouts[step.name]

    def _convolution(self, step: Convolution) -> None:
        target = self._spacings.layout(step.name, step.shape)
        place = self.image(step.inputs[0]) if step.stride == (1, 1) else self._phases(step, target)
        residual = None if step.residual is None else self.image(step.residual)
        self._weighted(step, Kind.SPARSE, place, residual, target)

    def _phases(self, step: Convolution, like: Layout) -> str:
        """The phases that a convolution with a stride reads, behind each other."""
        name = step.inputs[0]
        source, channels = self.layouts[name], self.shapes[name][1]
        phases = phases_of(step)
        place = f"{step.name}:phases"
        size = (math.ceil(source.height / step.stride[0]), math.ceil(source.width / step.stride[1]))
        self.layouts[place] = replace(like, channels=channels * len(phases), height=size[0], width=size[1])
        starts = torch.tensor(phases, dtype=torch.int32)
        self.tasks.append(
            PlannedOperation(
                kind=Kind.PHASES,
                step=place,
                input=name,
                output=place,
                source=source,
                target=self.layouts[place],
                channels=channels,
                tensors={"offsets": starts},
                sizes={"inputs": len(phases), "stride_height": step.stride[0], "stride_width": step.stride[1]},
            )
        )
        return place

    def _linear(self, step: Linear) -> None:
        place = self.flat(step.inputs[0])
        residual = None if step.residual is None else self.flat(step.residual)
        target = features(*step.shape)
        self._weighted(step, Kind.SPARSE_ROW if target.images == 1 else Kind.SPARSE, place, residual, target)

    def _weighted(self, step: Weighted, kind: Kind, place: str, residual: str | None, target: Layout) -> None:
        self.layouts[step.name] = target
        operation = PlannedOperation(
            kind=kind,
            step=step.name,
            input=place,
            output=step.name,
            target=target,
            residual=residual,
            input_begin=target.begin,
            channels=target.channels,
            limits=step.limits,
            tensors={"bias": step.bias.clone(), "valid": target.valid()},
        )
        self.tasks.append(WeightedTask(step, operation, self.layouts[place]))

    def _pool(self, step: Pool | GlobalAverage) -> None:
        place = self.image(step.inputs[0])
        sizes: dict[str, int] = {}
        if isinstance(step, Pool):
            for name in ("kernel", "stride", "padding"):
                sizes[f"{name}_height"], sizes[f"{name}_width"] = getattr(step, name)
            sizes["divisor"] = step.divisor
            kind = Kind.AVERAGE_POOL if step.average else Kind.MAX_POOL
        else:
            kind = Kind.GLOBAL_AVERAGE
        if len(step.shape) == 2:
            target = self.layouts[step.name] = features(step.shape[0], step.shape[1])
        else:
            target = self._new_image(step)
        self.tasks.append(
            PlannedOperation(
                kind=kind,
                step=step.name,
                input=place,
                output=step.name,
                source=self.layouts[place],
                target=target,
                channels=target.channels,
                limits=step.limits,
                sizes=sizes,
            )
        )

    def _affine(self, step: Affine) -> None:
        if len(step.shape) == 2 and step.shape[0] == 1 and not _uniform(step):
            self.add(_through_torch(step))
            return
        if len(step.shape) == 2:
            self._affine_features(step)
            return
        place = self.image(step.inputs[0])
        residual = None if step.residual is None else self.image(step.residual)
        self._add_affine(step, place, residual, self._new_image(step), step.scale, step.shift)

    def _affine_features(self, step: Affine) -> None:
        place = self.flat(step.inputs[0])
        residual = None if step.residual is None else self.flat(step.residual)
        layout = features(*step.shape)
        self.layouts[step.name] = layout
        scale, shift = step.scale, step.shift
        if layout.images == 1:
            # All features as the pixels of one channel, since a plane of a single float is no vector.
            layout = Layout(1, 1, 1, layout.channels, layout.channels, 0, layout.channels, layout.channels)
            scale, shift = scale[:1], shift[:1]
        self._add_affine(step, place, residual, layout, scale, shift)

    def _add_affine(
        self, step: Affine, place: str, residual: str | None, target: Layout, scale: Tensor, shift: Tensor
    ) -> None:
        tensors = {"values": scale.clone(), "bias": shift.clone(), "valid": target.valid()}
        self.tasks.append(
            PlannedOperation(
                kind=Kind.AFFINE,
                step=step.name,
                input=place,
                output=step.name,
                source=target,
                target=target,
                residual=residual,
                channels=target.channels,
                limits=step.limits,
                tensors=tensors,
            )
        )

    def _join(self, step: Join) -> None:
        target = self._new_image(step)
        first = 0
        for name in step.inputs:
            place = self.image(name)
            # Whole planes, with everything between their pixels, since the spacing is the same.
            layout = self.layouts[place]
            planes = Layout(1, layout.channels, 1, layout.plane, layout.plane, 0, layout.plane, layout.plane)
            self._copy(place, step.name, planes, planes, clears=False, output_begin=first * target.plane)
            first += layout.channels

    def _copy(
        self, name: str, place: str, source: Layout, target: Layout, *, clears: bool, output_begin: int = 0
    ) -> None:
        self.tasks.append(
            PlannedOperation(
                kind=Kind.COPY,
                step=place,
                input=name,
                output=place,
                source=source,
                target=target,
                output_begin=output_begin,
                channels=target.channels,
                clears=clears,
            )
        )


def _through_torch(step: Affine) -> TorchCall:
    """Features of one sample with a scale for each: there is no plane to give to a kernel."""
    values = [Value(name) for name in step.reads]
    return TorchCall(
        name=step.name,
        inputs=step.reads,
        shape=step.shape,
        target=_scale_and_shift,
        arguments=(step.scale, step.shift, step.limits, *values),
    )


def _scale_and_shift(
    scale: Tensor, shift: Tensor, limits: Limits, value: Tensor, residual: Tensor | None = None
) -> Tensor:
    result = torch.addcmul(shift, value, scale)
    return (result if residual is None else result + residual).clamp(limits.low, limits.high)


def _uniform(step: Affine) -> bool:
    return all(bool((tensor == tensor[0]).all()) for tensor in (step.scale, step.shift))


def _holds_image(step: Step) -> bool:
    return isinstance(step, _NATIVE_IMAGES) and len(step.shape) == 4


def _spacing_of_size(shape: tuple[int, ...]) -> Spacing:
    return Spacing((shape[2], shape[3]), (0, 0), (shape[2], shape[3]))


def _same_memory(layout: Layout, other: Layout) -> bool:
    """Whether two layouts put every number at the same place."""
    counts = (layout.images, layout.channels, layout.height, layout.width)
    strides = [(layout.image, other.image), (layout.plane, other.plane), (layout.row, other.row), (layout.column, 1)]
    return layout.begin == other.begin and all(
        count == 1 or mine == others for count, (mine, others) in zip(counts, strides, strict=True)
    )
