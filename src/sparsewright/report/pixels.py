"""How many connections of the first layer each pixel of the image keeps."""

from __future__ import annotations

import plotly.graph_objects as go
from torch import Tensor, nn

from sparsewright.analysis.naming import layer_weights
from sparsewright.report.page import Plot, Table
from sparsewright.report.palette import SEQUENTIAL
from sparsewright.report.run_data import RunData


def pixel_plot(run: RunData) -> Plot | None:
    """The picture, for a network whose first layer is Linear and sees the whole image; None for others."""
    counts = connections_per_pixel(run)
    if counts is None:
        return None
    rows = counts.tolist()
    size = len(rows)
    figure = go.Figure(
        go.Heatmap(
            z=rows,
            colorscale=SEQUENTIAL,
            zmin=0,
            colorbar={"title": {"text": "kept"}},
            xgap=1,
            ygap=1,
            hovertemplate="row %{y}, column %{x}: %{z:,} connections<extra></extra>",
        )
    )
    figure.update_xaxes(constrain="domain", showgrid=False, zeroline=False, dtick=max(size // 4, 1))
    figure.update_yaxes(autorange="reversed", scaleanchor="x", constrain="domain", showgrid=False, zeroline=False)
    figure.update_yaxes(dtick=max(size // 4, 1))
    figure.update_layout(height=420, width=480)
    unused = int((counts == 0).sum())
    colours = ", over all its colours" if run.loaded is not None and run.loaded.input_shape[0] > 1 else ""
    return Plot(
        "Connections of each pixel",
        figure,
        f"How many connections of the first layer each pixel of the {size} x {size} image keeps{colours}; "
        f"{unused:,} of {counts.numel():,} pixels keep none.",
        Table(
            ["row", *(f"{column}" for column in range(size))],
            [[f"{index}", *row] for index, row in enumerate(rows)],
            "Connections of each pixel, by row and column",
        ),
    )


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
