"""Colours of the pages, for both themes.

Figures are written in the colours of the light theme; a page swaps each for its counterpart where it is dark. So a
figure that takes its colours from here, or lets the page choose, is right in both. The series keep apart for people
with each of the three kinds of colour blindness, and from the background by a contrast of at least 3; text by 4.5
(WCAG 2.2, level AA). A test measures both.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Theme:
    """Colours of one theme as #rrggbb.

    Attributes:
        background: of the page and the plots.
        surface: of cards, code and the heads of tables.
        text: of all that is read.
        muted: notes, axes, marks between stages.
        line: thin lines that separate and that are no information.
        accent: links, the focus ring.
        series: lines and marks of a plot, in this order.
        sequential: from little to much.
        diverging: from below through the middle to above.
    """

    background: str
    surface: str
    text: str
    muted: str
    line: str
    accent: str
    series: tuple[str, ...]
    sequential: tuple[str, ...]
    diverging: tuple[str, ...]

    def colours(self) -> list[str]:
        """All of them in the order of the attributes."""
        plain = [self.background, self.surface, self.text, self.muted, self.line, self.accent]
        return [*plain, *self.series, *self.sequential, *self.diverging]


LIGHT = Theme(
    background="#ffffff",
    surface="#f5f6f8",
    text="#1b1f26",
    muted="#5a6472",
    line="#dde1e7",
    accent="#0b57b8",
    series=("#2a82e4", "#a04000", "#125a42", "#de679a", "#a68e2e", "#5b3494"),
    sequential=("#f2f5f9", "#c3d8f0", "#86b4e4", "#4586cc", "#1c5aa0", "#0b2f5e"),
    diverging=("#8f3a00", "#cf7a3d", "#f0c5a0", "#f6f6f6", "#a9cdf0", "#3f87cf", "#0f4b8a"),
)

DARK = Theme(
    background="#14171c",
    surface="#1d2128",
    text="#e7eaef",
    muted="#a3adba",
    line="#343b46",
    accent="#8ec2ff",
    series=("#4d98ee", "#ec7f56", "#4ee6cb", "#c67aac", "#fbd575", "#bfbcf6"),
    sequential=("#20262e", "#1f3c5c", "#27598d", "#3a80c4", "#7fb4e8", "#d8ebff"),
    diverging=("#ff9a5c", "#c46a33", "#6b452f", "#2b3038", "#2f5278", "#4a8fd6", "#9fd0ff"),
)

SERIES = LIGHT.series
MUTED = LIGHT.muted

SEQUENTIAL = [[index / (len(LIGHT.sequential) - 1), colour] for index, colour in enumerate(LIGHT.sequential)]
"""A colour scale of plotly from little to much."""

DIVERGING = [[index / (len(LIGHT.diverging) - 1), colour] for index, colour in enumerate(LIGHT.diverging)]
"""A colour scale of plotly from below through the middle to above."""
