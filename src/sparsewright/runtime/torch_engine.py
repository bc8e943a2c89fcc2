"""The steps of a network through torch alone: what is left where no kernels were compiled.

Layers with zeros are products with torch's compressed sparse rows (CSR), where that is faster than the dense layer.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map

from sparsewright.runtime.choosing import DENSE, ROUNDS, LayerChoice, no_such_kernel
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

CSR = "torch CSR"

_Run = Callable[[Tensor], Tensor]


class TorchEngine:
    """Runs a network step by step.

    Args:
        network: what to run.
        example: an input, for timing the layers.
        given: what to take for each layer, untimed.

    Raises:
        ValueError: ``given`` names what cannot run a layer.
    """

    def __init__(self, network: Network, example: Tensor, given: Mapping[str, str] | None = None) -> None:
        self._network = network
        self._given = given or {}
        self._runs: dict[str, _Run] = {}
        self.layers: list[LayerChoice] = []
        self.run(example)

    def run(self, value: Tensor) -> Tensor:
        """The network's result."""
        values: dict[str, Any] = {self._network.input: value}
        last = {name: step.name for step in self._network.steps for name in step.reads}
        for step in self._network.steps:
            values[step.name] = self._step(step, values)
            for name in step.reads:
                if last[name] == step.name and name != self._network.output:
                    values.pop(name, None)
        return values[self._network.output]

    def _step(self, step: Step, values: dict[str, Any]) -> Any:
        if isinstance(step, TorchCall):
            return _call(step, values)
        first = values[step.inputs[0]]
        if isinstance(step, Weighted):
            if step.name not in self._runs:
                self._runs[step.name], choice = _chosen(step, first, self._given.get(step.layer))
                self.layers.append(choice)
            result = self._runs[step.name](first)
        elif isinstance(step, Join):
            result = torch.cat([values[name] for name in step.inputs], dim=1)
        else:
            result = _unweighted(step, first)
        if step.residual is not None:
            result = result + values[step.residual]
        return result if step.limits == Limits() else result.clamp(step.limits.low, step.limits.high)


def _unweighted(step: Step, value: Tensor) -> Tensor:
    if isinstance(step, Pool) and not step.average:
        return F.max_pool2d(value, step.kernel, step.stride, step.padding)
    if isinstance(step, Pool):
        divisor = step.divisor or None
        return F.avg_pool2d(
            value, step.kernel, step.stride, step.padding, count_include_pad=bool(divisor), divisor_override=divisor
        )
    if isinstance(step, GlobalAverage):
        return value.mean(dim=(2, 3), keepdim=True).reshape(step.shape)
    if isinstance(step, Flatten):
        return value.flatten(1)
    assert isinstance(step, Affine)
    sizes = (1, -1, *(1,) * (value.dim() - 2))
    return torch.addcmul(step.shift.view(sizes), value, step.scale.view(sizes))


def _call(step: TorchCall, values: dict[str, Any]) -> Any:
    def value_of(leaf: object) -> object:
        return values[leaf.name] if isinstance(leaf, Value) else leaf

    return step.target(*tree_map(value_of, step.arguments), **tree_map(value_of, step.options))


def _chosen(step: Weighted, value: Tensor, given: str | None) -> tuple[_Run, LayerChoice]:
    runs = {DENSE: _dense(step)}
    if step.sparsity and (not isinstance(step, Convolution) or step.groups == 1):
        runs[CSR] = _sparse(step)
    if given is not None:
        if given not in runs:
            raise no_such_kernel(step.layer, given, runs)
        return runs[given], LayerChoice(step.layer, given, step.sparsity, {})
    times = dict.fromkeys(runs, float("inf"))
    for _ in range(ROUNDS if len(runs) > 1 else 0):
        for name, run in runs.items():
            begin = time.perf_counter()
            run(value)
            times[name] = min(times[name], time.perf_counter() - begin)
    best = min(runs, key=lambda name: times[name])
    shown = {name: round(1000 * seconds, 4) for name, seconds in times.items() if len(runs) > 1}
    return runs[best], LayerChoice(step.layer, best, step.sparsity, shown)


def _dense(step: Weighted) -> _Run:
    # Copies, as those without zeros are.
    weight, bias = step.weight.clone(), step.bias.clone()
    if isinstance(step, Linear):
        return lambda value: F.linear(value, weight, bias)
    assert isinstance(step, Convolution)
    return lambda value: F.conv2d(value, weight, bias, step.stride, step.padding, step.dilation, step.groups)


def _sparse(step: Weighted) -> _Run:
    with warnings.catch_warnings():
        # That its support is in beta, which the timing and the check of the result answer.
        warnings.simplefilter("ignore")
        weight = step.weight.flatten(1).to_sparse_csr()
    bias = step.bias.unsqueeze(1).clone()
    if isinstance(step, Linear):
        return lambda value: (weight @ value.t() + bias).t().contiguous()
    assert isinstance(step, Convolution)
    kernel = step.weight.shape[2:]
    pixels = step.shape[2:]

    def run(value: Tensor) -> Tensor:
        columns = F.unfold(value, kernel, step.dilation, step.padding, step.stride)
        samples, rows, _ = columns.shape
        product = weight @ columns.transpose(0, 1).reshape(rows, -1) + bias
        return product.view(len(weight), samples, *pixels).transpose(0, 1).contiguous()

    return run
