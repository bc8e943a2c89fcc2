"""Checks that the list in docs/results.md, which code hosts show as it is, has a right row for every page."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.pages import Page

PAGE = "docs/results.md"
RESULTS = Path(__file__).resolve().parents[2] / "results"

log = logging.getLogger("mkdocs.hooks.results_list")


def on_page_markdown(markdown: str, *, page: Page, **kwargs: Any) -> None:
    """Warns, which fails a strict build, of every row that the page lacks."""
    if page.file.src_uri == PAGE:
        for row in missing_rows(markdown, RESULTS):
            log.warning("%s has no row: %s", PAGE, row)


def missing_rows(markdown: str, folder: Path) -> list[str]:
    """The rows for pages of a folder beside docs/ that are not in the text."""
    lines = markdown.splitlines()
    return [row for path in sorted(folder.glob("*.md")) if (row := _row(path)) not in lines]


def _row(path: Path) -> str:
    """A row of a Markdown table: title, the same as an interactive page, date."""
    text = path.read_text(encoding="utf-8")
    title = text.partition("\n")[0].removeprefix("# ")
    dates = sorted(set(re.findall(r"[Mm]easured on (\d{4}-\d{2}-\d{2})", text)))
    folder, report = path.parent.name, path.with_suffix(".html")
    interactive = f" ([interactive](../{folder}/{report.name}))" if report.is_file() else ""
    return f"| [{title}](../{folder}/{path.name}){interactive} | {', '.join(dates)} |"
