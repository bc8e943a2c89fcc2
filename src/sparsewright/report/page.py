"""A page of HTML in one file: it needs no network, no other file and, but for its plots, no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from sparsewright.files import write_text
from sparsewright.report.blocks import (
    Block,
    Cell,
    Choice,
    Code,
    KeyFigure,
    Pairs,
    Paragraph,
    Plot,
    Section,
    Table,
)
from sparsewright.report.palette import DARK, LIGHT
from sparsewright.report.plot_data import figure_data, packed_plotly

__all__ = [
    "Block",
    "Cell",
    "Choice",
    "Code",
    "KeyFigure",
    "Pairs",
    "Paragraph",
    "Plot",
    "Section",
    "Table",
    "write_page",
]

DEFAULT_HEIGHT = 360
"""Of a plot, in pixels."""

MOST_DECIMALS, _TINY = 4, 1e-3
"""In a column of a table, and the number below which so many say little."""

NO_BREAK = "\N{NO-BREAK SPACE}"

MISSING = "–"  # noqa: RUF001 - a dash, as in print


def write_page(
    file: Path,
    title: str,
    sections: Sequence[Section],
    *,
    subtitle: str = "",
    headline: Mapping[str, str | KeyFigure] | None = None,
) -> None:
    """Writes a page, whole or not at all.

    Args:
        file: where; a file that is there is replaced.
        title: of the page.
        sections: what is on it. All text is escaped.
        subtitle: one line below the title.
        headline: the numbers that matter most, by what they are.

    Raises:
        SaveError: writing failed.
        ValueError: a block is of no kind that a page shows.
    """
    figures = {
        name: value if isinstance(value, KeyFigure) else KeyFigure(value) for name, value in (headline or {}).items()
    }
    text = (
        _templates()
        .get_template("page.html.jinja")
        .render(title=title, subtitle=subtitle, headline=figures, sections=sections, packed_plotly=_packed(sections))
    )
    write_text(file, text)


def format_cell(cell: Cell) -> str:
    """A cell as people read it: whole numbers with separators, others with four digits that count."""
    if cell is None:
        return MISSING
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:,.0f}" if 10_000 <= abs(cell) < 1e15 else f"{cell:.4g}"


def format_column(cells: Sequence[Cell]) -> list[str]:
    """The cells of a column as people read them: numbers that are not whole with the same decimals, as many as one of
    them needs, MOST_DECIMALS at most; where that would leave little of one, each has its own.
    """
    texts = [format_cell(cell) for cell in cells]
    numbers = [cell for cell in cells if isinstance(cell, float)]
    shown = [format_cell(number) for number in numbers]
    decimals = max((len(text.partition(".")[2]) for text in shown), default=0)
    tiny = decimals > MOST_DECIMALS and min(filter(None, map(abs, numbers)), default=1) < _TINY
    if not decimals or tiny or any("e" in text for text in shown):
        return texts
    form = f",.{min(decimals, MOST_DECIMALS)}f"
    return [format(cell, form) if isinstance(cell, float) else text for text, cell in zip(texts, cells, strict=True)]


def _text_rows(table: Table) -> list[tuple[str, ...]]:
    columns = [format_column([row[index] for row in table.rows]) for index in range(len(table.columns))]
    shown = [map(_foldable, texts) if _is_numeric(table, index) else texts for index, texts in enumerate(columns)]
    return list(zip(*shown, strict=True))


def _foldable(number: str) -> str:
    """With a plain space before a bracket alone, so that a narrow column puts the bracket on a second line."""
    return number.replace(" ", NO_BREAK).replace(f"{NO_BREAK}(", " (")


def _is_numeric(table: Table, column: int) -> bool:
    cells = [row[column] for row in table.rows if row[column] is not None]
    return table.columns[column] in table.numbers or (bool(cells) and not any(isinstance(cell, str) for cell in cells))


def _kind(block: Block) -> str:
    if not isinstance(block, Block):
        raise ValueError(f"a page shows no {type(block).__name__}")
    return type(block).__name__


def _packed(sections: Sequence[Section]) -> str:
    """plotly for pages that have plots."""
    has_plots = any(isinstance(block, (Plot, Choice)) for section in sections for block in section.blocks)
    return packed_plotly() if has_plots else ""


def _script_json(text: str) -> Markup:
    """JSON that can stand in a script element: no tag can begin in it."""
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _drawn(plot: Plot) -> dict[str, str]:
    """The figure as JSON, and the size of its element in CSS, so that nothing moves when it is drawn."""
    data = figure_data(plot.figure)
    widest = "" if data.width is None else f"; max-width: {data.width}px"
    return {"json": _script_json(data.json), "size": f"height: {data.height or DEFAULT_HEIGHT}px{widest}"}


def _card_columns(cards: int) -> int:
    """How many of some cards stand side by side, so that the last line is not nearly empty."""
    return next((columns for columns in (4, 3) if cards % columns in (0, columns - 1)), min(cards, 3))


@lru_cache(maxsize=1)
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sparsewright.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(text_rows=_text_rows, kind=_kind, drawn=_drawn, card_columns=_card_columns)
    environment.tests["numeric_in"] = lambda column, table: _is_numeric(table, column)
    themes: dict[str, Any] = {"light": asdict(LIGHT), "dark": asdict(DARK)}
    swaps = dict(zip(LIGHT.colours(), DARK.colours(), strict=True))
    environment.globals.update(themes=themes, swaps=swaps, version=metadata.version("sparsewright"))
    return environment
