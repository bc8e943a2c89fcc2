"""GSM: at every step the most salient weights learn, all others fade; the end prunes what has faded."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from sparsewright import scores, topology
from sparsewright.checks import join_names
from sparsewright.distributed import broadcast
from sparsewright.distribution import kept_budget
from sparsewright.masks import MaskSet, zero_outside_
from sparsewright.methods.fading import most_have_faded
from sparsewright.selection import Elementwise, kth_largest
from sparsewright.sparsifier import Sparsifier


class GradientError(ValueError):
    """Gradients or weights among which nothing can be selected; the step was not taken."""


class GSM(Sparsifier):
    """Global Sparse Momentum SGD (Ding et al., arXiv 1909.12778).

    At every step the Q = int((1 - sparsity) * n) weights with the largest |w * dL/dw| among all n in scope keep
    their gradient (equation 9 of the paper; ties at the threshold all keep theirs). The gradient of every other weight
    is set to zero, so that weight decay and its old momentum alone move it: with SGD at learning rate lr, momentum m
    and weight decay d it shrinks by about the factor 1 - lr * d / (1 - m) per step. ``finalize`` removes the smallest
    magnitudes over all layers jointly and keeps exactly round((1 - sparsity) * n) weights, at whatever step it is
    called. The paper reports that this loses nothing and needs no fine-tuning; how much it loses depends on how far
    the others have faded, and on how many weights take turns in the active set.

    Until then nothing is masked: :attr:`masks` is empty and :meth:`sparsity` counts exact zeros. That is why the active
    set may change freely, which the paper calls implicit reactivation. A passive weight still has its value, and the
    backward pass still computes its gradient; both enter the selection of the next step. A weight that was put to rest
    by mistake is missed more and more as it fades, so that |dL/dw| grows, the product climbs back over the
    threshold, and the weight learns on from where it is, with nothing to restore. With a mask w would be 0, and so
    would the product be for good.

    GSM needs momentum and weight decay, and the paper's momentum is large (m = 0.98 or 0.99): without weight decay
    passive weights stay where they are, without momentum they fade 1 / (1 - m) times more slowly, and the push of an
    active weight's gradient is gone with its step. An optimizer that lacks either gets a warning. GSM keeps no state.

    With several optimizers under one gradient scaler, call ``scaler.unscale_`` for each before the first one steps:
    gradients that carry different factors cannot be compared.

    The original keeps N - int(N * sparsity) weights at the end, and so one more than it trained wherever both are
    rounded; here the end keeps round((1 - sparsity) * n), as with every method of this library.

    Args:
        sparsity: fraction of zeros after ``finalize``, in [0, 1).
        total_steps: optimizer steps of the whole run.
        **others: the other common arguments of :class:`sparsewright.Sparsifier`; GSM has no options of its own.

    Raises:
        ValueError: a budget that keeps no weight. While training, as :class:`GradientError`: a gradient in scope that
            is not finite, or gradients that are all zero; the parameters are named and the step is not taken.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    prunes_at_end: ClassVar[bool] = True

    def _prepare(self) -> None:
        weights = sum(parameter.numel() for parameter in self.parameters.values())
        self._active = int((1 - self.target_sparsity) * weights)
        if self._active < 1:
            raise ValueError(
                f"sparsity={self.target_sparsity} leaves int((1 - sparsity) * {weights}) = 0 of {weights} weights to "
                "train: choose a lower one"
            )
        self._gated: dict[str, tuple[Tensor, int]] = {}
        self._warn_of_missing_forces()

    def _warn_of_missing_forces(self) -> None:
        without_momentum = [type(item).__name__ for item in self._optimizers if not _has_momentum(item)]
        if without_momentum:
            warnings.warn(
                f"GSM needs momentum, and {join_names(without_momentum)} has none that is known: give it momentum=0.98 "
                "or more, or passive weights fade too slowly",
                stacklevel=4,
            )
        groups = [group for item in self._optimizers for group in item.param_groups]
        decaying = {id(parameter) for group in groups if group.get("weight_decay") for parameter in group["params"]}
        without_decay = [name for name, parameter in self.parameters.items() if id(parameter) not in decaying]
        if without_decay:
            warnings.warn(
                f"GSM needs weight decay, which alone moves passive weights towards zero; the optimizer has none for "
                f"{join_names(without_decay)}",
                stacklevel=4,
            )

    @property
    def finished(self) -> bool:
        """Whether ``total_steps`` are done."""
        return self.total_steps is not None and self.step_count >= self.total_steps

    @torch.no_grad()
    def _before_step(self, optimizer: Optimizer, recomputed: bool) -> None:
        gradients = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        mine = {name: gradient for name, gradient in gradients.items() if self._owner[name] is optimizer}
        if not mine or (not recomputed and self._gated_in_this_round(mine)):
            return
        _refuse_unusable(mine, self.step_count)
        # What another optimizer holds may be infinite: a gradient scaler will skip that one alone.
        usable = {name: gradient for name, gradient in gradients.items() if name in mine or _is_finite(gradient)}
        gate_gradients(self.parameters, usable, self._active)
        if len(self._optimizers) > 1:
            self._gated = {name: (gradient, gradient._version) for name, gradient in usable.items()}

    def _after_step(self) -> None:
        self._gated.clear()

    def _gated_in_this_round(self, gradients: Mapping[str, Tensor]) -> bool:
        """Whether an optimizer that has stepped before in this round has had all these gradients gated."""
        known = self._gated if self._stepped else {}
        return all(
            name in known and known[name][0] is gradient and known[name][1] == gradient._version
            for name, gradient in gradients.items()
        )

    def _end(self) -> None:
        """Prune to the budget, over all layers jointly."""
        self._prune()
        empty = [name for name, mask in self.masks.items() if not mask.any()]
        if empty:
            warnings.warn(
                f"GSM has pruned every weight of {join_names(empty)}, so that nothing passes through: "
                f"{self._advice_against(empty)}, or choose a lower sparsity",
                stacklevel=3,
            )

    def _advice_against(self, empty: Collection[str]) -> str:
        """What to do about emptied layers; the weights are not masked yet."""
        if most_have_faded(self.parameters, self.masks):
            return f"leave {'it' if len(empty) == 1 else 'them'} out with exclude"
        return (
            f"most of the pruned weights had not faded by step {self.step_count}, so train longer, with a momentum of "
            "0.98 or more, a higher learning rate or weight decay"
        )

    @torch.no_grad()
    def _prune(self) -> None:
        score = {name: Elementwise(scores.magnitude, parameter) for name, parameter in self.parameters.items()}
        budget = kept_budget(self.target_sparsity, sum(p.numel() for p in self.parameters.values()))
        kept = topology.prune_globally(score, budget, minimum=0)
        self.masks = MaskSet({name: self._laid_out(name, mask) for name, mask in kept.items()})
        broadcast(self.masks.values(), self._group)
        self.topology_version += 1


