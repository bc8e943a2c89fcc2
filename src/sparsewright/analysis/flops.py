"""FLOPs of a network, dense and sparse, for inference and for training.

Counted as in the appendix on FLOPs of RigL (arXiv 1911.11134): the multiply-accumulates of Linear and convolution
layers, two operations each; biases, normalisation, activations, the loss and the optimizer are left out. A sparse
layer costs its dense FLOPs times its density. These are the operations that a perfect sparse kernel would need, not
a prediction of time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsewright.analysis.naming import TRANSPOSED_CONVOLUTIONS, layer_weights
from sparsewright.modules import checked_inputs, evaluation_mode


def layer_flops(model: nn.Module, example_input: Tensor | Sequence[Tensor]) -> dict[str, int]:
    """Dense forward FLOPs per sample of every Linear, convolution and attention weight, by parameter name.

    The model is run once on the example in evaluation mode, uncompiled and without gradients (then put back as it
    was), so what the forward pass does is what is counted: a weight that is used several times counts each use, one
    that is not used, or used outside its own layer's forward, counts 0. A shared weight is listed under its first
    name. Positions of padding count as others. Of attention, the projections are counted; the products of queries,
    keys and values have no weights.

    Args:
        model: any module; names are those of the model inside DDP, torch.compile and Fabric wrappers.
        example_input: what ``model(...)`` takes, a tensor of shape (samples, ...) or several of them, on the model's
            device. The number of samples is the first dimension of the first tensor.

    Returns:
        name -> 2 x multiply-accumulates for one sample, in the order of the model's layers.

    Raises:
        TypeError: the example is not one or several tensors.
        ValueError: the example holds no sample.
    """
    inputs = checked_inputs(example_input)
    name_of: dict[tuple[int, str], str] = {}
    layers: dict[int, nn.Module] = {}
    for name, layer, attribute, _ in layer_weights(model):
        name_of[id(layer), attribute] = name
        layers[id(layer)] = layer
    operations = dict.fromkeys(name_of.values(), 0)

    def count(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        for owner, attribute, macs in _multiply_accumulates(layer, args, kwargs, output):
            operations[name_of[id(owner), attribute]] += 2 * macs

    handles = [layer.register_forward_hook(count, with_kwargs=True) for layer in layers.values()]
    try:
        with evaluation_mode(model), torch.no_grad(), torch.compiler.set_stance("force_eager"):
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total // inputs[0].shape[0] for name, total in operations.items()}


def inference_flops(layer_flops: Mapping[str, float], density: Mapping[str, float]) -> float:
    """Forward FLOPs per sample with each layer at its density (f_S of the RigL paper).

    Args:
        layer_flops: dense FLOPs per weight, as :func:`layer_flops` returns them.
        density: name -> fraction of kept weights in [0, 1]; a layer that is not listed is dense, and a name without
            FLOPs (an embedding, say) adds none.

    Raises:
        ValueError: a density outside [0, 1].
    """
    for name, value in density.items():
        if not 0 <= value <= 1:
            raise ValueError(f"density of {name!r} is {value}; a density is in [0, 1]")
    return float(sum(flops * density.get(name, 1.0) for name, flops in layer_flops.items()))


def training_flops_per_step(
    layer_flops: Mapping[str, float], density: Mapping[str, float], *, dense_gradient: bool = False
) -> float:
    """FLOPs per sample of one training step, as the appendix of RigL (arXiv 1911.11134) counts them.

    The forward pass costs f, the gradients of the activations another f and those of the weights a third. At the given
    densities all three are sparse, 3 f_S; a step that needs the gradient of every weight, masked ones included,
    computes the third densely, 2 f_S + f_D. So a dense step is 3 f_D (an empty ``density``), RigL and GraNet need the
    dense gradient on steps that update the topology, SNFS on every step, SET and static masks never.

    Args:
        layer_flops: dense FLOPs per weight, as :func:`layer_flops` returns them.
        density: name -> fraction of kept weights while the step runs; a layer that is not listed is dense.
        dense_gradient: whether this step uses the gradient of masked weights.

    Raises:
        ValueError: a density outside [0, 1].
    """
    sparse = inference_flops(layer_flops, density)
    weight_gradient = float(sum(layer_flops.values())) if dense_gradient else sparse
    return 2 * sparse + weight_gradient


def _multiply_accumulates(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> Iterator[tuple[nn.Module, str, int]]:
    """(layer that owns the weight, attribute, multiply-accumulates) of one call, over all its samples."""
    if isinstance(layer, nn.MultiheadAttention):
        yield from _attention(layer, args, kwargs)
        return
    weight = layer.weight
    assert isinstance(weight, Tensor)
    # One weight of a Linear or convolution meets every position of the output once; its first dimension is the
    # output's channels. A transposed convolution is the mirror image: positions of the input, channels first.
    positions = args[0] if isinstance(layer, TRANSPOSED_CONVOLUTIONS) and args else output
    if isinstance(layer, TRANSPOSED_CONVOLUTIONS) and not args:
        positions = kwargs["input"]
    yield layer, "weight", positions.numel() * (weight.numel() // weight.shape[0])


def _attention(
    layer: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterator[tuple[nn.Module, str, int]]:
    given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    query, key, value = (given[role].numel() // given[role].shape[-1] for role in ("query", "key", "value"))
    if layer.in_proj_weight is not None:
        yield layer, "in_proj_weight", (query + key + value) * (layer.in_proj_weight.numel() // 3)
    else:
        for tokens, attribute in ((query, "q_proj_weight"), (key, "k_proj_weight"), (value, "v_proj_weight")):
            yield layer, attribute, tokens * getattr(layer, attribute).numel()
    yield layer.out_proj, "weight", query * layer.out_proj.weight.numel()
