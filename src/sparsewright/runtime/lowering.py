"""From a module to the steps of :mod:`sparsewright.runtime.graph`, through ``torch.export``."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import Any

import torch
from torch import Tensor, fx, nn

from sparsewright.modules import evaluation_mode
from sparsewright.runtime.graph import (
    Affine,
    Convolution,
    Flatten,
    GlobalAverage,
    Join,
    Limits,
    Linear,
    Network,
    Pair,
    Pool,
    Step,
    TorchCall,
    Value,
)

_aten = torch.ops.aten
_BATCH_NORM = _aten._native_batch_norm_legit_no_training.default


class LoweringError(ValueError):
    """A network that cannot be taken apart; the message says why."""


def lower(model: nn.Module, example_input: Tensor) -> Network:
    """Trace a network for inputs of exactly the example's shape.

    What is not a step of its own becomes a :class:`TorchCall`.

    Raises:
        LoweringError: ``torch.export`` cannot trace it, or it does not map one tensor to one.
    """
    program = _exported(model, example_input)
    constants = _constants(program)
    inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node.name not in constants]
    outputs = next(node for node in program.graph.nodes if node.op == "output").args[0]
    if len(inputs) != 1 or len(outputs) != 1 or not isinstance(outputs[0], fx.Node):
        raise LoweringError(f"it has {len(inputs)} inputs and {len(outputs)} outputs, and one of each is supported")
    lowering = _Lowering(constants)
    for node in program.graph.nodes:
        if node.op == "call_function":
            lowering.add(node)
        elif node.op not in ("placeholder", "output"):
            raise LoweringError(f"it has a part of its own, {node.target}, such as a branch that depends on values")
    if lowering.constant(outputs[0]) or outputs[0] is inputs[0]:
        raise LoweringError("its output does not depend on its input through any layer")
    return Network(tuple(lowering.steps), inputs[0].name, tuple(example_input.shape), outputs[0].name)


def _exported(model: nn.Module, example_input: Tensor) -> torch.export.ExportedProgram:
    try:
        with evaluation_mode(model), torch.no_grad(), warnings.catch_warnings():
            # They are about the internals of torch.export.
            warnings.simplefilter("ignore")
            # The empty table makes in-place operators functional and leaves convolutions and linear layers whole.
            return torch.export.export(model, (example_input,)).run_decompositions({})
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LoweringError(f"torch.export cannot trace it: {reason}") from error


def _constants(program: torch.export.ExportedProgram) -> dict[str, _Constant]:
    """By the name in the graph: parameters, buffers and constants."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names |= signature.inputs_to_lifted_tensor_constants
    tensors = {**program.state_dict, **program.constants}
    return {
        node: _Constant(name, tensors[name].detach(), node in signature.inputs_to_parameters)
        for node, name in names.items()
    }


@dataclass(frozen=True)
class _Constant:
    """A tensor that does not depend on the input.

    Attributes:
        name: in the model; of a computed one, that of the parameter it was computed from.
        tensor: its value.
        trained: whether it is a parameter, or computed from one.
    """

    name: str
    tensor: Tensor
    trained: bool


class _Lowering:
    """Turns nodes into steps, one after another."""

    def __init__(self, constants: Mapping[str, _Constant]) -> None:
        self._constants = dict(constants)
        self._layers: set[str] = set()
        self.steps: list[Step] = []

    def add(self, node: fx.Node) -> None:
        if self._computed_beforehand(node) or self._folds(node):
            return
        source = node.args[0] if node.args else None
        normalised = node.target is operator.getitem and self._folds(source)
        lowered = _batch_norm if normalised else None if node.kwargs else _LOWERED.get(node.target)
        step = lowered(self, node) if lowered is not None and 0 not in _shape(node) else None
        self.steps.append(step or self._call(node))

    def _computed_beforehand(self, node: fx.Node) -> bool:
        """Whether it depends on parameters alone, as weights under ``torch.nn.utils.prune``, and is a constant now."""
        read = node.all_input_nodes
        target: Any = node.target
        drawn = torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())
        if not read or drawn or not all(map(self.constant, read)) or not isinstance(node.meta.get("val"), Tensor):
            return False
        arguments, options = fx.map_arg(
            (node.args, node.kwargs), lambda argument: self._constants[argument.name].tensor
        )
        tensor = target(*arguments, **options)
        # A weight times its mask is the weight.
        sources = [self._constants[argument.name] for argument in read]
        of = max(sources, key=lambda source: (source.trained, source.tensor.shape == tensor.shape))
        self._constants[node.name] = replace(of, tensor=tensor)
        return True

    def _folds(self, node: Any) -> bool:
        """Whether it is a batch norm that becomes a scale and a shift where its first result is taken."""
        if not isinstance(node, fx.Node) or node.target is not _BATCH_NORM or not _used_as_one(node):
            return False
        value, weight, bias, *statistics = _arguments(node)[:5]
        optional = [tensor for tensor in (weight, bias) if tensor is not None]
        known = all(self.tensor(tensor) is not None for tensor in (*optional, *statistics))
        return known and self.computed(value) and len(_shape(value)) in (2, 4)

    def constant(self, argument: Any) -> bool:
        """Whether it is a parameter, a buffer, or computed from them alone."""
        return isinstance(argument, fx.Node) and argument.name in self._constants

    def tensor(self, argument: Any) -> Tensor | None:
        """A float32 constant; None for anything else."""
        if not self.constant(argument):
            return None
        tensor = self._constants[argument.name].tensor
        return tensor if tensor.dtype == torch.float32 else None

    def layer(self, argument: fx.Node) -> str:
        """Name in the model of a parameter; a number behind it where that is taken."""
        name = self._constants[argument.name].name
        free = next(use for use in chain([name], (f"{name}#{use}" for use in count(2))) if use not in self._layers)
        self._layers.add(free)
        return free

    def computed(self, argument: Any) -> bool:
        """Whether the network computes it, as float32 numbers."""
        if not isinstance(argument, fx.Node) or self.constant(argument):
            return False
        value = argument.meta.get("val")
        return isinstance(value, Tensor) and value.dtype == torch.float32 and value.numel() > 0

    def _call(self, node: fx.Node) -> TorchCall:
        read: list[str] = []

        def argument_of(argument: fx.Node) -> Any:
            if self.constant(argument):
                # A copy, as kernels have, which what becomes of the model later does not change.
                return self._constants[argument.name].tensor.clone()
            read.append(argument.name)
            return Value(argument.name)

        arguments, options = fx.map_arg((node.args, node.kwargs), argument_of)
        return TorchCall(
            name=node.name,
            inputs=tuple(dict.fromkeys(read)),
            shape=_shape(node),
            target=node.target,
            arguments=arguments,
            options=options,
            numbers=self.computed(node),
        )


