"""VGG-16 and VGG-19 with batch norm for 32x32 images, with a single Linear layer.

Source: Simonyan and Zisserman, "Very Deep Convolutional Networks" (arXiv 1409.1556), configurations D and E, in the
form that the pruning literature trains on CIFAR: convolutions without bias before batch norm, four max-pools, a global
average in place of the fifth, and one Linear layer from 512 features to the classes.
"""

from __future__ import annotations

from torch import Tensor, nn

from sparsewright.models.initialisation import kaiming_initialise

CONVOLUTIONS_PER_BLOCK = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
BLOCK_WIDTHS = (64, 128, 256, 512, 512)
SMALLEST_IMAGE = 16


class CifarVGG(nn.Module):
    """Five blocks of 3x3 convolutions with batch norm and ReLU, halving the resolution between blocks.

    Takes (batch, in_channels, height, width) images of at least 16x16 pixels.
    """

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for block, (width, convolutions) in enumerate(zip(BLOCK_WIDTHS, CONVOLUTIONS_PER_BLOCK[depth], strict=True)):
            if block > 0:
                layers.append(nn.MaxPool2d(2))
            for _ in range(convolutions):
                layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                inputs = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, num_classes)
        kaiming_initialise(self)
        nn.init.normal_(self.classifier.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean(dim=(2, 3)))


def cifar_vgg(depth: int, num_classes: int, in_channels: int, image_size: int) -> CifarVGG:
    """VGG of `depth` 16 or 19; 14.72M and 20.04M parameters for 10 classes.

    Raises:
        ValueError: if the image does not survive four halvings.
    """
    if image_size < SMALLEST_IMAGE:
        raise ValueError(f"vgg{depth} needs images of at least 16x16 pixels, not {image_size}x{image_size}")
    return CifarVGG(depth, num_classes, in_channels)
