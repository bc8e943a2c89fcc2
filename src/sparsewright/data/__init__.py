"""Data sets: the small ones resident on the training device, folders of images through worker processes.

>>> from sparsewright.data import AugmentOptions, open_data
>>> data = open_data("cifar10", data_dir=Path("data"), batch_size=128, seed=0, device=torch.device("cuda"),
...                  augment=AugmentOptions(crop_padding=4, flip=True))
>>> for images, labels in data.train.epoch(0): ...
"""

from sparsewright.data.augment import AugmentOptions
from sparsewright.data.base import Data, DatasetInfo, Loader
from sparsewright.data.registry import list_datasets, open_data
from sparsewright.data.torchvision_sets import ChecksumWarning

__all__ = ["AugmentOptions", "ChecksumWarning", "Data", "DatasetInfo", "Loader", "list_datasets", "open_data"]
