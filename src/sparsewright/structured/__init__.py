"""Really smaller networks: take pruned filters and channels out of the layers, and store what is left."""

from __future__ import annotations

from sparsewright.structured.files import load_shrunk, save_shrunk
from sparsewright.structured.plan import RemovalPlan, plan_removal
from sparsewright.structured.shrinking import NotRemovedWarning, mask_removed, shrink
from sparsewright.structured.widths import resize, widths

__all__ = [
    "NotRemovedWarning",
    "RemovalPlan",
    "load_shrunk",
    "mask_removed",
    "plan_removal",
    "resize",
    "save_shrunk",
    "shrink",
    "widths",
]
