"""The axis of time that all plots of one run share: optimizer steps, with epochs and stages on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from sparsewright.report.palette import MUTED
from sparsewright.report.plot_data import plain
from sparsewright.report.run_data import RunData

FEW = 30
"""Up to so many points each gets a mark of its own."""


@dataclass(frozen=True)
class StageStart:
    """A moment at which a stage began: the steps done before it, and the name of the stage."""

    step: int
    name: str


class TimeAxis:
    """Optimizer steps of a whole run.

    Args:
        lines: its metrics; between two of them epochs are interpolated.
        last_step: the newest step of anything else that was logged.
    """

    def __init__(self, lines: Sequence[Mapping[str, Any]], last_step: int = 0) -> None:
        self._steps = [0, *(line["step"] for line in lines)]
        self._epochs = [0, *(line["epoch"] for line in lines)]
        self.end = max(last_step, self._steps[-1])
        self.stages = _stage_starts(lines)

    def epoch(self, step: int) -> float:
        """Epochs done after ``step`` optimizer steps."""
        return round(float(np.interp(step, self._steps, self._epochs)), 2)

    def apply(self, figure: go.Figure) -> None:
        """Makes x the axis of time of ``figure``, shows the epoch of what is under the pointer, marks the stages."""
        figure.add_trace(self._epochs_under_the_pointer(figure))
        figure.update_layout(hovermode="x unified", hoversubplots="axis")
        figure.update_xaxes(
            title={"text": "optimizer steps"},
            range=[0, max(self.end, 1) * 1.01],
            tickformat=",~s",
            unifiedhovertitle={"text": "step %{x:,}"},
        )
        for stage in self.stages[1:]:
            figure.add_shape(
                type="line",
                x0=stage.step,
                x1=stage.step,
                yref="paper",
                y0=0,
                y1=1,
                layer="below",
                line={"color": MUTED, "width": 1, "dash": "dot"},
            )

    def _epochs_under_the_pointer(self, figure: go.Figure) -> go.Scatter:
        """A line that is not seen, on an axis of its own that is not either: the head of a box knows x alone."""
        steps = sorted({step for trace in figure.to_plotly_json()["data"] for step in trace["x"] if step is not None})
        figure["layout"]["yaxis9"] = {"overlaying": "y", "anchor": "x", "visible": False}
        return go.Scatter(
            x=steps,
            y=[self.epoch(step) for step in steps],
            yaxis="y9",
            name="epoch",
            mode="lines",
            line={"color": "rgba(0, 0, 0, 0)"},
            showlegend=False,
            hovertemplate="%{y:.6~g}",
        )

    def stages_in_words(self) -> str:
        """Where each stage begins, as a sentence; empty where there is one alone."""
        if len(self.stages) < 2:
            return ""
        starts = "; ".join(f"{stage.name} from step {stage.step:,}" for stage in self.stages)
        return f" Dotted lines mark the stages: {starts}."


def time_axis(run: RunData) -> TimeAxis:
    """The axis of a run; what it logged of its topology can be newer than its last metrics."""
    return TimeAxis(run.lines, run.log.topology[-1].step if run.log.topology else 0)


def marker_mode(points: int) -> str:
    """How plotly draws a line of so many points."""
    return "lines+markers" if points <= FEW else "lines"


def panel_title(text: str, y: float) -> dict[str, Any]:
    """The name of one of several panels above each other, at its top left; ``y`` in fractions of the plot's height."""
    return {
        "text": f"<b>{plain(text)}</b>",
        "x": 0,
        "xref": "paper",
        "xanchor": "left",
        "y": y,
        "yref": "paper",
        "yanchor": "bottom",
        "yshift": 3,
        "showarrow": False,
    }


def _stage_starts(lines: Sequence[Mapping[str, Any]]) -> list[StageStart]:
    starts: list[StageStart] = []
    done = 0
    for line in lines:
        if not starts or line["stage"] != starts[-1].name:
            starts.append(StageStart(done, str(line["stage"])))
        done = line["step"]
    return starts
