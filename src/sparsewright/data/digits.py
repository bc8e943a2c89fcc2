"""Scikit-learn's bundled handwritten digits: 1,797 images of 8x8 pixels, no download.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998 (its test part).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
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
    rows = _read_rows()
    pixels, targets = rows[:, :-1], rows[:, -1]
    images = torch.from_numpy(pixels).mul(255 / 16).round().to(torch.uint8).view(-1, 1, 8, 8)
    labels = torch.from_numpy(targets).to(torch.int64)
    train, test = stratified_split(labels)
    return ImageArrays(images[train], labels[train], images[test], labels[test], MEAN, STD)


def _read_rows() -> NDArray[np.float64]:
    """(images, 64 pixels and the class)."""
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ImportError("digits needs scikit-learn: pip install 'sparsewright[train]'")
    file = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        # Importing scikit-learn takes longer than training on this data for some epochs.
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    return np.column_stack([pixels, targets])
