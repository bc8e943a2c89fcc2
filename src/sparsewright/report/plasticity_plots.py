"""Figures of a pruning-plasticity study: change of accuracy over the run, and heat maps over moment and rate."""

from __future__ import annotations

import math
from typing import Any

import plotly.graph_objects as go

from sparsewright.analysis.plasticity import RULES
from sparsewright.plasticity import PlasticityCell, PlasticityMoment, PlasticityResult
from sparsewright.report.palette import LIGHT, MUTED, SERIES

UNIT = "percentage points"

_COLOURS = dict(zip(("uniform", "global", "structured"), SERIES, strict=False))
# A part of the scale of colours on which text is easy to read in both themes; a test measures it.
SCALE = [[index / 4, colour] for index, colour in enumerate(LIGHT.diverging[1:-1])]
STRONGEST = 2 / 3
DROP = 0.5
"""Times this or less between two moments, the learning rate has dropped; a smooth schedule has no line to mark."""


def moment_title(moment: PlasticityMoment) -> str:
    """A moment as the label of an axis or a column; lr is the learning rate."""
    return f"epoch {moment.epoch}, lr {moment.learning_rate:.3g}"


def change_figure(result: PlasticityResult, rate: float) -> go.Figure:
    """Change against the twin at each moment, a line for each rule, with marks where the learning rate drops."""
    figure = go.Figure()
    for name in result.rules:
        cells = {
            moment: cell for moment in result.moments if (cell := result.find(moment.epoch, name, rate)) is not None
        }
        figure.add_trace(
            go.Scatter(
                x=[moment.epoch for moment in cells],
                y=[cell.change.mean if cell.change is not None else None for cell in cells.values()],
                error_y={
                    "type": "data",
                    "array": [_deviation(cell) for cell in cells.values()],
                    "visible": len(result.seeds) > 1,
                },
                customdata=[moment.learning_rate for moment in cells],
                name=name,
                mode="lines+markers",
                line={"color": _COLOURS[RULES[name].scope], "dash": "dot" if RULES[name].regrows else "solid"},
                marker={"symbol": "diamond-open" if RULES[name].regrows else "circle", "size": 9},
                hovertemplate=f"{name}: %{{y:+.2f}}<br>epoch %{{x}}, learning rate %{{customdata:.3g}}<extra></extra>",
            )
        )
    for before, after in zip(result.moments, result.moments[1:], strict=False):
        if after.learning_rate <= DROP * before.learning_rate:
            figure.add_vline(x=(before.epoch + after.epoch) / 2, line={"color": MUTED, "dash": "dash", "width": 1})
    figure.add_hline(y=0, line={"color": MUTED, "width": 1})
    figure.update_layout(
        xaxis={"title": "epoch at which it is pruned", "range": [0, result.epochs * 1.02]},
        yaxis={"title": f"change, {UNIT}"},
        showlegend=True,
        height=460,
    )
    return figure


def heat_map(result: PlasticityResult, rule: str) -> go.Figure:
    """Change against the twin of one rule over moment and rate, in colours that all heat maps of a study share."""
    limit = _root(_limit(result)) / STRONGEST
    columns = [moment_title(moment).replace(", ", "<br>") for moment in result.moments]
    rows = [f"{rate:g}" for rate in result.rates]
    cells = [[result.find(moment.epoch, rule, rate) for moment in result.moments] for rate in result.rates]
    figure = go.Figure(
        go.Heatmap(
            x=columns,
            y=rows,
            z=[[_tone(cell) for cell in line] for line in cells],
            hoverinfo="skip",
            colorscale=SCALE,
            zmin=-limit,
            zmax=limit,
            colorbar=_scale_of_changes(_limit(result)),
            xgap=2,
            ygap=2,
        )
    )
    flat = [
        (column, row, cell)
        for row, line in zip(rows, cells, strict=True)
        for column, cell in zip(columns, line, strict=True)
        if cell is not None
    ]
    figure.add_trace(
        go.Scatter(
            x=[column for column, _, _ in flat],
            y=[row for _, row, _ in flat],
            text=[_text(cell) for _, _, cell in flat],
            textfont={"color": LIGHT.text},
            mode="text",
            hovertemplate="%{x}<br>share %{y}: %{text}<extra></extra>",
            showlegend=False,
        )
    )
    figure.update_layout(
        xaxis={"title": {"text": "moment", "standoff": 16}, "type": "category"},
        yaxis={"title": "share pruned", "type": "category"},
        height=190 + 46 * len(rows),
    )
    return figure


def _deviation(cell: PlasticityCell) -> float | None:
    return cell.change.deviation if cell.change is not None else None


def _text(cell: PlasticityCell) -> str:
    if cell.change is None:
        return "diverged"
    return format(cell.change.mean, "+.2f" if abs(cell.change.mean) < 10 else "+.1f")


def _tone(cell: PlasticityCell | None) -> float | None:
    return _root(cell.change.mean) if cell is not None and cell.change is not None else None


def _scale_of_changes(limit: float) -> dict[str, Any]:
    """The bar that says which colour is which change, up to the largest one."""
    ticks = [-limit, -limit / 4, 0, limit / 4, limit]
    return {
        "tickvals": [_root(tick) for tick in ticks],
        "ticktext": [f"{tick:+.3g}" if tick else "0" for tick in ticks],
        "thickness": 12,
        "outlinewidth": 0,
    }


def _root(change: float) -> float:
    """Square root with the sign: a tenth of a point and a loss of 80 points are both to be seen."""
    return math.copysign(math.sqrt(abs(change)), change)


def _limit(result: PlasticityResult) -> float:
    """The largest change of the whole study, in points, at least one tenth."""
    return max([0.1, *(abs(cell.change.mean) for cell in result.cells if cell.change is not None)])
