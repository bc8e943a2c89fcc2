"""A rule of a study applied to a network and its optimizer in the middle of training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsewright.analysis.plasticity import PlasticityRule, pruned_masks, regrown_masks
from sparsewright.masks import zero_outside_
from sparsewright.methods.magnitude import Magnitude
from sparsewright.methods.static import Static
from sparsewright.optimizers import state_like
from sparsewright.scope import named_parameters
from sparsewright.sparsifier import Sparsifier


def prune(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rule: PlasticityRule,
    rate: float,
    gradients: Callable[[], Mapping[str, Tensor]],
) -> Sparsifier:
    """Prunes a dense network and lets as much grow back as the rule wants.

    What has grown back starts at 0 and without momentum. With regrowth the biases and norms behind removed filters stay
    as they are: silenced ones would let no gradient through.

    Args:
        model: the network.
        optimizer: that of its training.
        rule: how to prune.
        rate: the share to prune, in (0, 1).
        gradients: name of a weight -> gradient of the loss of the pruned network; called for rules with regrowth.

    Returns:
        What holds the masks from now on.

    Raises:
        ValueError, TypeError: as for ``pruned_masks``.
    """
    if not rule.regrows:
        return Magnitude(model, optimizer, sparsity=rate, process_group=False, **rule.pruning_options)
    masks = pruned_masks(model, rule, rate)
    masks.apply(model)
    _zero_state(model, optimizer, masks)
    grown = regrown_masks({name: torch.ones_like(mask) for name, mask in masks.items()}, masks, gradients())
    return Static(model, optimizer, masks=grown, process_group=False)


def loss_gradients(model: nn.Module, images: Tensor, labels: Tensor, label_smoothing: float) -> dict[str, Tensor]:
    """Name of a parameter -> gradient of the cross-entropy of one batch; the model and its batch statistics stay.

    Args:
        model: the network.
        images: a batch of its inputs.
        labels: int64 (batch).
        label_smoothing: share of the target spread over all classes.
    """
    copied = copy.deepcopy(model).train()
    F.cross_entropy(copied(images), labels, label_smoothing=label_smoothing).backward()
    return {
        name: parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        for name, parameter in named_parameters(copied).items()
    }


def _zero_state(model: nn.Module, optimizer: torch.optim.Optimizer, masks: Mapping[str, Tensor]) -> None:
    parameters = named_parameters(model)
    for name, mask in masks.items():
        for value in state_like(optimizer, parameters[name]):
            zero_outside_(value, mask)
