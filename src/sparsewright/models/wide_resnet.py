"""Wide residual networks.

Source: Zagoruyko and Komodakis, "Wide Residual Networks" (arXiv 1605.07146): pre-activation basic blocks B(3,3).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sparsewright.models.initialisation import kaiming_initialise


class PreActivationBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions; dropout between them.

    Where the number of channels changes, the shortcut is a 1x1 convolution of the first activation.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        out = self.dropout(F.relu(self.bn2(self.conv1(activated))))
        return shortcut + self.conv2(out)


class WideResNet(nn.Module):
    """WRN-`depth`-`widen_factor`: a stem of 16 channels and three groups of 16, 32, 64 times the factor.

    Takes (batch, in_channels, height, width) images of any size.

    Args:
        depth: 6n + 4 layers.
        widen_factor: multiplies the groups' channels.
        num_classes: outputs.
        in_channels: image channels.
        dropout: probability of dropping an activation between the two convolutions of a block, in [0, 1).
    """

    def __init__(
        self, depth: int, widen_factor: int, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        groups: list[nn.Module] = []
        inputs = 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            outputs = width * widen_factor
            first = PreActivationBlock(inputs, outputs, stride, dropout)
            groups.append(
                nn.Sequential(first, *(PreActivationBlock(outputs, outputs, 1, dropout) for _ in range(blocks - 1)))
            )
            inputs = outputs
        self.groups = nn.Sequential(*groups)
        self.bn = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs, num_classes)
        kaiming_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.groups(self.conv1(x))))
        return self.fc(x.mean(dim=(2, 3)))


def wide_resnet(
    depth: int, widen_factor: int, num_classes: int, in_channels: int, image_size: int, dropout: float = 0.0
) -> WideResNet:
    """WRN-22-2 (1.08M parameters), WRN-28-10 (36.5M) and the like; `image_size` is free: the network pools globally.

    Raises:
        ValueError: if `dropout` is not in [0, 1).
    """
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must be in [0, 1), not {dropout}")
    return WideResNet(depth, widen_factor, num_classes, in_channels, dropout)
