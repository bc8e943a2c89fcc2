"""``sparsewright compare``: the formats it writes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import typer
from rich.text import Text

from sparsewright.cli import tables
from sparsewright.cli.destinations import check_destination
from sparsewright.files import write_text
from sparsewright.report.comparison import Comparison, compare_runs
from sparsewright.report.comparison_table import (
    TextTable,
    accuracy_matrix,
    comparison_records,
    comparison_remarks,
    comparison_table,
    dense_sentences,
    left_out_sentences,
)
from sparsewright.report.run_facts import counted

_SUFFIXES = {"table": (".txt",), "markdown": (".md",), "csv": (".csv",), "html": (".html",)}


def show_comparison(runs: Sequence[Path], chosen: str | None, out: Path | None, *, force: bool) -> None:
    """Compares ``runs`` and prints or writes it.

    Args:
        runs: run folders, or folders of them.
        chosen: "table", "markdown", "csv" or "html"; None for what the suffix of ``out`` means, else a table.
        out: the file to write; None for the terminal, or comparison.html.
        force: whether a file that is there is replaced.

    Raises:
        ValueError, FileNotFoundError, FileExistsError, IsADirectoryError: runs that cannot be compared, a file that
            cannot be written, or ``force`` without a file.
    """
    kind = chosen or _kind_of(out)
    if kind == "html" and out is None:
        out = Path("comparison.html")
    if force and out is None:
        raise ValueError("--force is for a file, and none is written here; give one with --out")
    file = check_destination(out, _SUFFIXES[kind], force=force) if out is not None else None
    comparison = compare_runs(runs)
    if kind == "html" and file is not None:
        from sparsewright.report.comparison_page import write_comparison_page

        write_comparison_page(comparison, file)
    elif file is not None:
        write_text(file, _as_text(comparison, kind))
    else:
        print(_as_text(comparison, kind), end="")
    if file is not None:
        print(f"comparison {file}")
    if kind in ("csv", "html"):
        for remark in (*comparison.notes, *left_out_sentences(comparison)):
            typer.echo(remark, err=True)


def _kind_of(out: Path | None) -> str:
    if out is None:
        return "table"
    for kind, suffixes in _SUFFIXES.items():
        if out.suffix.lower() in suffixes:
            return kind
    known = ", ".join(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
    raise ValueError(f"--out {out} must end in one of {known}, or say what to write with --format")


def _as_text(comparison: Comparison, kind: str) -> str:
    """The whole content of a file."""
    if kind == "csv":
        return _csv(comparison)
    if kind == "markdown":
        return "\n\n".join(_markdown_parts(comparison)) + "\n"
    text = io.StringIO()
    with redirect_stdout(text):
        _print_tables(comparison)
    # Rich writes colours where FORCE_COLOR is set, even into a file.
    return f"{Text.from_ansi(text.getvalue()).plain}\n"


def _print_tables(comparison: Comparison) -> None:
    matrix = accuracy_matrix(comparison)
    print(_heading(comparison))
    if matrix is not None:
        print()
        for sentence in dense_sentences(comparison):
            print(sentence)
        _print_table(matrix)
    print()
    _print_table(comparison_table(comparison))
    print()
    for remark in comparison_remarks(comparison):
        print(remark)


def _print_table(table: TextTable) -> None:
    tables.print_table(table.columns, table.rows, right=table.numbers)


def _markdown_parts(comparison: Comparison) -> list[str]:
    matrix = accuracy_matrix(comparison)
    parts = [_heading(comparison)]
    if matrix is not None:
        parts += [*dense_sentences(comparison), _markdown_table(matrix)]
    parts.append(_markdown_table(comparison_table(comparison)))
    return [*parts, "\n".join(f"- {remark}" for remark in comparison_remarks(comparison))]


def _markdown_table(table: TextTable) -> str:
    rule = ["---:" if column in table.numbers else "---" for column in table.columns]
    rows = [[cell.replace("|", "\\|") for cell in row] for row in (table.columns, rule, *table.rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _csv(comparison: Comparison) -> str:
    records = comparison_records(comparison)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _heading(comparison: Comparison) -> str:
    recipes = dict.fromkeys(group.recipe for group in comparison.groups)
    runs = sum(len(group.runs) for group in comparison.groups)
    settings = f" with {comparison.settings_text}" if comparison.settings else ""
    return (
        f"{counted(runs, 'run')} of {', '.join(recipes)}{settings} on {comparison.images}: accuracy of the last epoch, "
        "mean and sample standard deviation over seeds, in per cent."
    )
