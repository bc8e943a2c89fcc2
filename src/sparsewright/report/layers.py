"""Sparsity and share of FLOPs layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import torch
from torch import Tensor

from sparsewright.analysis import LayerRow, layer_table
from sparsewright.report.page import Block, Paragraph, Plot, Section, Table
from sparsewright.report.palette import MUTED, SEQUENTIAL, SERIES
from sparsewright.report.plot_data import plain
from sparsewright.report.run_data import RunData
from sparsewright.report.time_axis import TimeAxis, time_axis
from sparsewright.training.layer_log import TopologyLine

MOMENTS = 100
"""Columns of the map over time at most."""

PERCENT_WITH_NUMBERS = {"range": [0, 114], "tickvals": [0, 20, 40, 60, 80, 100]}
"""An axis from 0 to 100 % with room for a number behind each bar."""

_BAR, _AROUND = 22, 90


def layers_section(run: RunData) -> Section:
    """What the final weights of each layer are, and how their sparsity came about."""
    blocks: list[Block] = []
    if run.loaded is None:
        blocks.append(Paragraph("Weights and FLOPs of the layers are shown once the run is finished."))
    else:
        blocks += _final_plots(run)
    changes = _last_segment(run.log.topology)
    if len({line.kept for line in changes}) > 1:
        blocks.append(_map_over_time(changes, time_axis(run)))
    return Section("Layers", blocks)


def short_name(parameter: str) -> str:
    """A parameter's name without what all of them end in."""
    return parameter.removesuffix(".weight")


def bar_height(bars: int, per_bar: int = 1) -> int:
    """The height in pixels of a plot with so many horizontal bars, ``per_bar`` of them side by side."""
    return _AROUND + max(bars, 2) * (_BAR + 8 * (per_bar - 1))


def bars_downwards(figure: go.Figure, names: Sequence[str], per_bar: int = 1) -> go.Figure:
    """Horizontal bars in the order of the network, from the top."""
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False, ticksuffix=" ")
    figure.update_layout(height=bar_height(len(names), per_bar), bargap=0.3, barcornerradius=2)
    return figure


def _final_plots(run: RunData) -> list[Block]:
    assert run.loaded is not None
    example = torch.zeros(1, *run.loaded.input_shape)
    rows = layer_table(run.loaded.model, example)
    if not rows:
        return [Paragraph("The network has no Linear, convolution or attention weights.")]
    dense = layer_table(run.loaded.dense_network(), example) if run.loaded.shrunk else rows
    kept = _kept(rows, run.masks)
    if all(left == row.nonzero == before.weights for left, row, before in zip(kept, rows, dense, strict=True)):
        text = "No weight is zero and none was removed: all layers are dense."
        return [Paragraph(text), _flops_plot(rows, kept, dense)]
    return [_sparsity_plot(rows, kept, dense, shrunk=run.loaded.shrunk), _flops_plot(rows, kept, dense)]


def _kept(rows: Sequence[LayerRow], masks: Mapping[str, Tensor] | None) -> list[int]:
    """The weights of each layer that count as there: those that the masks keep, zeros among them; without any masks,
    those that are not zero.
    """
    if not masks:
        return [row.nonzero for row in rows]
    return [int(masks[row.name].count_nonzero()) if row.name in masks else row.weights for row in rows]


def _sparsity_plot(rows: Sequence[LayerRow], kept: Sequence[int], dense: Sequence[LayerRow], *, shrunk: bool) -> Plot:
    names = [plain(short_name(row.name)) for row in rows]
    removed = [1 - left / before.weights for left, before in zip(kept, dense, strict=True)]
    zeros = [left - row.nonzero for left, row in zip(kept, rows, strict=True)]
    figure = go.Figure(
        go.Bar(
            x=[100 * fraction for fraction in removed],
            y=names,
            orientation="h",
            marker={"color": SERIES[0]},
            customdata=[[left, before.weights] for left, before in zip(kept, dense, strict=True)],
            hovertemplate="%{y}<br>%{x:.2f} %<br>%{customdata[0]:,} of %{customdata[1]:,} weights left<extra></extra>",
            texttemplate="%{x:.1f}",
            textposition="outside",
        )
    )
    figure.update_xaxes({"title": {"text": "removed, %" if shrunk else "sparsity, %"}, **PERCENT_WITH_NUMBERS})
    what = "removed, with filters or channels or as zeros," if shrunk else "pruned"
    among = f" Of those that are kept, {sum(zeros):,} are exactly zero, as new connections are." if any(zeros) else ""
    columns = ["layer", "shape", "weights", "kept", "zero among the kept", "removed, %" if shrunk else "sparsity, %"]
    cells = [
        [short_name(row.name), _shape(row), before.weights, left, zero, round(100 * fraction, 3)]
        for row, left, before, zero, fraction in zip(rows, kept, dense, zeros, removed, strict=True)
    ]
    return Plot(
        "Weights removed per layer" if shrunk else "Sparsity per layer",
        bars_downwards(figure, names),
        f"Share of each layer's weights that are {what} in the saved network.{among}",
        Table(columns, cells, "Weights of the layers"),
    )


