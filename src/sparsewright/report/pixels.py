"""How many connections of the first layer each pixel of the image keeps."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from sparsewright.analysis.naming import layer_weights
from sparsewright.report.page import Plot, Table
from sparsewright.report.palette import SEQUENTIAL
from sparsewright.report.run_data import RunData

MOST_SQUARES = 128
"""In a row of the picture: of larger images several pixels share one, so that the page stays small."""

MOST_IN_TABLE = 64
"""Pixels in a row up to which the picture has a table."""


def pixel_plot(run: RunData) -> Plot | None:
    """The picture, for a network whose first layer is Linear and sees the whole image; None for others."""
    counts = connections_per_pixel(run)
    if counts is None:
        return None
    size = len(counts)
    side = -(-size // MOST_SQUARES)
    squares = avg_pool2d(counts[None].double(), side, ceil_mode=True, divisor_override=1)[0].long()
    rows = squares.tolist()
    unused = int((counts == 0).sum())
    colours = ", over all its colours" if run.loaded is not None and run.loaded.input_shape[0] > 1 else ""
    together = f" Each square is the sum of {side} x {side} pixels." if side > 1 else ""
    return Plot(
        "Connections of each pixel",
        _picture(rows, side),
        f"How many connections of the first layer each pixel of the {size} x {size} image keeps{colours}; "
        f"{unused:,} of {counts.numel():,} pixels keep none.{together}",
        _table(rows) if size <= MOST_IN_TABLE else None,
    )


def _picture(rows: Sequence[Sequence[int]], side: int) -> go.Figure:
    """A square for each number, which are ``side`` pixels apart."""
    gap, ticks = 1 if len(rows) <= MOST_IN_TABLE else 0, max(side * len(rows) // 4, 1)
    figure = go.Figure(
        go.Heatmap(
            z=rows,
            colorscale=SEQUENTIAL,
            zmin=0,
            colorbar={"title": {"text": "kept"}},
            xgap=gap,
            ygap=gap,
            x0=0,
            dx=side,
            y0=0,
            dy=side,
            hovertemplate="row %{y}, column %{x}: %{z:,} connections<extra></extra>",
        )
    )
    figure.update_xaxes(constrain="domain", showgrid=False, zeroline=False, dtick=ticks)
    figure.update_yaxes(autorange="reversed", scaleanchor="x", constrain="domain", showgrid=False, zeroline=False)
    figure.update_yaxes(dtick=ticks)
    return figure.update_layout(height=420, width=480)


def _table(rows: Sequence[Sequence[int]]) -> Table:
    columns = ["row", *(f"{column}" for column in range(len(rows)))]
    cells = [[f"{index}", *row] for index, row in enumerate(rows)]
    return Table(columns, cells, "Connections of each pixel, by row and column")


def connections_per_pixel(run: RunData) -> Tensor | None:
    """Counts of shape (height, width); None where the first layer does not see the whole image."""
    assert run.loaded is not None
    name, layer, _, weight = next(layer_weights(run.loaded.model))
    channels, height, width = run.loaded.input_shape
    # A later Linear layer can have as many inputs by chance; the first layer of the network has the image's.
    if not isinstance(layer, nn.Linear) or weight.shape[1] != channels * height * width:
        return None
    kept = run.masks[name] if run.masks is not None and name in run.masks else weight.detach() != 0
    return kept.sum(dim=0).reshape(channels, height, width).sum(dim=0)
