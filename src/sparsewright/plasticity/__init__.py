"""The pruning-plasticity study: prune at moments of a training, train on, compare with an unpruned twin."""

from __future__ import annotations

from sparsewright.plasticity.branch_result import BranchResult
from sparsewright.plasticity.result import PlasticityCell, PlasticityMoment, PlasticityResult, Spread
from sparsewright.plasticity.study import study_plasticity, whole_study

__all__ = [
    "BranchResult",
    "PlasticityCell",
    "PlasticityMoment",
    "PlasticityResult",
    "Spread",
    "study_plasticity",
    "whole_study",
]