def _flops_plot(rows: Sequence[LayerRow], kept: Sequence[int], dense: Sequence[LayerRow]) -> Plot:
    names = [plain(short_name(row.name)) for row in rows]
    before = [row.flops_dense or 0 for row in dense]
    after = [(row.flops_dense or 0) * left / row.weights for row, left in zip(rows, kept, strict=True)]
    shares = {"dense network": (_in_percent(before), MUTED), "this network": (_in_percent(after), SERIES[0])}
    differ = before != after
    shown = shares if differ else {"network": shares["this network"]}
    figure = go.Figure(
        [
            go.Bar(
                x=values,
                y=names,
                name=name,
                orientation="h",
                marker={"color": colour},
                hovertemplate=f"%{{y}}<br>%{{x:.2f}} % of the FLOPs of the {name}<extra></extra>",
            )
            for name, (values, colour) in shown.items()
        ]
    )
    figure.update_xaxes(title={"text": "share of inference FLOPs, %"}, rangemode="tozero")
    figure.update_layout(legend={"traceorder": "normal"})
    columns = ["layer", "FLOPs dense", "FLOPs sparse", "share of the dense, %", "share of this network, %"]
    cells = [
        [short_name(row.name), flops, round(sparse), round(one, 3), round(other, 3)]
        for row, flops, sparse, one, other in zip(
            rows, before, after, shares["dense network"][0], shares["this network"][0], strict=True
        )
    ]
    return Plot(
        "Share of inference FLOPs per layer",
        bars_downwards(figure, names, per_bar=len(shown)),
        "Where the operations of one image are spent"
        + (": in the dense network, and in this one, each adding up to 100 %." if differ else "."),
        Table(columns, cells, "Inference FLOPs of the layers, per image"),
    )


def _in_percent(parts: Sequence[float]) -> list[float]:
    total = sum(parts) or 1
    return [100 * part / total for part in parts]


def _map_over_time(lines: Sequence[TopologyLine], axis: TimeAxis) -> Plot:
    shown = [lines[index] for index in _spread(len(lines), MOMENTS)]
    names = [short_name(name) for name in lines[-1].names]
    sparsity = [
        [round(100 * (1 - kept / weights), 3) for kept, weights in zip(line.kept, line.weights, strict=True)]
        for line in shown
    ]
    figure = go.Figure(
        go.Heatmap(
            # Edges, not middles: what a line says holds until the next one.
            x=[*(line.step for line in shown), max(axis.end, shown[-1].step + 1)],
            y=[plain(name) for name in names],
            z=[list(row) for row in zip(*sparsity, strict=True)],
            customdata=[[[line.step, axis.epoch(line.step)] for line in shown]] * len(names),
            colorscale=SEQUENTIAL,
            zmin=0,
            zmax=100,
            colorbar={"title": {"text": "%"}},
            hovertemplate="%{y}<br>from step %{customdata[0]:,} · epoch %{customdata[1]}<br>"
            "sparsity %{z:.2f} %<extra></extra>",
        )
    )
    figure.update_xaxes(title={"text": "optimizer steps"}, tickformat=",~s")
    figure.update_yaxes(autorange="reversed", type="category", ticksuffix=" ")
    figure.update_layout(height=bar_height(len(names)))
    few = _spread(len(lines), 5)
    table = Table(
        ["layer", *(f"step {lines[index].step:,}" for index in few)],
        [
            [name, *(round(100 * (1 - lines[index].kept[row] / lines[index].weights[row]), 3) for index in few)]
            for row, name in enumerate(names)
        ],
        "Sparsity of the layers in %, at some steps",
    )
    return Plot(
        "Sparsity of the layers over training",
        figure,
        "How the method shares the sparsity among the layers as training goes on.",
        table,
    )


def _last_segment(lines: Sequence[TopologyLine]) -> list[TopologyLine]:
    """The lines of the layers that are masked at the end."""
    return [line for line in lines if line.names == lines[-1].names and line.weights == lines[-1].weights]


def _spread(count: int, most: int) -> list[int]:
    """Up to ``most`` of ``count`` places, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(index * (count - 1) / (most - 1)) for index in range(most)]


def _shape(row: LayerRow) -> str:
    return " x ".join(str(size) for size in row.shape)
