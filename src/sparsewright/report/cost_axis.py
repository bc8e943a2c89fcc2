"""What accuracy is weighed against in the plots of a comparison: what is left of the network, or what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sparsewright.formats import flops
from sparsewright.report.comparison import INFERENCE, SIZE, STARTED, TRAINING, Comparison, Group
from sparsewright.report.log_ticks import log_ticks

_FEWEST_APART = 0.055
"""Between two labels, as a part of the axis, so that they do not touch on a narrow page."""

_NEARLY = 1.01
"""Ratio up to which the FLOPs of dense networks count as the same."""


@dataclass(frozen=True)
class CostAxis:
    """An axis with a logarithmic scale.

    Attributes:
        front: the name of its Pareto fronts in ``Comparison.fronts``.
        name: what is on it, in words.
        title: of the axis.
        note: one sentence on what is shown.
        column: the title of the same numbers in a table.
        reverse: whether less cost is to the right, as with sparsity.
        place: where a group is on it; 0 for one that did not train, which has no place on it.
        text: how its place is written.
        ticks: the places to label.
    """

    front: str
    name: str
    title: str
    note: str
    column: str
    reverse: bool
    place: Callable[[Group], float]
    text: Callable[[float], str]
    ticks: tuple[float, ...]


def cost_axes(comparison: Comparison, shown: Sequence[Group]) -> list[CostAxis]:
    """The axes for the plots of some groups: what was removed, and the FLOPs of inference and of training, if any."""
    trained = [group for group in shown if group.training_flops.mean > 0]
    axes = [
        _removal_axis(comparison, shown),
        _flops_axis(shown, INFERENCE, lambda group: (group.inference_flops.mean, group.dense_inference_flops)),
    ]
    if trained:
        axes.append(
            _flops_axis(trained, TRAINING, lambda group: (group.training_flops.mean, group.dense_training_flops))
        )
    return axes


def _removal_axis(comparison: Comparison, shown: Sequence[Group]) -> CostAxis:
    shrunk = comparison.has_shrunk
    what = "parameters removed" if shrunk else "sparsity"

    def left(group: Group) -> float:
        return group.left(parameters=shrunk)

    return CostAxis(
        front=SIZE,
        name=what,
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
    shown: Sequence[Group], front: str, sparse_and_dense: Callable[[Group], tuple[float, float]]
) -> CostAxis:
    dense = [sparse_and_dense(group)[1] for group in shown]
    # Runs of different networks or lengths have no dense network in common to be a part of. A method with a length of
    # its own may end some steps earlier.
    in_percent = 0 < max(dense) <= _NEARLY * min(dense)

    def place(group: Group) -> float:
        sparse, whole = sparse_and_dense(group)
        return sparse / whole if in_percent and sparse else sparse

    places = [place(group) for group in shown]
    per = "of one image" if front == INFERENCE else "of all training steps"
    started = front == TRAINING and any(STARTED in group.marks for group in shown)
    without = " What began with weights or masks made elsewhere has those of its own steps alone, and no ring."
    return CostAxis(
        front=front,
        name=front,
        title=f"{front}, of the dense network's" if in_percent else front,
        note=f"The FLOPs {per} with the zeros that masks hold left out, as the RigL paper counts them."
        + (without if started else ""),
        column=f"{front}, %" if in_percent else front,
        reverse=False,
        place=place,
        text=(lambda place: f"{100 * place:.3g} %") if in_percent else lambda place: flops(place).replace(".00", ""),
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
