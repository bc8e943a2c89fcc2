"""Residual networks for 32x32 images: He et al.'s thin basic ones, and ResNet-50 with a small stem.

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition" (arXiv 1512.03385).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sparsewright.models.initialisation import kaiming_initialise


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


class ParameterFreeShortcut(nn.Module):
    """Option A of section 4.2: every second pixel, and zero channels added evenly on both sides."""

    def __init__(self, added_channels: int) -> None:
        super().__init__()
        self.before = added_channels // 2
        self.after = added_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around an identity or parameter-free shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = ParameterFreeShortcut(outputs - inputs) if stride != 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions; a 1x1 convolution in the shortcut where the shape changes."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """A 3x3 stem at full resolution, stages of residual blocks that halve it, global average pooling, one Linear.

    Takes (batch, in_channels, height, width) images of any size.
    """

    def __init__(self, stem: int, stages: list[nn.Sequential], features: int, num_classes: int, in_channels: int):
        super().__init__()
        self.conv1 = _conv3x3(in_channels, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(features, num_classes)
        kaiming_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(F.relu(self.bn1(self.conv1(x))))
        return self.fc(x.mean(dim=(2, 3)))


def cifar_resnet(depth: int, width_factor: int, num_classes: int, in_channels: int, image_size: int) -> CifarResNet:
    """The ResNet of section 4.2 with 6n + 2 = `depth` layers and 16, 32, 64 channels times `width_factor`.

    Shortcuts are parameter-free (option A). Parameters for 10 classes: 0.27M (20 layers), 0.46M (32), 0.66M (44),
    0.85M (56), 1.7M (110). `image_size` is free: the network pools globally.
    """
    blocks = (depth - 2) // 6
    inputs = 16 * width_factor
    stages = []
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        outputs = width * width_factor
        first = BasicBlock(inputs, outputs, stride)
        stages.append(nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1))))
        inputs = outputs
    return CifarResNet(16 * width_factor, stages, inputs, num_classes, in_channels)


def resnet50_cifar(num_classes: int, in_channels: int, image_size: int) -> CifarResNet:
    """ResNet-50's bottleneck stages behind a 3x3 stem of stride 1 without max-pool; 23.5M parameters.

    The stride of a stage is in its first 3x3 convolution. `image_size` is free: the network pools globally.
    """
    inputs = 64
    stages = []
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        outputs = width * Bottleneck.expansion
        first = Bottleneck(inputs, width, stride)
        stages.append(nn.Sequential(first, *(Bottleneck(outputs, width, 1) for _ in range(blocks - 1))))
        inputs = outputs
    return CifarResNet(64, stages, inputs, num_classes, in_channels)
