"""Ranks of the weights over training and layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from sparsewright.report.layers import PERCENT_WITH_NUMBERS, bars_downwards, short_name
from sparsewright.report.page import Block, Choice, Paragraph, Plot, Section, Table
from sparsewright.report.palette import SERIES
from sparsewright.report.plot_data import plain
from sparsewright.report.run_data import RunData
from sparsewright.report.time_axis import TimeAxis, marker_mode, time_axis
from sparsewright.training.layer_log import RankLine
from sparsewright.training.rank_log import PREFIX, logged_ranks

KINDS = {
    "numerical": "numerical rank",
    "energy_99": "99 % of the energy",
    "energy_95": "95 % of the energy",
    "energy_90": "90 % of the energy",
    "effective": "effective rank",
    "stable": "stable rank",
}
"""Kinds of rank by their key in the log, from the largest to the smallest as a rule."""

_DASHES = ("solid", "dash", "dashdot", "dot", "solid", "dash")


def rank_section(run: RunData) -> Section:
    """Means over the layers as training went on, and every layer where the run logged it."""
    title = "Rank"
    measured = [line for line in run.lines if logged_ranks(line)]
    blocks: list[Block] = []
    if measured:
        blocks.append(_averages_plot(measured, time_axis(run)))
    if run.log.ranks:
        blocks.append(_layer_choice(run.log.ranks[-1]))
    elif measured:
        blocks.append(Paragraph("The ranks of the single layers were not logged: there was no layer log yet."))
    elif run.summary is None and run.recipe.log_rank_every is not None:
        blocks.append(Paragraph("No ranks have been logged yet."))
    if not blocks:
        blocks.append(Paragraph("Ranks were not logged; the recipe's key log_rank_every (such as 10ep) turns that on."))
    return Section(title, blocks)


def _averages_plot(lines: Sequence[Mapping[str, Any]], axis: TimeAxis) -> Plot:
    steps = [line["step"] for line in lines]
    figure = go.Figure(
        [
            go.Scatter(
                x=steps,
                y=[line[PREFIX + kind] for line in lines],
                name=name,
                line={"color": colour, "dash": dash},
                mode=marker_mode(len(steps)),
                hovertemplate="%{y:.1f}",
            )
            for (kind, name), colour, dash in zip(KINDS.items(), SERIES, _DASHES, strict=True)
        ]
    )
    figure.update_layout(height=420)
    figure.update_yaxes(title={"text": "mean rank"}, rangemode="tozero")
    axis.apply(figure)
    rows = [[line["step"], line["epoch"], *(round(line[PREFIX + kind], 3) for kind in KINDS)] for line in lines]
    return Plot(
        "Mean rank over training",
        figure,
        "Means over the layers, each weight read as a matrix of filters x rest: how many singular values are above "
        "rounding (numerical rank), how many hold a share of the energy (the sum of their squares), and the effective "
        "and the stable rank.",
        Table(["step", "epoch", *KINDS.values()], rows, "Mean ranks over training"),
    )


def _layer_choice(line: RankLine) -> Choice:
    return Choice("Kind of rank", {name: _layer_plot(line, kind, name) for kind, name in KINDS.items()})


def _layer_plot(line: RankLine, kind: str, name: str) -> Plot:
    layers = [short_name(layer) for layer in line.layers]
    ranks = [values[kind] for values in line.layers.values()]
    full = [values["full"] for values in line.layers.values()]
    figure = go.Figure(
        go.Bar(
            x=[100 * rank / whole for rank, whole in zip(ranks, full, strict=True)],
            y=[plain(layer) for layer in layers],
            orientation="h",
            marker={"color": SERIES[0]},
            customdata=list(zip(ranks, full, strict=True)),
            hovertemplate="%{y}<br>%{customdata[0]:.1f} of %{customdata[1]:,}<extra></extra>",
            texttemplate="%{customdata[0]:.3~g}",
            textposition="outside",
        )
    )
    figure.update_xaxes({"title": {"text": "of the full rank, %"}, **PERCENT_WITH_NUMBERS})
    cells = [[layer, round(rank, 2), whole] for layer, rank, whole in zip(layers, ranks, full, strict=True)]
    return Plot(
        "Rank per layer",
        bars_downwards(figure, layers),
        f"After step {line.step:,}: {name}, as a share of the smaller side of the matrix; the numbers are the ranks.",
        Table(["layer", name, "full rank"], cells, f"Ranks of the layers: {name}"),
    )
