"""What a page is made of: tables, plots, pairs, code and paragraphs in titled sections."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import plotly.graph_objects as go

Cell: TypeAlias = str | float | int | None


@dataclass(frozen=True)
class Table:
    """A table; columns of numbers are aligned to the right, None is shown as a dash.

    Attributes:
        columns: their titles.
        rows: cells in the order of the columns; the first cell names the row.
        caption: what the table is of; its label for those who hear it.
        numbers: the titles of columns of text to align like numbers.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    numbers: Collection[str] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {len(row)} cells in a table of {len(self.columns)} columns: {row!r}")


@dataclass(frozen=True)
class Plot:
    """A figure of plotly with what it says in words.

    Attributes:
        title: its heading.
        figure: without a title of its own. Colours are from ``sparsewright.report.palette`` or left to the page, which
            also sets fonts and margins. A height in its layout, in pixels, is kept; a width is the widest that the plot
            gets, else it is as wide as the page.
        note: one sentence on what is shown.
        table: the same data for those who cannot see the figure; folded away for others.
    """

    title: str
    figure: go.Figure
    note: str
    table: Table | None = None


@dataclass(frozen=True)
class Choice:
    """Several plots of which the reader chooses one.

    Attributes:
        label: of the control.
        options: name -> plot; the first is shown at the start.
    """

    label: str
    options: Mapping[str, Plot]

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError(f"the choice {self.label!r} has no options")


@dataclass(frozen=True)
class Pairs:
    """Names and values."""

    pairs: Mapping[str, str]


@dataclass(frozen=True)
class Code:
    """Text that is shown as it is, such as a recipe.

    Attributes:
        text: the lines.
        label: what it is; its name for those who hear it.
    """

    text: str
    label: str = "code"


@dataclass(frozen=True)
class Paragraph:
    """Some sentences."""

    text: str


Block: TypeAlias = Table | Plot | Choice | Pairs | Code | Paragraph


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: its heading, also in the list of sections.
        blocks: what is in it, in this order.
    """

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


@dataclass(frozen=True)
class KeyFigure:
    """A headline number with words below it.

    Attributes:
        value: such as "97.50 %".
        note: what it is to be seen beside, such as "asked for 97 %".
    """

    value: str
    note: str = ""
