"""How the connections of a run came and went: drop, growth, survival and exploration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

import plotly.graph_objects as go

from sparsewright.report.layers import short_name
from sparsewright.report.page import Block, Paragraph, Plot, Section, Table
from sparsewright.report.palette import MUTED, SERIES
from sparsewright.report.run_data import RunData
from sparsewright.report.time_axis import TimeAxis, marker_mode, time_axis
from sparsewright.training.layer_log import TopologyLine
from sparsewright.training.method_options import DENSE


def topology_section(run: RunData) -> Section:
    """What was dropped and grown, what stayed of the start, and what was ever active."""
    title = "Connections"
    lines = run.log.topology
    if not lines:
        return Section(title, [Paragraph(_why_nothing(run))])
    blocks: list[Block] = []
    axis = time_axis(run)
    segments = _segments(lines)
    if any(sum(line.dropped) or sum(line.grown) for line in lines):
        blocks += [_turnover_plot(segments, axis), _exploration_plot(segments, axis)]
    else:
        until = "so far" if run.summary is None else "from the start to the end"
        blocks.append(Paragraph(f"The same connections were kept {until}: none was dropped or grown."))
    blocks.append(_layer_table(lines[-1]))
    return Section(title, blocks)


def _why_nothing(run: RunData) -> str:
    if run.method == DENSE and run.masks is None:
        return "This run is dense: it has no connections to drop or to grow."
    if run.summary is None:
        return "Nothing has been logged about connections yet."
    return "The run folder has no record of connections (layers.jsonl), as of runs made before there was one."


def _segments(lines: Sequence[TopologyLine]) -> list[list[TopologyLine]]:
    """Lines that count on from each other; a stage that masks other layers begins anew."""
    return [list(group) for _, group in groupby(lines, key=lambda line: (line.names, line.initial))]


def _turnover_plot(segments: Sequence[Sequence[TopologyLine]], axis: TimeAxis) -> Plot:
    # The first line of a segment is its start, where nothing can have gone or come.
    changes = [segment[1:] for segment in segments]
    figure = go.Figure(
        [
            _trace(changes, _dropped, "dropped", SERIES[1], "%{y:,}"),
            _trace(changes, _grown, "grown", SERIES[0], "%{y:,}", dash="dash"),
        ]
    )
    figure.update_yaxes(title={"text": "connections"}, rangemode="tozero", tickformat="~s")
    axis.apply(figure)
    rows = [
        [line.step, axis.epoch(line.step), _dropped(line), _grown(line), sum(line.kept)]
        for segment in changes
        for line in segment
    ]
    return Plot(
        "Drop and growth per update",
        figure,
        "Connections that the method dropped and grew in all layers; where more go than come, the network becomes "
        "sparser.",
        Table(["step", "epoch", "dropped", "grown", "kept after it"], rows, "Drop and growth per update"),
    )


def _exploration_plot(segments: Sequence[Sequence[TopologyLine]], axis: TimeAxis) -> Plot:
    start = segments[-1][0]
    from_dense = start.kept == start.weights
    figure = go.Figure(
        [
            _level(segments, axis, _explored, "weights ever active (ITOP)", SERIES[2]),
            _level(segments, axis, _survived, "initial connections still kept", SERIES[1], dash="dash"),
        ]
    )
    if not from_dense:
        figure.add_trace(_level(segments, axis, _kept, "weights kept now", MUTED, dash="dot"))
    figure.update_yaxes(title={"text": "%"}, range=[0, 102])
    axis.apply(figure)
    dense_start = " The run began dense, so every weight was active once." if from_dense else ""
    rows = [
        [line.step, axis.epoch(line.step), *(round(share(line), 3) for share in (_explored, _survived, _kept))]
        for segment in segments
        for line in segment
    ]
    columns = ["step", "epoch", "ever active, %", "initial still kept, %", "kept now, %"]
    return Plot(
        "Survival and exploration",
        figure,
        "How many of the initial connections are still there, and the ITOP exploration rate: how many of all weights "
        f"were active at some time.{dense_start}",
        Table(columns, rows, "Survival of the initial connections and exploration"),
    )


def _level(
    segments: Sequence[Sequence[TopologyLine]],
    axis: TimeAxis,
    value: Callable[[TopologyLine], float],
    name: str,
    colour: str,
    dash: str = "solid",
) -> go.Scatter:
    """A line of per cent that holds until the next change, and from the last one to the end of the run."""
    last = segments[-1][-1]
    held = [*segments[:-1], [*segments[-1], replace(last, step=max(axis.end, last.step))]]
    return _trace(held, value, name, colour, "%{y:.2f} %", dash=dash, shape="hv")


def _trace(
    segments: Sequence[Sequence[TopologyLine]],
    value: Callable[[TopologyLine], float],
    name: str,
    colour: str,
    number: str,
    dash: str = "solid",
    shape: str = "linear",
) -> go.Scatter:
    steps: list[int | None] = []
    values: list[float | None] = []
    for segment in segments:
        # A gap: what begins anew is no change of what was before.
        steps += [*(line.step for line in segment), None]
        values += [*(value(line) for line in segment), None]
    return go.Scatter(
        x=steps[:-1],
        y=values[:-1],
        name=name,
        line={"color": colour, "dash": dash, "shape": shape},
        mode=marker_mode(len(steps)),
        hovertemplate=number,
    )


def _layer_table(line: TopologyLine) -> Table:
    rows = [
        [
            short_name(name),
            line.weights[index],
            line.kept[index],
            round(_percent(line.survived[index], line.initial[index]), 2),
            round(_percent(line.explored[index], line.weights[index]), 2),
        ]
        for index, name in enumerate(line.names)
    ]
    columns = ["layer", "weights", "kept", "initial still kept, %", "ever active, %"]
    return Table(columns, rows, f"Connections of the layers after step {line.step:,}")


def _dropped(line: TopologyLine) -> int:
    return sum(line.dropped)


def _grown(line: TopologyLine) -> int:
    return sum(line.grown)


def _survived(line: TopologyLine) -> float:
    return _percent(sum(line.survived), sum(line.initial))


def _explored(line: TopologyLine) -> float:
    return _percent(sum(line.explored), sum(line.weights))


def _kept(line: TopologyLine) -> float:
    return _percent(sum(line.kept), sum(line.weights))


def _percent(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0
