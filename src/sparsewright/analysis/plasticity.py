"""The rules of a pruning-plasticity study: what is removed from a network in training, and what grows back at once.

Pruning plasticity is how far a network that is pruned in the middle of its training recovers when it trains on
(Liu et al., arXiv 2106.10404, section 3).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparsewright import growth, topology
from sparsewright.masks import MaskSet
from sparsewright.methods.magnitude import Magnitude

Scope = Literal["uniform", "global", "structured"]

_OPTIONS: Mapping[Scope, Mapping[str, Any]] = {
    "uniform": {"distribution": "uniform"},
    "global": {"distribution": "global"},
    "structured": {"granularity": "filter"},
}


@dataclass(frozen=True)
class PlasticityRule:
    """One way to prune a network at a moment of its training.

    Attributes:
        name: as in the code of GraNet.
        scope: "uniform": the same share of each layer's weights; "global": of all layers' weights jointly;
            "structured": of each layer's filters. What is smallest in magnitude goes.
        regrows: whether each layer grows as many connections as it has just lost.
        summary: one line for people.
    """

    name: str
    scope: Scope
    regrows: bool
    summary: str

    @property
    def pruning_options(self) -> dict[str, Any]:
        """The options of :class:`sparsewright.Magnitude` that prune like this."""
        return dict(_OPTIONS[self.scope])

    @property
    def without_regrowth(self) -> PlasticityRule:
        """The rule that prunes the same and grows nothing."""
        return RULES[f"prune_{self.scope}"]


RULES: Mapping[str, PlasticityRule] = {
    rule.name: rule
    for rule in (
        PlasticityRule("prune_uniform", "uniform", False, "the smallest weights of each layer"),
        PlasticityRule("prune_global", "global", False, "the smallest weights of all layers"),
        PlasticityRule("prune_structured", "structured", False, "the filters of each layer with the smallest L1 norm"),
        PlasticityRule("prune_and_grow_uniform", "uniform", True, "as prune_uniform, and as many grow back"),
        PlasticityRule("prune_and_grow_global", "global", True, "as prune_global, and as many grow back"),
        PlasticityRule("prune_and_grow_structured", "structured", True, "as prune_structured, and as many grow back"),
    )
}
"""Name -> rule, those without regrowth first."""


def pruned_masks(model: nn.Module, rule: PlasticityRule, rate: float) -> MaskSet:
    """Masks of what is left when ``rule`` removes the share ``rate`` of a dense network; ``model`` is not changed.

    Of filters min(ceil(rate * filters), filters - 1) go; layers whose filters cannot be removed alone are left whole,
    as with :class:`sparsewright.Magnitude`.

    Raises:
        ValueError, TypeError: the rate is not in [0, 1), or leaves less than one weight a layer.
    """
    copied = copy.deepcopy(model)
    optimizer = torch.optim.SGD(copied.parameters(), lr=0.0)
    pruner = Magnitude(copied, optimizer, sparsity=rate, process_group=False, **rule.pruning_options)
    pruner.detach()
    return MaskSet(dict(pruner.masks))


def regrown_masks(
    before: Mapping[str, Tensor], pruned: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
) -> MaskSet:
    """Masks with as many connections in each layer as before it was pruned.

    Those grow whose gradients are largest in magnitude among all that are not kept. Of a layer that was dense before
    they are exactly those that it has lost.

    Args:
        before: name -> mask before pruning, bool, of the weight's shape.
        pruned: name -> mask after it.
        gradients: name -> gradient of the loss, of the weight's shape.
    """
    kept_before, kept = topology.count(before), topology.count(pruned)
    return MaskSet(
        {
            name: topology.grow_weights(growth.gradient(gradients[name]), mask, kept_before[name] - kept[name])
            for name, mask in pruned.items()
        }
    )
