"""What accuracy is weighed against in the plots of a comparison: what is left of the network, or what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparsewright.formats import flops
from sparsewright.report.comparison import Comparison, Group
from sparsewright.report.log_ticks import log_ticks

_FEWEST_APART = 0.055
"""Between two labels, as a part of the axis, so that they do not touch on a narrow page."""

_NEARLY = 1.01
"""Ratio up to which the FLOPs of dense networks count as the same."""


@dataclass(frozen=True)
class CostAxis:
    """An axis with a logarithmic scale.

    Attributes:
        front: the name of its Pareto front in ``Comparison.fronts``.
        title: of the axis.
        note: one sentence on what is shown.
        column: the title of the same numbers in a table.
        reverse: whether less cost is to the right, as with sparsity.
        place: where a group is on it, above 0.
        text: how its place is written.
        ticks: the places to label.
    """

    front: str
    title: str
    note: str
    column: str
    reverse: bool
    place: Callable[[Group], float]
    text: Callable[[float], str]
    ticks: tuple[float, ...]


def cost_axes(comparison: Comparison, shown: Sequence[Group]) -> list[CostAxis]:
    """The axes for the plots of some groups: what was removed, and the FLOPs of inference and of training."""
    return [
        _removal_axis(comparison, shown),
        _flops_axis(comparison, shown, "inference", lambda group: group.inference_flops.mean),
        _flops_axis(comparison, shown, "training", lambda group: group.training_flops.mean),
    ]


def _removal_axis(comparison: Comparison, shown: Sequence[Group]) -> CostAxis:
    shrunk = comparison.has_shrunk
    what = "parameters removed" if shrunk else "sparsity"

    def left(group: Group) -> float:
        return group.kept_share if shrunk else 1 - group.sparsity.mean

    return CostAxis(
        front="sparsity",
        title=f"{what} (logarithmic in what is left)",
        note="Parameters that are masked or taken out, of those of the dense network."
        if shrunk
        else "Zeros among the sparsified weights, as reached.",
        column=f"{what}, %",
        reverse=True,
        place=left,
        text=lambda place: f"{100 * (1 - place):.4g} %",
        ticks=_apart(sorted({left(group) for group in shown})),
    )


def _flops_axis(
    comparison: Comparison, shown: Sequence[Group], kind: str, sparse: Callable[[Group], float]
) -> CostAxis:
    dense = [getattr(group, f"dense_{kind}_flops") for group in comparison.groups]
    # Runs of different networks or lengths have no dense network in common to be a part of. A method with a length of
    # its own may end some steps earlier.
    whole = max(dense) if max(dense) <= _NEARLY * min(dense) else None
    per = "of one image" if kind == "inference" else "of all training steps"

    def place(group: Group) -> float:
        return sparse(group) / whole if whole else sparse(group)

    places = [place(group) for group in shown]
    return CostAxis(
        front=f"{kind} FLOPs",
        title=f"{kind} FLOPs, of the dense network's" if whole else f"{kind} FLOPs",
        note=f"The FLOPs {per} with the zeros that masks hold left out, as the RigL paper counts them.",
        column=f"{kind} FLOPs, %" if whole else f"{kind} FLOPs",
        reverse=False,
        place=place,
        text=(lambda place: f"{100 * place:.3g} %") if whole else lambda place: flops(place).replace(".00", ""),
        ticks=tuple(log_ticks(min(places), max(places))),
    )


def _apart(places: Sequence[float]) -> tuple[float, ...]:
    """Those of rising places that are far enough apart to be labelled."""
    width = math.log(places[-1] / places[0]) or 1.0
    kept: list[float] = []
    for place in places:
        if not kept or math.log(place / kept[-1]) >= _FEWEST_APART * width:
            kept.append(place)
    return tuple(kept)
