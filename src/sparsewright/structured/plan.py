"""Which of the groups that a method pruned can be taken out of the network, and why others cannot."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsewright.checks import join_names
from sparsewright.modules import checked_inputs, unwrapped
from sparsewright.structured.copies import with_plain_parts
from sparsewright.structured.coupling import Site, Unit, find_units
from sparsewright.structured.removal import LayerRemoval, removal_of
from sparsewright.structured.request import Request, read_request
from sparsewright.structured.rules import reason_by_request, reason_by_structure, reason_by_uses, reasons_by_layer
from sparsewright.structured.tracing import Trace, trace
from sparsewright.structured.verification import Verification, largest_agreeing


@dataclass(frozen=True, eq=False, repr=False)
class RemovalPlan:
    """What can be taken out of a network.

    Attributes:
        removed: name as given -> sorted 1-D int64 indices that go, of those asked for; an entry for each name given.
        kept: name as given -> how many of those asked for stay, and why; only where some do.
        layers: layer name -> the output and input channels that it loses, coupled layers (batch norms, depthwise
            convolutions, consumers) included.
    """

    removed: dict[str, Tensor]
    kept: dict[str, str]
    layers: dict[str, LayerRemoval]

    def __repr__(self) -> str:
        going = sum(map(len, self.removed.values()))
        return (
            f"RemovalPlan(names={len(self.removed)}, indices_removed={going}, names_with_some_kept={len(self.kept)}, "
            f"layers={len(self.layers)})"
        )


def plan_removal(
    model: nn.Module,
    example_input: Tensor | Sequence[Tensor],
    pruned_groups: Mapping[str, Tensor],
    *,
    granularity: str | None = None,
) -> RemovalPlan:
    """Finds what :func:`shrink` takes out of ``model``, without changing it.

    Args:
        model: the network, on any device and wrapped or not; it is only read, and copies of it are run.
        example_input: what its forward takes, a tensor or several; one sample is enough.
        pruned_groups: ``sparsifier.pruned_groups``, or any mapping of names to 1-D integer tensors of output channels
            (filters) or input channels. A name is that of a weight, with or without the prefixes of wrappers, or of
            the layer that it belongs to.
        granularity: "filter" or "channel"; None takes that of ``pruned_groups``, or "filter" where it has none.

    Raises:
        ModuleNotFoundError: torch-pruning is not installed.
        TypeError: an argument of a wrong type.
        ValueError: unknown names, indices out of range, single weights, or a network that cannot be copied or run, or
            whose weights are not finite.
    """
    network, inputs = with_plain_parts(unwrapped(model)), checked_inputs(example_input)
    request = read_request(network, pruned_groups, granularity)
    _refuse_not_finite(network)
    choice = _Choice(network, request, trace(network, inputs))
    if choice.units:
        choice.check_by_running(Verification(network, inputs))
    return choice.plan()


def _refuse_not_finite(network: nn.Module) -> None:
    statistics = [item for item in network.named_buffers() if item[0].endswith(("running_mean", "running_var"))]
    tensors = dict([*network.named_parameters(), *statistics])
    if wrong := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise ValueError(
            f"{type(network).__name__} has values that are not finite (NaN or infinite) in {join_names(wrong)}"
        )


class _Choice:
    """The units that may still go; each check takes some away and notes why."""

    def __init__(self, network: nn.Module, request: Request, found: Trace) -> None:
        self._network = network
        self._layers = dict(network.named_modules())
        self._request = request
        self._trace = found
        self._reasons: dict[tuple[str, int], str] = {}
        wanted = {Site(layer, request.side): channels for layer, channels in request.channels.items()}
        self.units: list[Unit] = find_units(found.couplings, wanted)
        self._note_unreached()
        self._drop({position: self._reason_against(unit) for position, unit in enumerate(self.units)})
        self._settle()

    def check_by_running(self, verification: Verification) -> None:
        """Drops what would change the network's function: behind a sigmoid, or through operations that mix channels."""
        if self._request.granularity == "filter":
            while nonzero := verification.units_read_as_nonzero(self.units):
                self._drop({position: _reason_if_nonzero(self.units[position]) for position in nonzero})
                self._settle()
        families: dict[frozenset[Site], list[Unit]] = defaultdict(list)
        for unit in self.units:
            families[unit.sites].append(unit)
        agreeing = largest_agreeing(list(families.values()), verification.agree)
        accepted = {sites for position, sites in enumerate(families) if position in agreeing}
        wrong = [position for position, unit in enumerate(self.units) if unit.sites not in accepted]
        self._drop(dict.fromkeys(wrong, _MIXED))

    def plan(self) -> RemovalPlan:
        """What is left, and the reasons for the rest."""
        layers = removal_of(self.units, self._network)
        removed, kept = {}, {}
        for name, listed in self._request.listed.items():
            if listed.impossible is not None and len(listed.indices):
                removed[name], kept[name] = listed.indices[:0], listed.impossible
                continue
            missing = {index: reason for index in listed.indices.tolist() if (reason := self._why_kept(name, index))}
            removed[name] = torch.tensor([i for i in listed.indices.tolist() if i not in missing], dtype=torch.int64)
            if missing:
                kept[name] = _described(missing.values(), f"{len(listed.indices)} {self._request.granularity}s")
        return RemovalPlan(removed, kept, layers)

    def _reason_against(self, unit: Unit) -> str | None:
        by_structure = reason_by_structure(unit, self._layers, self._trace.uses)
        return by_structure or reason_by_request(unit, self._layers, self._request)

    def _note_unreached(self) -> None:
        reached = {
            (site.name, channel) for unit in self.units for site, found in unit.channels.items() for channel in found
        }
        for listed in self._request.listed.values():
            asked = {(listed.layer, channel) for i in listed.indices.tolist() for channel in listed.channels(i)}
            self._reasons |= dict.fromkeys(asked - reached, self._why_unreached(listed.layer))

    def _why_unreached(self, layer: str) -> str:
        weight = f"{layer}.weight" if layer else "weight"
        uses = self._trace.uses.get(weight, 0)
        if uses != 1:
            return reason_by_uses(weight, uses)
        if self._trace.failure is not None:
            return self._trace.failure
        return "no layer puts out what it takes in" if self._request.side == "input" else "it is not called as a layer"

    def _settle(self) -> None:
        """Keeps what the rules about whole layers keep; one layer that keeps something may decide about the next."""
        while found := list(reasons_by_layer(self.units, self._layers)):
            # Reversed, so that of several reasons the one of the first layer is given.
            self._drop(dict(reversed(found)))

    def _drop(self, reasons: Mapping[int, str | None]) -> None:
        for position, reason in reasons.items():
            if reason is not None:
                for site, channels in self.units[position].channels.items():
                    self._reasons |= {(site.name, c): reason for c in channels if site.side == self._request.side}
        self.units = [unit for position, unit in enumerate(self.units) if reasons.get(position) is None]

    def _why_kept(self, name: str, index: int) -> str | None:
        """Why a group that was asked for stays; None if it goes."""
        listed = self._request.listed[name]
        found = [self._reasons.get((listed.layer, channel)) for channel in listed.channels(index)]
        return next((reason for reason in found if reason is not None), None)


_MIXED = "without it the network computes something else, or fails: an operation mixes, reorders or counts channels"


def _reason_if_nonzero(unit: Unit) -> str:
    operations = ", ".join(sorted(name.removesuffix("0").removesuffix("Backward") for name in unit.operations))
    consumers = join_names(sorted(site.name for site in unit.channels if site.side == "input"))
    behind = f" behind {operations}" if operations else ""
    return f"its zero is not zero any more{behind} where {consumers} takes it in"


def _described(reasons: Iterable[str], asked: str) -> str:
    return "; ".join(f"{number} of {asked}: {reason}" for reason, number in Counter(reasons).items())
