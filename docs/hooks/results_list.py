"""Lists the pages of results/ where a page has the marker."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

MARKER = "<!-- list of results -->"
RESULTS = Path(__file__).resolve().parents[2] / "results"


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Puts the table of results in place of the marker."""
    return markdown.replace(MARKER, results_table(RESULTS)) if MARKER in markdown else markdown


def results_table(folder: Path) -> str:
    """A Markdown table of the pages in a folder beside docs/: title, the same as an interactive page, date."""
    rows = [_row(path) for path in sorted(folder.glob("*.md"))]
    return "\n".join(["| page | measured on |", "|---|---|", *rows])


def _row(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    title = text.partition("\n")[0].removeprefix("# ")
    dates = sorted(set(re.findall(r"[Mm]easured on (\d{4}-\d{2}-\d{2})", text)))
    folder, report = path.parent.name, path.with_suffix(".html")
    interactive = f" ([interactive](../{folder}/{report.name}))" if report.is_file() else ""
    return f"| [{title}](../{folder}/{path.name}){interactive} | {', '.join(dates)} |"