_Lowered = Callable[[_Lowering, fx.Node], Step | None]
"""Turns a node into a step, or returns None where it is not of the kind that a step can be."""


def _convolution(lowering: _Lowering, node: fx.Node) -> Step | None:
    image, weight_node, bias_node, stride, padding, dilation, groups = _filled(node, (None, (1,), (0,), (1,), 1), 2)
    found = _weight_and_bias(lowering, weight_node, bias_node)
    if found is None:
        return None
    weight, bias = found
    if not lowering.computed(image) or len(_shape(image)) != 4:
        return None
    return Convolution(
        name=node.name,
        inputs=(image.name,),
        shape=_shape(node),
        layer=lowering.layer(weight_node),
        weight=weight,
        bias=bias,
        stride=_pair(stride),
        padding=_pair(padding),
        dilation=_pair(dilation),
        groups=groups,
    )


def _linear(lowering: _Lowering, node: fx.Node) -> Step | None:
    value, weight_node, bias_node = _filled(node, (None,), 2)
    found = _weight_and_bias(lowering, weight_node, bias_node)
    if found is None:
        return None
    weight, bias = found
    if not lowering.computed(value) or len(_shape(value)) != 2 or weight.dim() != 2:
        return None
    return Linear(
        name=node.name,
        inputs=(value.name,),
        shape=_shape(node),
        layer=lowering.layer(weight_node),
        weight=weight,
        bias=bias,
    )


def _weight_and_bias(lowering: _Lowering, weight_node: Any, bias_node: fx.Node | None) -> tuple[Tensor, Tensor] | None:
    """Those of a layer, zeros where it has no bias; None where they are not what a kernel can take."""
    weight, bias = lowering.tensor(weight_node), lowering.tensor(bias_node)
    if weight is None or weight.dim() == 0:
        return None
    if bias_node is None:
        return weight, weight.new_zeros(len(weight))
    return None if bias is None or bias.shape != weight.shape[:1] else (weight, bias)


def _batch_norm(lowering: _Lowering, node: fx.Node) -> Step | None:
    norm = node.args[0]
    assert isinstance(norm, fx.Node)
    arguments = _arguments(norm)
    value, *tensors = arguments[:5]
    epsilon = arguments[6]
    weight, bias, mean, variance = (lowering.tensor(tensor) for tensor in tensors)
    assert mean is not None
    assert variance is not None
    scale = (variance.double() + epsilon).rsqrt() * (1.0 if weight is None else weight.double())
    shift = (0.0 if bias is None else bias.double()) - mean.double() * scale
    return _affine(node, value, scale=scale.float(), shift=shift.float())


def _activation(lowering: _Lowering, node: fx.Node) -> Step | None:
    value = _arguments(node)[0]
    if not lowering.computed(value) or len(_shape(node)) not in (2, 4):
        return None
    defaults = (-1.0, 1.0) if node.target is _aten.hardtanh.default else (None, None)
    low, high = (0.0, None) if node.target is _aten.relu.default else _filled(node, defaults, 1)[1:]
    if not all(bound is None or isinstance(bound, (int, float)) for bound in (low, high)):
        return None
    bounds = Limits(-math.inf if low is None else float(low), math.inf if high is None else float(high))
    return _affine(node, value, limits=bounds)


def _addition(lowering: _Lowering, node: fx.Node) -> Step | None:
    left, right = _arguments(node)
    both = lowering.computed(left) and lowering.computed(right)
    if not both or node.kwargs or _shape(left) != _shape(right) or len(_shape(node)) not in (2, 4):
        return None
    return _affine(node, left, residual=right.name)


