"""A smaller network without the groups that a method pruned, and a masked one that computes the same."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from sparsewright.modules import unwrapped
from sparsewright.structured.copies import plain_copy, with_plain_parts
from sparsewright.structured.plan import RemovalPlan, plan_removal
from sparsewright.structured.removal import take_out, zero_channels


class NotRemovedWarning(UserWarning):
    """Some of the groups that were to be removed are still there."""


def shrink(
    model: nn.Module,
    example_input: Tensor | Sequence[Tensor],
    pruned_groups: Mapping[str, Tensor],
    *,
    granularity: str | None = None,
    strict: bool = False,
) -> nn.Module:
    """A copy of ``model`` with smaller layers: without the pruned filters or channels and all that goes with them.

    It computes what ``model`` does after :func:`mask_removed`, in training and evaluation mode (random layers, such as
    dropout, draw other numbers, since there are fewer to draw). What cannot be removed exactly stays, and is
    reported.

    Args:
        model: the network, on any device and wrapped or not. It is left as it is.
        example_input: what its forward takes, a tensor or several; one sample is enough.
        pruned_groups: ``sparsifier.pruned_groups``, or any mapping of names to 1-D integer tensors of output channels
            (filters) or input channels. A name is that of a weight, with or without the prefixes of wrappers, or of
            the layer that it belongs to.
        granularity: "filter" or "channel"; None takes that of ``pruned_groups``, or "filter" where it has none.
        strict: raise an error, instead of the warning, where something stays.

    Returns:
        A module of the same class, on the same device, of the same type and mode; unwrapped, with new parameters and
        without forward or backward hooks. Parts of it that were compiled are plain modules.

    Raises:
        ModuleNotFoundError: torch-pruning is not installed.
        TypeError: an argument of a wrong type.
        ValueError: unknown names, indices out of range, single weights, a network that cannot be copied or run or
            whose weights are not finite, or, with ``strict``, something that cannot be removed.

    Warns:
        NotRemovedWarning: something stays; names the weight, the number and the reason.
    """
    plan = plan_removal(model, example_input, pruned_groups, granularity=granularity)
    _report(plan, strict=strict)
    smaller = plain_copy(unwrapped(model))
    take_out(smaller, plan.layers)
    return smaller


def mask_removed(
    model: nn.Module,
    example_input: Tensor | Sequence[Tensor],
    pruned_groups: Mapping[str, Tensor],
    *,
    granularity: str | None = None,
) -> None:
    """Zeroes in place what :func:`shrink` would take out, so that ``model`` computes what the smaller network does.

    These are the weights that make the removed channels and those that read them, biases, affine parameters and running
    means of norms, and filters of depthwise convolutions.

    Args:
        model: the network; parameters and buffers change, nothing else does.
        example_input: as for :func:`shrink`.
        pruned_groups: as for :func:`shrink`.
        granularity: as for :func:`shrink`.

    Raises:
        ModuleNotFoundError: as :func:`shrink`.
        TypeError: as :func:`shrink`.
        ValueError: as :func:`shrink`.

    Warns:
        NotRemovedWarning: as :func:`shrink`.
    """
    plan = plan_removal(model, example_input, pruned_groups, granularity=granularity)
    _report(plan, strict=False)
    zero_channels(with_plain_parts(unwrapped(model)), plan.layers, inputs=True)


def _report(plan: RemovalPlan, *, strict: bool) -> None:
    if not plan.kept:
        return
    lines = [f"{name}: {reason}" for name, reason in plan.kept.items()]
    message = "\n  ".join(["not all that was pruned can be taken out of the network; these stay:", *lines])
    if strict:
        raise ValueError(message)
    warnings.warn(message, NotRemovedWarning, stacklevel=3)