@torch.no_grad()
def gate_gradients(weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor], active: int) -> Tensor:
    """Zero in place every gradient but those of the ``active`` largest |w * dL/dw| over all tensors jointly.

    Ties at the threshold all keep their gradient, so that none is zeroed where fewer than ``active`` products differ
    from 0 in float32, or where there are fewer gradients than that.

    Args:
        weights: name -> weight; may have more names than ``gradients``.
        gradients: name -> dense gradient of the same shape, finite.
        active: how many keep their gradient, at least 1.

    Returns:
        The threshold, 0-dimensional.

    Raises:
        GradientError: all gradients are zero.
    """
    total = sum(gradient.numel() for gradient in gradients.values())
    saliency = {name: Elementwise(scores.saliency, gradients[name], weights[name]) for name in gradients}
    threshold = kth_largest(saliency.values(), min(active, total))
    if threshold == 0:
        _refuse_all_zero(gradients)
        return threshold
    if not bool(threshold.isfinite()):
        _refuse_not_finite_weights({name: weights[name] for name in gradients})
    for name, gradient in gradients.items():
        zero_outside_(gradient, saliency[name].mask(torch.ge, threshold))
    return threshold


def _has_momentum(optimizer: Optimizer) -> bool:
    """Whether every group has a first moment, as torch's optimizers and those that follow them name it."""
    return all(group.get("momentum") or any(group.get("betas", ())[:1]) for group in optimizer.param_groups)


def _refuse_unusable(gradients: Mapping[str, Tensor], step: int) -> None:
    sparse = [name for name, gradient in gradients.items() if gradient.layout is not torch.strided]
    if sparse:
        raise TypeError(f"the gradient of {join_names(sparse)} is sparse, and GSM needs dense ones: exclude it")
    # One sum per tensor is enough where all is well; it may overflow where nothing is wrong, hence the second look.
    sums = torch.stack([gradient.sum(dtype=torch.float32) for gradient in gradients.values()])
    if bool(sums.isfinite().all()):
        return
    bad = [name for name, gradient in gradients.items() if not _is_finite(gradient)]
    if bad:
        raise GradientError(
            f"training diverged: the gradient of {join_names(bad)} is not finite at step {step + 1}, which was not "
            "taken: lower the learning rate, clip the gradient, or use a gradient scaler under float16"
        )


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def _refuse_all_zero(gradients: Mapping[str, Tensor]) -> None:
    if not any(bool(gradient.any()) for gradient in gradients.values()):
        raise GradientError(
            f"the gradient of every parameter in scope is zero ({join_names(gradients)}), so that no weight is more "
            "salient than another; the step was not taken: the loss does not depend on these weights"
        )


def _refuse_not_finite_weights(weights: Mapping[str, Tensor]) -> None:
    bad = [name for name, weight in weights.items() if not _is_finite(weight)]
    if bad:
        raise GradientError(f"training diverged: {join_names(bad)} is not finite; the step was not taken")