def _affine(
    node: fx.Node, value: fx.Node, *, scale: Tensor | None = None, shift: Tensor | None = None, **fields: Any
) -> Affine:
    channels = _shape(node)[1]
    if scale is None or shift is None:
        # Whatever type and device the caller has made the default.
        zeros = torch.zeros(channels, dtype=torch.float32, device="cpu")
        scale, shift = zeros + 1, zeros
    return Affine(name=node.name, inputs=(value.name,), shape=_shape(node), scale=scale, shift=shift, **fields)


def _max_pool(lowering: _Lowering, node: fx.Node) -> Step | None:
    image, kernel, stride, padding, dilation, ceiling = _filled(node, ((), (0,), (1,), False), 2)
    if not lowering.computed(image) or len(_shape(image)) != 4 or ceiling or _pair(dilation) != (1, 1):
        return None
    return _pool(node, image, kernel, stride, padding, average=False)


def _average_pool(lowering: _Lowering, node: fx.Node) -> Step | None:
    image, kernel, stride, padding, ceiling, counts_padding, divisor = _filled(node, ((), (0,), False, True, None), 2)
    if not lowering.computed(image) or len(_shape(image)) != 4 or ceiling:
        return None
    area = math.prod(_pair(kernel)) if counts_padding else 0
    return _pool(node, image, kernel, stride, padding, average=True, divisor=divisor or area)


def _pool(node: fx.Node, image: fx.Node, kernel: Any, stride: Any, padding: Any, **fields: Any) -> Pool:
    return Pool(
        name=node.name,
        inputs=(image.name,),
        shape=_shape(node),
        kernel=_pair(kernel),
        stride=_pair(stride) if stride else _pair(kernel),
        padding=_pair(padding),
        **fields,
    )


def _adaptive_average(lowering: _Lowering, node: fx.Node) -> Step | None:
    image = _arguments(node)[0]
    if not lowering.computed(image) or len(_shape(image)) != 4:
        return None
    (height, width), (rows, columns) = _shape(image)[2:], _shape(node)[2:]
    if height % rows or width % columns:
        return None
    kernel = (height // rows, width // columns)
    if kernel == (1, 1):
        return _affine(node, image)
    if (rows, columns) == (1, 1):
        return GlobalAverage(name=node.name, inputs=(image.name,), shape=_shape(node))
    return _pool(node, image, kernel, kernel, (0, 0), average=True, divisor=math.prod(kernel))


def _mean(lowering: _Lowering, node: fx.Node) -> Step | None:
    image, dimensions, *_ = _arguments(node)
    if not lowering.computed(image) or len(_shape(image)) != 4 or node.kwargs:
        return None
    if sorted(dimension % 4 for dimension in dimensions or ()) != [2, 3]:
        return None
    return GlobalAverage(name=node.name, inputs=(image.name,), shape=_shape(node))


def _reshape(lowering: _Lowering, node: fx.Node) -> Step | None:
    value = _arguments(node)[0]
    if not lowering.computed(value):
        return None
    before, after = _shape(value), _shape(node)
    if before == after:
        return _affine(node, value) if len(after) in (2, 4) else None
    if len(before) == 4 and after == (before[0], math.prod(before[1:])):
        return Flatten(name=node.name, inputs=(value.name,), shape=after)
    return None


def _concatenation(lowering: _Lowering, node: fx.Node) -> Step | None:
    values, dimension = _filled(node, (0,), 1)
    if dimension != 1 or not all(lowering.computed(value) and len(_shape(value)) == 4 for value in values):
        return None
    return Join(name=node.name, inputs=tuple(value.name for value in values), shape=_shape(node))


_LOWERED: dict[Any, _Lowered] = {
    _aten.conv2d.default: _convolution,
    _aten.linear.default: _linear,
    _aten.relu.default: _activation,
    _aten.hardtanh.default: _activation,
    _aten.clamp.default: _activation,
    _aten.add.Tensor: _addition,
    _aten.max_pool2d.default: _max_pool,
    _aten.avg_pool2d.default: _average_pool,
    _aten.adaptive_avg_pool2d.default: _adaptive_average,
    _aten.mean.dim: _mean,
    _aten.view.default: _reshape,
    _aten.reshape.default: _reshape,
    _aten.cat.default: _concatenation,
}


def _arguments(node: fx.Node) -> list[Any]:
    return list(node.args)


def _used_as_one(norm: Any) -> bool:
    """Whether only the first of a batch norm's three results is used, as in evaluation mode."""
    return all(user.target is operator.getitem and user.args[1] == 0 for user in norm.users)


def _filled(node: fx.Node, defaults: tuple[Any, ...], required: int) -> list[Any]:
    """All positional arguments; those that were left out have their defaults."""
    given = len(node.args) - required
    return [*_arguments(node), *defaults[max(0, given) :]]


def _shape(node: Any) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _pair(value: Any) -> Pair:
    values = (value,) if isinstance(value, int) else tuple(value)
    return (values[0], values[-1])
