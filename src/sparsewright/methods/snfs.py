"""SNFS: momentum decides where weights grow, and in which layers."""

from __future__ import annotations

from typing import ClassVar

from sparsewright.dynamic import DynamicSparsifier
from sparsewright.options import MOVING, SHARING


class SNFS(DynamicSparsifier):
    """Sparse Networks From Scratch, or sparse momentum (Dettmers and Zettlemoyer, arXiv 1907.04840).

    Starts from random masks at the final sparsity. Every ``update_interval`` steps each layer drops its smallest
    weights; the dropped ones regrow in proportion to each layer's mean momentum magnitude, and within a layer where
    the momentum of a dropped weight is largest. Only the total count is fixed, not each layer's. The momentum is the
    optimizer's (SGD's buffer; Adam's first moment over the root of its second) and is left unmasked, since it must
    be known for dropped weights; with other optimizers the method keeps an exponential average of the gradients.
    """

    defaults: ClassVar = {**MOVING, **SHARING, "grow": "momentum", "redistribute": "momentum"}
