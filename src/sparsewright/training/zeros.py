"""Exact zeros, counted in the weights themselves."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd


def zero_fraction(model: nn.Module) -> float:
    """Fraction of exact zeros among the weights of Linear and Conv layers, a shared one counted once; 0.0 if none."""
    layers = (module for module in model.modules() if isinstance(module, (nn.Linear, _ConvNd)))
    weights = list({id(layer.weight): layer.weight for layer in layers}.values())
    total = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / total if total else 0.0
