"""The layers of a method that removes groups: how many groups of each go, which, and what falls silent with them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsewright.channel_flow import ChannelFlow, Follower, TracingError
from sparsewright.checks import join_names
from sparsewright.groups import Granularity, Grouping, PrunedGroups, find_groupings, number_removed
from sparsewright.modules import PER_CHANNEL_NORMS
from sparsewright.ratios import Ratios, layer_ratios
from sparsewright.selection import top_k


@dataclass(frozen=True)
class Silenced:
    """Entries of a bias, or of a tensor of a norm, that are held at zero.

    Attributes:
        tensor: the parameter or buffer.
        flags: which entries, counted from ``start``.
        start: the first entry that the flags are about.
    """

    tensor: Tensor
    flags: Tensor
    start: int

    @torch.no_grad()
    def apply(self) -> None:
        """Set them to zero."""
        part = self.tensor[self.start : self.start + len(self.flags)]
        part[self.flags.to(part.device)] = 0


class LayerGroups:
    """Groupings and numbers of a model's sparsified layers.

    A number, or a ratio per stage, leaves whole the layers whose groups cannot be removed alone: the last layer of a
    residual block, shortcuts, the classifier (filters); the first layer, or what follows a sum (channels). Patterns
    reach them all the same: layers whose outputs are added then lose the same filters, by their joint score, if all of
    them have the same ratio.

    Args:
        model: the model; its forward pass is traced for granularities above single weights.
        parameters: name -> weight, in the model's order.
        granularity: "weight", "filter" or "channel".
        ratios: as :func:`sparsewright.ratios.check_ratios` returns them.

    Attributes:
        groupings: name -> how the weight falls into groups.
        numbers: name -> how many groups are removed.
        left_whole: name -> why a number or a list of ratios leaves the layer whole.

    Raises:
        ValueError: the ratios do not fit the layers.
    """

    def __init__(
        self, model: nn.Module, parameters: Mapping[str, nn.Parameter], granularity: Granularity, ratios: Ratios
    ) -> None:
        self.granularity: Granularity = granularity
        self.groupings: dict[str, Grouping] = find_groupings(model, parameters, granularity)
        self._model = model
        self._parameters = parameters
        self._flow = _flow(model, granularity, by_pattern=isinstance(ratios, dict))
        self._coupled = self._find_coupled()
        self.left_whole: dict[str, str] = {} if isinstance(ratios, dict) else self._coupled
        by_layer = layer_ratios(ratios, list(parameters), self.left_whole)
        self.numbers = {
            name: number_removed(by_layer[name], grouping.count) if by_layer[name] else 0
            for name, grouping in self.groupings.items()
        }

        self._joint = self._find_joint()

    def sparsity(self) -> float:
        """Fraction of the weights in scope that the removal zeroes."""
        sizes = {name: parameter.numel() for name, parameter in self._parameters.items()}
        removed = sum(sizes[name] * self.numbers[name] / self.groupings[name].count for name in sizes)
        return removed / sum(sizes.values())

    def smallest(self, name: str) -> Tensor:
        """Flags of a layer's groups with the smallest mean magnitudes, as many as are removed."""
        if name not in self._joint:
            return self.groupings[name].smallest(self._parameters[name], self.numbers[name])
        kept = self.groupings[name].count - self.numbers[name]
        return top_k([self.scores(name)], kept)[0].logical_not_()

    def scores(self, name: str) -> Tensor:
        """Mean magnitudes of a layer's groups, the mean over layers that lose the same ones; in ``flags_shape``."""
        members = self._joint.get(name, [name])
        each = [self.groupings[member].scores(self._parameters[member]).reshape(-1) for member in members]
        return torch.stack(each).mean(dim=0).reshape(self.groupings[name].flags_shape)

    def leader(self, name: str) -> str:
        """The first of the layers that lose the same groups as this one."""
        return self._joint.get(name, [name])[0]

    def indices(self, removed: Mapping[str, Tensor]) -> PrunedGroups:
        """The indices of the flagged groups; empty for a layer without flags."""
        empty = torch.empty(0, dtype=torch.int64)
        return PrunedGroups(
            {n: g.indices(removed[n]) if n in removed else empty.clone() for n, g in self.groupings.items()},
            self.granularity,
        )

    def masks(self, removed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Masks that zero the flagged groups, of all layers."""
        return {
            name: grouping.mask(removed[name]) if name in removed else torch.ones(grouping.shape, dtype=torch.bool)
            for name, grouping in self.groupings.items()
        }

    def silenced(self, removed: Mapping[str, Tensor]) -> list[Silenced]:
        """What has to be zero besides the weights so that removed filters output exactly 0: biases, and norms behind.

        Warns:
            UserWarning: norms of which it is not known which channels belong to the filters; they are named.
        """
        affected = [name for name in removed if self.numbers[name]] if self.granularity == "filter" else []
        self._warn_of_unknown_norms(affected)
        biases = _biases(self._model, {id(self._parameters[name]): name for name in affected})
        found: list[Silenced] = []
        for name in affected:
            flags = removed[name].reshape(-1)
            if name in biases:
                found.append(Silenced(biases[name], _tiled(flags, len(biases[name])), 0))
            if self._flow is not None:
                outputs = _tiled(flags, self._flow.outputs(name) or len(flags))
                found += [item for follower in self._flow.followers(name) for item in _behind(follower, outputs)]
        return found

    def _warn_of_unknown_norms(self, affected: Sequence[str]) -> None:
        if self._flow is not None:
            unknown = list(dict.fromkeys(norm for name in affected for norm in self._flow.unplaced_norms(name)))
            reason = "which of their channels belong to removed filters"
        else:
            norms = [name for name, module in self._model.named_modules() if isinstance(module, PER_CHANNEL_NORMS)]
            unknown = norms if affected else []
            reason = f"what belongs to removed filters, since {type(self._model).__name__} cannot be traced"
        if unknown:
            warnings.warn(
                f"norms that may still output constants: {join_names(unknown)}; it is not known {reason}. "
                "sparsewright.structured.mask_removed silences them",
                stacklevel=5,
            )

    def _find_coupled(self) -> dict[str, str]:
        """Name -> why the layer's groups cannot be removed alone."""
        if self.granularity == "weight":
            return {}
        names = list(self._parameters)
        if self._flow is None:
            return {names[-1]: "is the last layer in scope"}
        why_not = self._flow.why_not_filters if self.granularity == "filter" else self._flow.why_not_channels
        return {name: reason for name in names if (reason := why_not(name)) is not None}

    def _find_joint(self) -> dict[str, list[str]]:
        """Name -> the layers whose filters are added to this one's, where all of them lose equally many."""
        if self._flow is None or self.granularity != "filter":
            return {}
        joint: dict[str, list[str]] = {}
        for name, number in self.numbers.items():
            if number and name in self._coupled and name not in joint:
                members = self._flow.added_to(name)
                if len(members) > 1 and all(self.numbers.get(member) == number for member in members):
                    joint |= dict.fromkeys(members, members)
        return joint


def _flow(model: nn.Module, granularity: Granularity, *, by_pattern: bool) -> ChannelFlow | None:
    """Where channels go; None where that is not needed or cannot be told, which matters to ratios without patterns."""
    if granularity == "weight":
        return None
    try:
        return ChannelFlow(model)
    except TracingError as error:
        if not by_pattern:
            warnings.warn(
                f"{error}, so that sums and other couplings of {granularity}s are not known and only the last layer is "
                "left whole; give sparsity as a mapping of patterns to ratios to choose the layers yourself",
                stacklevel=6,
            )
        return None


def _behind(follower: Follower, outputs: Tensor) -> list[Silenced]:
    """The entries of a norm or depthwise convolution that belong to the flagged outputs of a layer."""
    flags = outputs.repeat_interleave(follower.spread)
    tensors = (getattr(follower.module, name, None) for name in ("weight", "bias", "running_mean"))
    return [Silenced(tensor, flags, follower.start) for tensor in tensors if tensor is not None]


def _tiled(flags: Tensor, size: int) -> Tensor:
    """Flags of outputs: a grouped transposed convolution has each filter once per group."""
    return flags.repeat(size // len(flags))


def _biases(model: nn.Module, names: Mapping[int, str]) -> dict[str, nn.Parameter]:
    """Name of a weight -> the bias of the layer that holds it."""
    found: dict[str, nn.Parameter] = {}
    for module in model.modules():
        own: Iterable[nn.Parameter] = module.parameters(recurse=False)
        bias = getattr(module, "bias", None)
        if isinstance(bias, nn.Parameter):
            found.update({names[id(parameter)]: bias for parameter in own if id(parameter) in names})
    return found
