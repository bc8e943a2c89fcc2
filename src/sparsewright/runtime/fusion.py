"""Steps that become part of the one before them: batch norms, activations, and the sums that end a residual block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor
from torch.utils._pytree import tree_map

from sparsewright.runtime.graph import (
    Affine,
    Flatten,
    GlobalAverage,
    Join,
    Limits,
    Network,
    Step,
    TorchCall,
    Value,
    Weighted,
)


def fuse(network: Network) -> Network:
    """The same network in fewer steps; its weights are copies where they change.

    A batch norm is folded into the convolution or linear layer that alone feeds it; limits and residual sums go to the
    step that computes the value. Steps whose result nobody reads go.
    """
    steps = {step.name: step for step in network.steps}
    order = [step.name for step in network.steps]
    readers = {name: len(reading) for name, reading in network.readers().items()}
    readers[network.output] += 1
    renamed: dict[str, str] = {}
    for name in order:
        step = _renamed(steps[name], renamed)
        steps[name] = step
        if isinstance(step, Flatten) and readers[step.inputs[0]] == 1:
            averaged = steps.get(step.inputs[0])
            if isinstance(averaged, GlobalAverage):
                # Its results are features already.
                steps[averaged.name] = replace(averaged, shape=step.shape)
                renamed[name] = averaged.name
                readers[averaged.name] = readers[name]
                del steps[name]
        if not isinstance(step, Affine):
            continue
        for source, other in _sides(step, order):
            into = steps.get(source)
            merged = _merged(into, step, other) if into is not None and readers[source] == 1 else None
            if merged is not None:
                steps[source] = merged
                renamed[name] = source
                readers[source] = readers[name]
                del steps[name]
                break
    output = renamed.get(network.output, network.output)
    return Network(tuple(_needed(steps, output)), network.input, network.input_shape, output)


def _sides(step: Affine, order: list[str]) -> list[tuple[str, str | None]]:
    """Where the step could go to, and what is added there then: a sum goes to the later of its two sides."""
    source = step.inputs[0]
    if step.residual is None:
        return [(source, None)]
    place = {name: index for index, name in enumerate(order)}
    both = [(source, step.residual), (step.residual, source)]
    return sorted(both, key=lambda side: -place.get(side[0], -1))


def _merged(into: Step, step: Affine, other: str | None) -> Step | None:
    """``into`` with the affine step, and the sum with ``other``, after it; None where it cannot do that."""
    if isinstance(into, (Flatten, Join, TorchCall)):
        return None
    plain = bool((step.scale == 1).all()) and bool((step.shift == 0).all())
    if other is not None:
        # A sum is made before the limits, and has room for one other side.
        ready = plain and into.residual is None and into.limits == Limits() and isinstance(into, (Weighted, Affine))
        return replace(into, residual=other, limits=step.limits) if ready else None
    if plain:
        return replace(into, limits=into.limits.then(step.limits))
    if into.limits != Limits() or into.residual is not None:
        return None
    if isinstance(into, Weighted):
        return replace(
            into,
            weight=_scaled(into.weight, step.scale),
            bias=into.bias * step.scale + step.shift,
            limits=step.limits,
        )
    if isinstance(into, Affine):
        shift = into.shift * step.scale + step.shift
        return replace(into, scale=into.scale * step.scale, shift=shift, limits=step.limits)
    return None


def _scaled(weight: Tensor, scale: Tensor) -> Tensor:
    return weight * scale.reshape(-1, *(1,) * (weight.dim() - 1))


def _renamed(step: Step, renamed: dict[str, str]) -> Step:
    inputs = tuple(renamed.get(name, name) for name in step.inputs)
    residual = renamed.get(step.residual, step.residual) if step.residual is not None else None
    if isinstance(step, TorchCall):
        return _with_values(replace(step, inputs=inputs), renamed)
    return replace(step, inputs=inputs, residual=residual)


def _with_values(step: TorchCall, renamed: dict[str, str]) -> TorchCall:
    def follow(leaf: object) -> object:
        return Value(renamed.get(leaf.name, leaf.name)) if isinstance(leaf, Value) else leaf

    return replace(step, arguments=tree_map(follow, step.arguments), options=tree_map(follow, step.options))


def _needed(steps: Mapping[str, Step], output: str) -> list[Step]:
    """The steps that the output depends on, each after all that it reads.

    A sum at the end of a block went to the side that could take it, though the other may have come later.
    """
    placed: dict[str, Step] = {}
    waiting = [output]
    while waiting:
        step = steps.get(waiting[-1])
        if step is None or step.name in placed:
            waiting.pop()
        elif missing := [name for name in step.reads if name in steps and name not in placed]:
            waiting += reversed(missing)
        else:
            placed[step.name] = step
    return list(placed.values())
