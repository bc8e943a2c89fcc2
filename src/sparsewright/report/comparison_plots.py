"""Plots of a comparison: accuracy against what a network has left and what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from sparsewright.report.comparison import Comparison, Group
from sparsewright.report.comparison_table import row_name, spread
from sparsewright.report.cost_axis import CostAxis, cost_axes
from sparsewright.report.error_axis import accuracy_axis, error_bars, error_of
from sparsewright.report.page import Plot, Table
from sparsewright.report.palette import LIGHT, MUTED, SERIES
from sparsewright.report.plot_data import plain
from sparsewright.training.method_options import DENSE

HEIGHT = 480
_NAME_HEIGHT = 19
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x")
_DASHES = ("solid", "dash", "dashdot")


def comparison_plots(comparison: Comparison) -> list[Plot]:
    """Accuracy against sparsity, inference FLOPs and training FLOPs; none where every network is dense."""
    sparse = [group for group in comparison.groups if group.method != DENSE]
    if not sparse:
        return []
    return [_plot(comparison, sparse, axis) for axis in cost_axes(comparison, sparse)]


def _plot(comparison: Comparison, sparse: Sequence[Group], axis: CostAxis) -> Plot:
    figure = go.Figure()
    several = len({group.recipe for group in comparison.groups}) > 1
    series = _series(sparse, several)
    for index, (name, groups) in enumerate(series.items()):
        figure.add_trace(_trace(name, groups, axis, index))
    on_front = [comparison.groups[index] for index in comparison.fronts[axis.front]]
    figure.add_trace(_front_trace([group for group in on_front if group.method != DENSE], axis))
    for group in comparison.groups:
        if group.method == DENSE:
            _add_dense_line(figure, group, row_name(group, several), at_right=axis.reverse)
    figure.update_xaxes(_x_axis(sparse, axis))
    figure.update_yaxes(accuracy_axis(*_accuracies(comparison.groups)))
    # On a narrow page the names stand below one another.
    names = _NAME_HEIGHT * len(series)
    figure.update_layout(
        height=HEIGHT + names // 2,
        hovermode="closest",
        legend={"itemclick": "toggle", "font": {"size": 12}, "maxheight": HEIGHT // 3 + names},
    )
    note = (
        f"{axis.note} Mean over the seeds, with bars of one standard deviation; rings are on the Pareto front: nothing "
        "else that costs no more is as accurate."
    )
    return Plot(f"Accuracy against {axis.front}", figure, note, _table(comparison, several, axis))


def _series(groups: Sequence[Group], several_recipes: bool) -> dict[str, list[Group]]:
    """The groups that differ in their target alone, which a line connects."""
    series: dict[str, list[Group]] = {}
    for group in groups:
        series.setdefault(row_name(group, several_recipes), []).append(group)
    return series


def _trace(name: str, groups: Sequence[Group], axis: CostAxis, index: int) -> go.Scatter:
    ordered = sorted(groups, key=axis.place)
    turn, colour = divmod(index, len(SERIES))
    return go.Scatter(
        x=[axis.place(group) for group in ordered],
        y=[error_of(group.accuracy.mean) for group in ordered],
        error_y=error_bars([group.accuracy.mean for group in ordered], [group.accuracy.deviation for group in ordered]),
        name=plain(name),
        mode="lines+markers",
        line={"color": SERIES[colour], "dash": _DASHES[turn % len(_DASHES)], "width": 1.5},
        marker={"symbol": _SYMBOLS[(colour + 2 * turn) % len(_SYMBOLS)], "size": 8},
        customdata=[_hover(group, axis) for group in ordered],
        hovertemplate=f"{plain(name)}<br>%{{customdata[0]}}<br>%{{customdata[1]}}<extra></extra>",
    )


def _hover(group: Group, axis: CostAxis) -> list[str]:
    asked = f", asked for {group.target_text}" if group.target_text else ""
    seeds = f"{len(group.seeds)} seed{'' if len(group.seeds) == 1 else 's'}"
    return [
        f"accuracy {spread(group.accuracy)} %, {seeds}",
        f"{axis.front} {axis.text(axis.place(group))}{plain(asked)}",
    ]


def _front_trace(groups: Sequence[Group], axis: CostAxis) -> go.Scatter:
    return go.Scatter(
        x=[axis.place(group) for group in groups],
        y=[error_of(group.accuracy.mean) for group in groups],
        name="Pareto front",
        mode="lines+markers",
        line={"color": MUTED, "dash": "dot", "width": 1.5},
        marker={"symbol": "circle-open", "size": 16, "color": LIGHT.text, "line": {"width": 1.5}},
        hoverinfo="skip",
    )


def _add_dense_line(figure: go.Figure, group: Group, name: str, *, at_right: bool) -> None:
    """A line with its name where the other lines are far below it: at the end with the least cost."""
    figure.add_hline(
        y=error_of(group.accuracy.mean),
        line={"color": MUTED, "dash": "dash", "width": 1.5},
        annotation={
            # On a logarithmic axis plotly counts annotations in powers of ten, and shapes not.
            "y": math.log10(error_of(group.accuracy.mean)),
            "text": plain(f"{name} {spread(group.accuracy)}"),
            "x": 1 if at_right else 0,
            "xanchor": "right" if at_right else "left",
            "yanchor": "bottom",
            "font": {"size": 12},
        },
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
        on_front = "yes" if index in comparison.fronts[axis.front] else ""
        deviation = None if group.accuracy.deviation is None else round(group.accuracy.deviation, 3)
        rows.append([row_name(group, several), round(shown, 4), round(group.accuracy.mean, 3), deviation, on_front])
    columns = ["method", axis.column, "accuracy, %", "standard deviation", "on the Pareto front"]
    return Table(columns, rows, f"Accuracy against {axis.front}")
