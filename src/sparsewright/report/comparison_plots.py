"""Plots of a comparison: accuracy against what a network has left and what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from sparsewright.report.comparison import Comparison, Group
from sparsewright.report.comparison_table import by_configuration, row_name, spread
from sparsewright.report.cost_axis import CostAxis, cost_axes
from sparsewright.report.error_axis import accuracy_axis, error_bars, error_of
from sparsewright.report.page import Plot, Table
from sparsewright.report.palette import LIGHT, MUTED, SERIES
from sparsewright.report.plot_data import plain
from sparsewright.report.twin_lines import twin_lines
from sparsewright.training.method_options import DENSE

HEIGHT = 480
_NAME_HEIGHT, _LETTER_WIDTH, _WIDEST_NAME = 19, 7, 130
"""Of a name in the legend, in pixels; of names up to the last two stand beside each other on a narrow page."""

_FRONT = "Pareto front"
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x")
_DASHES = ("solid", "dash", "dashdot")
_DENSE_DASHES = ("dash", "longdashdot", "longdash")


def comparison_plots(comparison: Comparison) -> list[Plot]:
    """Accuracy against sparsity, inference FLOPs and training FLOPs; none where every network is dense."""
    sparse = [group for group in comparison.groups if group.method != DENSE]
    if not sparse:
        return []
    return [_plot(comparison, sparse, axis) for axis in cost_axes(comparison, sparse)]


def _plot(comparison: Comparison, sparse: Sequence[Group], axis: CostAxis) -> Plot:
    figure = go.Figure()
    sparse = [group for group in sparse if axis.place(group) > 0]
    several = len({group.recipe for group in comparison.groups}) > 1
    series = by_configuration(sparse)
    names = [row_name(groups[0], several) for groups in series]
    twins = twin_lines([_drawn_at(groups, axis) for groups in series])
    for index, groups in enumerate(series):
        figure.add_trace(_trace(names[index], groups, axis, index, seen_through=index in twins))
    fronts = [[comparison.groups[index] for index in front] for front in comparison.fronts[axis.front]]
    figure.add_trace(_front_trace([[group for group in front if group in sparse] for front in fronts], axis))
    dense = [group for group in comparison.groups if group.method == DENSE]
    dense_names = [f"{row_name(group, several)} {group.accuracy.mean:.2f}" for group in dense]
    for index, (group, name) in enumerate(zip(dense, dense_names, strict=True)):
        _add_dense_line(figure, group, name, index)
    figure.update_xaxes(_x_axis(sparse, axis))
    figure.update_yaxes(accuracy_axis(*_accuracies(comparison.groups)))
    _lay_out(figure, [*names, _FRONT, *dense_names])
    else_ = "nothing else of the same network" if comparison.has_networks else "nothing else"
    note = (
        f"{axis.note} Mean over the seeds, with bars of one standard deviation; rings are on the Pareto front: {else_} "
        "that costs no more is as accurate."
        + "".join(f" {names[above]} lies on {names[below]}." for above, below in twins.items())
    )
    return Plot(f"Accuracy against {axis.name}", figure, note, _table(comparison, several, axis))


def _lay_out(figure: go.Figure, names: Sequence[str]) -> None:
    """With room for the ``names`` in the legend: on a narrow page they stand below one another, by twos at most."""
    widest = _LETTER_WIDTH * max(map(len, names))
    in_pairs = widest <= _WIDEST_NAME
    room = _NAME_HEIGHT * len(names) // (2 if in_pairs else 1)
    figure.update_layout(
        height=HEIGHT + room // 2,
        hovermode="closest",
        legend={
            "itemclick": "toggle",
            "font": {"size": 12},
            "maxheight": HEIGHT // 3 + room,
            "entrywidth": widest if in_pairs else None,
        },
    )


def _trace(name: str, groups: Sequence[Group], axis: CostAxis, index: int, *, seen_through: bool) -> go.Scatter:
    """A line over the sparsities; one that lies on another is seen through: it has dots and open marks."""
    ordered = sorted(groups, key=axis.place)
    turn, colour = divmod(index, len(SERIES))
    symbol = _SYMBOLS[(colour + 2 * turn) % len(_SYMBOLS)]
    dash = "dot" if seen_through else _DASHES[turn % len(_DASHES)]
    return go.Scatter(
        x=[axis.place(group) for group in ordered],
        y=[error_of(group.accuracy.mean) for group in ordered],
        error_y=error_bars([group.accuracy.mean for group in ordered], [group.accuracy.deviation for group in ordered]),
        name=plain(name),
        mode="lines+markers",
        line={"color": SERIES[colour], "dash": dash, "width": 1.5},
        marker={"symbol": f"{symbol}-open", "size": 13} if seen_through else {"symbol": symbol, "size": 8},
        customdata=[_hover(group, axis) for group in ordered],
        hovertemplate=f"{plain(name)}<br>%{{customdata[0]}}<br>%{{customdata[1]}}<extra></extra>",
    )


def _drawn_at(groups: Sequence[Group], axis: CostAxis) -> list[tuple[float, float]]:
    """The points of a line on its logarithmic axes."""
    return sorted((math.log(axis.place(group)), math.log(error_of(group.accuracy.mean))) for group in groups)


def _hover(group: Group, axis: CostAxis) -> list[str]:
    asked = f", asked for {group.target_text}" if group.target_text else ""
    seeds = f"{len(group.seeds)} seed{'' if len(group.seeds) == 1 else 's'}"
    return [
        f"accuracy {spread(group.accuracy)} %, {seeds}",
        f"{axis.name} {axis.text(axis.place(group))}{plain(asked)}",
    ]


def _front_trace(fronts: Sequence[Sequence[Group]], axis: CostAxis) -> go.Scatter:
    places: list[tuple[float | None, float | None]] = []
    for groups in fronts:
        # A gap: fronts of different networks are not connected.
        places += [*((axis.place(group), error_of(group.accuracy.mean)) for group in groups), (None, None)]
    return go.Scatter(
        x=[x for x, _ in places[:-1]],
        y=[y for _, y in places[:-1]],
        name=_FRONT,
        mode="lines+markers",
        line={"color": MUTED, "dash": "dot", "width": 1.5},
        marker={"symbol": "circle-open", "size": 16, "color": LIGHT.text, "line": {"width": 1.5}},
        hoverinfo="skip",
    )


def _add_dense_line(figure: go.Figure, group: Group, name: str, index: int) -> None:
    """A line from side to side; its name is in the legend, since others may be right beside it."""
    figure.add_hline(
        y=error_of(group.accuracy.mean),
        line={"color": MUTED, "dash": _DENSE_DASHES[index % len(_DENSE_DASHES)], "width": 1.5},
        name=plain(name),
        showlegend=True,
    )


def _x_axis(groups: Sequence[Group], axis: CostAxis) -> Mapping[str, Any]:
    return {
        "title": {"text": axis.title},
        "type": "log",
        "autorange": "reversed" if axis.reverse else True,
        "tickvals": axis.ticks,
        "ticktext": [axis.text(tick) for tick in axis.ticks],
        "zeroline": False,
    }


def _accuracies(groups: Sequence[Group]) -> tuple[list[float], list[float | None]]:
    """Means and standard deviations."""
    return [group.accuracy.mean for group in groups], [group.accuracy.deviation for group in groups]


def _table(comparison: Comparison, several: bool, axis: CostAxis) -> Table:
    percentages = axis.column.endswith("%")
    rows = []
    for index, group in enumerate(comparison.groups):
        place = axis.place(group)
        shown = (100 * (1 - place) if axis.reverse else 100 * place) if percentages else place
        on_front = "yes" if axis.front in comparison.fronts_of(index) else ""
        deviation = None if group.accuracy.deviation is None else round(group.accuracy.deviation, 3)
        rows.append([row_name(group, several), round(shown, 4), round(group.accuracy.mean, 3), deviation, on_front])
    columns = ["method", axis.column, "accuracy, %", "standard deviation", "on the Pareto front"]
    return Table(columns, rows, f"Accuracy against {axis.name}")
