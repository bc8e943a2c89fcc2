"""Which weights of a model are counted, and under which names."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from sparsewright.scope import canonical_names

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (nn.Linear, *CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, nn.MultiheadAttention)


def layer_weights(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Every weight of a Linear, convolution or attention layer: (canonical name, layer, attribute, weight).

    A weight that several layers share is yielded once per layer, always under its first name.
    """
    canonical = canonical_names(name for name, _ in model.named_parameters())
    first_name = {id(weight): canonical[name] for name, weight in model.named_parameters()}
    for path, layer in model.named_modules():
        if not isinstance(layer, LAYERS):
            continue
        for attribute in _weight_attributes(layer):
            weight = getattr(layer, attribute)
            if weight is not None:
                # A re-parametrized weight is no parameter of the model; it goes by where it is used.
                name = first_name.get(id(weight)) or (f"{path}.{attribute}" if path else attribute)
                yield name, layer, attribute, weight


def _weight_attributes(layer: nn.Module) -> tuple[str, ...]:
    if isinstance(layer, nn.MultiheadAttention):
        return ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return ("weight",)
