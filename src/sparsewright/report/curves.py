"""Loss, accuracy, sparsity and learning rate over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from sparsewright.report.learning_rates import learning_rates
from sparsewright.report.page import Block, Paragraph, Plot, Section, Table
from sparsewright.report.palette import SERIES
from sparsewright.report.run_data import RunData
from sparsewright.report.time_axis import TimeAxis, marker_mode, panel_title, time_axis

HEIGHT = 760

_GAP = 0.07
_PANELS = ("loss", "accuracy, %", "sparsity, %", "learning rate")


def curves_section(run: RunData) -> Section:
    """Everything that was measured at the ends of epochs, on one axis of time."""
    title = "Training"
    if not run.lines:
        return Section(title, [Paragraph("No epoch has ended yet, so there is nothing to draw.")])
    axis = time_axis(run)
    shrunk = (
        " The shrink stage takes the zeros out of the network." if any(_shrinks(line) for line in run.lines) else ""
    )
    note = (
        f"Measured at the end of every epoch, on the images trained on (dashed) and on the {run.tested_on} images "
        f"(solid); the sparsity also where connections were dropped or grown, the learning rate at "
        f"every step.{axis.stages_in_words()}{shrunk}"
    )
    plot = Plot("Loss, accuracy and sparsity over training", _figure(run, axis), note, _table(run))
    blocks: list[Block] = [plot]
    return Section(title, blocks)


def _figure(run: RunData, axis: TimeAxis) -> go.Figure:
    figure = go.Figure(_measured_traces(run))
    figure.add_trace(_sparsity_trace(run).update(yaxis="y3"))
    figure.add_trace(_rate_trace(run).update(yaxis="y4"))
    _lay_out_panels(figure)
    axis.apply(figure)
    return figure


def _measured_traces(run: RunData) -> list[go.Scatter]:
    """Loss and accuracy on the images trained on and on the others."""
    traces: list[go.Scatter] = []
    for part, images, line in (
        ("train", "training", {"color": SERIES[1], "dash": "dash"}),
        ("test", run.tested_on, {"color": SERIES[0]}),
    ):
        loss = _trace(run.lines, f"{part}_loss", f"{images} loss", line, ".4f")
        accuracy = _trace(run.lines, f"{part}_accuracy", f"{images} accuracy", line, ".2f")
        # A line in the legend for both panels, in words that fit both.
        legend = go.Scatter(x=[None], y=[None], name=f"{images} images", mode="lines", line=line)
        traces += [loss, accuracy.update(yaxis="y2"), legend]
    return traces


def _lay_out_panels(figure: go.Figure) -> None:
    """The panels below each other, each with its name, on one axis of time."""
    height = (1 - _GAP * (len(_PANELS) - 1)) / len(_PANELS)
    bottoms = [max(1 - height - index * (height + _GAP), 0) for index in range(len(_PANELS))]
    for number, bottom in enumerate(bottoms, start=1):
        figure["layout"][f"yaxis{number}"] = {"domain": [bottom, bottom + height], "anchor": "x"}
    figure.update_layout(yaxis={"rangemode": "tozero"}, yaxis3={"range": [0, 102]}, yaxis4={"rangemode": "tozero"})
    titles = [panel_title(name, bottom + height) for name, bottom in zip(_PANELS, bottoms, strict=True)]
    figure.update_layout(height=HEIGHT, annotations=titles, legend={"x": 1, "xanchor": "right", "y": 1})
    figure.update_xaxes(anchor=f"y{len(_PANELS)}")


def _shrinks(line: Mapping[str, Any]) -> bool:
    return line["kind"] == "shrink"


def _trace(lines: Sequence[Mapping[str, Any]], key: str, name: str, line: dict[str, Any], number: str) -> go.Scatter:
    measured = [point for point in lines if point.get(key) is not None]
    steps = [point["step"] for point in measured]
    return go.Scatter(
        x=steps,
        y=[point[key] for point in measured],
        name=name,
        line=line,
        mode=marker_mode(len(steps)),
        hovertemplate=f"%{{y:{number}}}",
        showlegend=False,
    )


def _sparsity_trace(run: RunData) -> go.Scatter:
    points = [(line["step"], line["sparsity"]) for line in run.lines]
    measured = {step for step, _ in points}
    updates = [line for line in run.log.topology if line.step not in measured]
    points += [(line.step, 1 - sum(line.kept) / sum(line.weights)) for line in updates]
    points.sort(key=lambda point: point[0])
    steps = [step for step, _ in points]
    return go.Scatter(
        x=steps,
        y=[100 * sparsity for _, sparsity in points],
        name="sparsity",
        line={"color": SERIES[2], "shape": "hv"},
        mode=marker_mode(len(steps)),
        hovertemplate="%{y:.2f} %",
        showlegend=False,
    )


def _rate_trace(run: RunData) -> go.Scatter:
    rates = learning_rates(run)
    return go.Scatter(
        x=[step for step, _ in rates],
        y=[rate for _, rate in rates],
        name="learning rate",
        line={"color": SERIES[5], "shape": "hv"},
        mode="lines",
        hovertemplate="%{y:.3g}",
        showlegend=False,
    )


def _table(run: RunData) -> Table:
    columns = {
        "step": "step",
        "epoch": "epoch",
        "stage": "stage",
        "train_loss": "training loss",
        "test_loss": f"{run.tested_on} loss",
        "train_accuracy": "training accuracy, %",
        "test_accuracy": f"{run.tested_on} accuracy, %",
        "sparsity": "sparsity",
        "lr": "learning rate",
    }
    rows = [[line.get(key) for key in columns] for line in run.lines]
    return Table(list(columns.values()), rows, "Metrics at the end of every epoch")
