"""The papers' networks, and a door to torchvision's and timm's.

    >>> from sparsewright.models import create_model, list_models
    >>> model = create_model("resnet20", num_classes=10, seed=0)

Needs torch alone; `torchvision:` and `timm:` names need those packages.
"""

from sparsewright.models.registry import ModelInfo, create_model, list_models

__all__ = ["ModelInfo", "create_model", "list_models"]
