"""Small networks for digits: multilayer perceptrons, LeNet-300-100 among them, and Caffe's LeNet-5."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

MLP_GRAMMAR = "mlp:WIDTHS or mlp:WIDTHSxDEPTH, such as mlp:300-100 or mlp:256x3"


class MLP(nn.Sequential):
    """Fully connected ReLU network: flatten, `fc1`, `relu1`, `fc2`, ..., the last `fc` giving the classes.

    Takes (batch, channels, height, width) images of any size with channels * height * width = `inputs`. Weights start
    as PyTorch's Linear layers do.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], num_classes: int) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        width = inputs
        for number, following in enumerate(hidden, start=1):
            layers[f"fc{number}"] = nn.Linear(width, following)
            layers[f"relu{number}"] = nn.ReLU()
            width = following
        layers[f"fc{len(hidden) + 1}"] = nn.Linear(width, num_classes)
        super().__init__(layers)


class LeNet5(nn.Module):
    """Caffe's LeNet-5 with 20 and 50 filters of 5x5 and 500 hidden units; 431,080 parameters on MNIST.

    As the pruning literature trains it, a ReLU follows each max-pool too (Caffe's own file has one after the hidden
    layer only). Weights start as PyTorch's layers do.

    Args:
        num_classes: outputs.
        in_channels: image channels.
        image_size: height and width in pixels, at least 16.
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 1, image_size: int = 28) -> None:
        super().__init__()
        if image_size < 16:
            raise ValueError(f"lenet5 needs images of at least 16x16 pixels, not {image_size}x{image_size}")
        side = ((image_size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * side * side, 500)
        self.fc2 = nn.Linear(500, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc2(x)


def parse_widths(text: str) -> list[int]:
    """Hidden widths of `mlp:TEXT`: widths joined by "-", the whole repeated DEPTH times.

    "300-100" is [300, 100], "256x3" is [256, 256, 256], "512-128x2" is [512, 128, 512, 128].

    Raises:
        ValueError: if the text does not follow the grammar, or a number in it is zero.
    """
    match = re.fullmatch(r"(\d+(?:-\d+)*)(?:x(\d+))?", text)
    widths = [int(width) for width in match[1].split("-")] * int(match[2] or 1) if match else []
    if not widths or 0 in widths:
        raise ValueError(f"'mlp:{text}' is not the name of a perceptron: write {MLP_GRAMMAR}, with positive numbers")
    return widths


def lenet300(num_classes: int, in_channels: int, image_size: int) -> MLP:
    """LeNet-300-100 (LeCun et al., 1998): two hidden layers of 300 and 100 units; 266,610 parameters on MNIST."""
    return MLP(in_channels * image_size**2, (300, 100), num_classes)


def lenet5(num_classes: int, in_channels: int, image_size: int) -> LeNet5:
    """Caffe's LeNet-5, see `LeNet5`."""
    return LeNet5(num_classes, in_channels, image_size)


def mlp(text: str, num_classes: int, in_channels: int, image_size: int) -> MLP:
    """A perceptron with the hidden widths that `parse_widths` reads from `text`."""
    return MLP(in_channels * image_size**2, parse_widths(text), num_classes)
