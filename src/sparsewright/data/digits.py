"""Scikit-learn's bundled handwritten digits: 1,797 images of 8x8 pixels, no download.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (its test part).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsewright.data.base import ImageArrays

MEAN, STD = (0.3053,), (0.3759,)
TEST_STRIDE = 5


def stratified_split(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Training and test positions, both ascending: of the images sorted by class, every fifth is for testing.

    Sorting is stable, so the split is fixed and each class gives a fifth of its images, to within one.
    """
    by_class = labels.argsort(stable=True)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[by_class[::TEST_STRIDE]] = True
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()


def read_digits() -> ImageArrays:
    """1,437 training and 360 test images, grey levels 0 ... 16 scaled to 0 ... 255.

    Raises:
        ImportError: if scikit-learn is absent.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(f"digits needs scikit-learn: pip install 'sparsewright[train]' ({error})") from error
    pixels, targets = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
    labels = torch.from_numpy(targets).to(torch.int64)
    train, test = stratified_split(labels)
    return ImageArrays(images[train], labels[train], images[test], labels[test], MEAN, STD)
