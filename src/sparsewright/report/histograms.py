"""How the kept weights of each layer are spread."""

from __future__ import annotations

import plotly.graph_objects as go
import torch
from torch import Tensor

from sparsewright.analysis.naming import layer_weights
from sparsewright.report.layers import short_name
from sparsewright.report.page import Block, Choice, Paragraph, Plot, Section, Table
from sparsewright.report.palette import SERIES
from sparsewright.report.pixels import pixel_plot
from sparsewright.report.run_data import RunData
from sparsewright.training.masks_file import MASKS

BINS = 61
"""Bars of a histogram; an odd number has one around zero."""

MOST_LAYERS = 60
"""So many layers have a histogram of their own, which bounds the size of the page."""

_WITHOUT_MASKS = f"The run folder has no {MASKS}, so every weight that is zero counts as pruned here."


def weights_section(run: RunData) -> Section:
    """Histograms of the kept weights and, where the first layer sees an image, its connections per pixel."""
    title = "Weights"
    if run.loaded is None:
        return Section(title, [Paragraph("The weights are shown once the run is finished.")])
    kept = kept_weights(run)
    if not kept:
        return Section(title, [Paragraph("The network has no Linear, convolution or attention weights.")])
    blocks: list[Block] = [Paragraph(_WITHOUT_MASKS)] if run.masks_missing else []
    blocks.append(_choice(kept) if len(kept) > 1 else _plot("the only layer", next(iter(kept.values()))))
    if len(kept) > MOST_LAYERS:
        blocks.append(Paragraph(f"Of {len(kept)} layers, the first {MOST_LAYERS} have a histogram of their own."))
    picture = pixel_plot(run)
    if picture is not None:
        blocks.append(picture)
    return Section(title, blocks)


def kept_weights(run: RunData) -> dict[str, Tensor]:
    """Layer -> its weights that the final mask keeps, or that are not zero where there is no mask; 1-D."""
    assert run.loaded is not None
    masks = dict(run.masks or {})
    kept: dict[str, Tensor] = {}
    for name, _, _, weight in layer_weights(run.loaded.model):
        values = weight.detach().float()
        kept[short_name(name)] = values[masks.get(name, values != 0)]
    return kept


def histogram(values: Tensor) -> tuple[list[float], list[int]]:
    """Middles and counts of BINS equal bins that are symmetric around zero; of 1-D ``values`` of any number."""
    widest = float(values.abs().max()) if values.numel() else 0.0
    widest = widest or 1.0
    width = 2 * widest / BINS
    places = ((values.double() + widest) / width).long().clamp_(0, BINS - 1)
    counts = torch.bincount(places, minlength=BINS)
    return [-widest + (index + 0.5) * width for index in range(BINS)], counts.tolist()


def _choice(kept: dict[str, Tensor]) -> Choice:
    options = {"all layers": _plot("all layers", torch.cat(list(kept.values())))}
    options |= {name: _plot(name, values) for name, values in list(kept.items())[:MOST_LAYERS]}
    return Choice("Layer", options)


def _plot(name: str, values: Tensor) -> Plot:
    middles, counts = histogram(values)
    middles = [float(f"{middle:.4g}") for middle in middles]
    figure = go.Figure(
        go.Bar(
            x=middles,
            y=counts,
            marker={"color": SERIES[0]},
            hovertemplate="around %{x:.4~g}: %{y:,} weights<extra></extra>",
        )
    )
    figure.update_layout(bargap=0.08)
    figure.update_xaxes(title={"text": "weight"})
    figure.update_yaxes(title={"text": "number of weights"}, tickformat="~s")
    spread = f", with a standard deviation of {values.std().item():.3g}" if values.numel() > 1 else ""
    zeros = int((values == 0).sum())
    at_zero = f"; {zeros:,} of them are exactly zero, as new connections are" if zeros else ""
    return Plot(
        f"Kept weights of {name}",
        figure,
        f"{values.numel():,} weights that are not pruned{spread}{at_zero}.",
        Table(["around", "weights"], list(zip(middles, counts, strict=True)), f"Histogram of the weights of {name}"),
    )
