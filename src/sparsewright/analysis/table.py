"""A network layer by layer: weights, zeros and FLOPs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsewright.analysis.flops import layer_flops
from sparsewright.analysis.naming import layer_weights


@dataclass(frozen=True)
class LayerRow:
    """One weight tensor of a network.

    Attributes:
        name: parameter name in the unwrapped model.
        shape: shape of the weight; empty for a row of totals.
        weights: number of weights.
        nonzero: number of weights that are not exactly zero.
        sparsity: fraction of exact zeros, in [0, 1].
        flops_dense: forward FLOPs per sample if no weight were zero; None without an example input.
        flops_sparse: the same at the layer's density.
        flops_share: fraction of the network's ``flops_sparse`` that this layer has, in [0, 1].
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    nonzero: int
    sparsity: float
    flops_dense: int | None = None
    flops_sparse: float | None = None
    flops_share: float | None = None


def layer_table(model: nn.Module, example_input: Tensor | Sequence[Tensor] | None = None) -> list[LayerRow]:
    """One row per Linear, convolution or attention weight, in the model's order; a shared weight has one row.

    Args:
        model: any module.
        example_input: what ``model(...)`` takes, samples first, to count FLOPs with; None leaves FLOPs out.

    Raises:
        TypeError, ValueError: an unusable example, as in :func:`sparsewright.analysis.layer_flops`.
    """
    weights = {name: weight for name, _, _, weight in layer_weights(model)}
    nonzero = {name: int(torch.count_nonzero(weight)) for name, weight in weights.items()}
    flops = layer_flops(model, example_input) if example_input is not None else None
    sparse = {} if flops is None else {name: flops[name] * nonzero[name] / weights[name].numel() for name in weights}
    total = sum(sparse.values())
    return [
        LayerRow(
            name=name,
            shape=tuple(weight.shape),
            weights=weight.numel(),
            nonzero=nonzero[name],
            sparsity=1 - nonzero[name] / weight.numel(),
            flops_dense=None if flops is None else flops[name],
            flops_sparse=sparse.get(name),
            flops_share=None if flops is None else (sparse[name] / total if total else 0.0),
        )
        for name, weight in weights.items()
    ]


def table_totals(rows: Sequence[LayerRow], name: str = "total") -> LayerRow:
    """The sums over some rows as a row of its own; its shape is empty.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("no layers to add up: the model has no Linear, convolution or attention weights")
    weights, nonzero = sum(row.weights for row in rows), sum(row.nonzero for row in rows)
    with_flops = all(row.flops_dense is not None for row in rows)
    return LayerRow(
        name=name,
        shape=(),
        weights=weights,
        nonzero=nonzero,
        sparsity=1 - nonzero / weights,
        flops_dense=sum(row.flops_dense or 0 for row in rows) if with_flops else None,
        flops_sparse=sum(row.flops_sparse or 0.0 for row in rows) if with_flops else None,
        flops_share=sum(row.flops_share or 0.0 for row in rows) if with_flops else None,
    )
