"""Figures of plotly as JSON, and plotly's own script packed for a page."""

from __future__ import annotations

import base64
import gzip
import html
from dataclasses import dataclass
from functools import lru_cache

import plotly.graph_objects as go
from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs


@dataclass(frozen=True)
class FigureData:
    """A figure for a page.

    Attributes:
        json: its data and layout; the template is left to the page, so that it follows the theme.
        height, width: of its layout, in pixels; None where it does not say.
    """

    json: str
    height: int | None
    width: int | None


def figure_data(figure: go.Figure) -> FigureData:
    """What the script of a page draws ``figure`` from."""
    content = figure.to_plotly_json()
    layout = content["layout"]
    layout.pop("template", None)
    json = str(to_json_plotly({"data": content["data"], "layout": layout}, engine="json"))
    return FigureData(json, layout.get("height"), layout.get("width"))


def plain(text: str) -> str:
    """Text from outside, such as the name of a layer, for a figure: plotly reads some tags in what it shows."""
    return html.escape(text, quote=False)


@lru_cache(maxsize=1)
def packed_plotly() -> str:
    """plotly.min.js, gzipped and in base64: 2.0 instead of 4.8 MB."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode("utf-8"), mtime=0)).decode("ascii")
