"""Initial weights shared by the convolutional networks."""

from __future__ import annotations

from torch import nn


def kaiming_initialise(model: nn.Module) -> None:
    """Give every convolution a normal distribution of variance 2 / (kernel area x output channels), in place.

    He et al., "Delving Deep into Rectifiers" (arXiv 1502.01852), in its backward form. Convolution and Linear biases
    become zero; Linear weights and batch norm keep PyTorch's defaults.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)
