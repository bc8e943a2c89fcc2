"""The page that shows runs beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparsewright.formats import percent
from sparsewright.report.comparison import Comparison, Group, compare_runs
from sparsewright.report.comparison_plots import comparison_plots
from sparsewright.report.comparison_table import (
    TextTable,
    accuracy_matrix,
    comparison_remarks,
    comparison_table,
    dense_sentences,
    row_name,
    spread,
)
from sparsewright.report.page import Block, KeyFigure, Paragraph, Section, Table, write_page
from sparsewright.training.method_options import DENSE

NEAR_DENSE = 1.0
"""Percentage points below the dense network that count as nearly as accurate."""


def write_comparison(folders: Sequence[Path], file: Path) -> Path:
    """Compares finished runs and writes the page about it.

    Args:
        folders: run folders, or folders of them.
        file: where the page goes; a file that is there is replaced.

    Returns:
        ``file``.

    Raises:
        FileNotFoundError: a folder is not there.
        ValueError: a path is no folder or holds no run, no run is finished, or the runs were evaluated on different
            images.
        SaveError: the page could not be written; a former one is intact.
    """
    write_comparison_page(compare_runs(folders), file)
    return file


def write_comparison_page(comparison: Comparison, file: Path) -> None:
    """Writes the page about a comparison; raises SaveError."""
    sections = [
        Section("Accuracy and cost", comparison_plots(comparison) or [Paragraph("Every network is dense.")]),
        *_matrix_sections(comparison),
        Section("Results", _result_blocks(comparison)),
        Section("Runs", [_runs_table(comparison)]),
    ]
    recipes = dict.fromkeys(group.recipe for group in comparison.groups)
    settings = f" · all with {comparison.settings_text}" if comparison.settings else ""
    subtitle = (
        f"{comparison.images}{settings} · accuracy of the last epoch, mean and sample standard deviation over seeds"
    )
    write_page(
        file, f"Comparison: {', '.join(recipes)}", sections, subtitle=subtitle, headline=_key_figures(comparison)
    )


def _matrix_sections(comparison: Comparison) -> list[Section]:
    matrix = accuracy_matrix(comparison)
    if matrix is None:
        return []
    dense = [Paragraph(sentence) for sentence in dense_sentences(comparison)]
    return [Section("Methods", [*dense, _as_block(matrix, "Accuracy in % by method and what was asked for")])]


def _result_blocks(comparison: Comparison) -> list[Block]:
    table = _as_block(comparison_table(comparison), "All groups of runs")
    return [table, *(Paragraph(remark) for remark in comparison_remarks(comparison))]


def _as_block(table: TextTable, caption: str) -> Table:
    return Table(table.columns, table.rows, caption, table.numbers)


def _runs_table(comparison: Comparison) -> Table:
    several = len({group.recipe for group in comparison.groups}) > 1
    rows = [
        [
            row_name(group, several),
            group.target_text,
            run.seed,
            f"{run.summary['test_accuracy']:.2f}",
            percent(run.summary["sparsity"]),
            run.kept_parameters,
            str(run.folder),
        ]
        for group in comparison.groups
        for run in group.runs
    ]
    columns = ["method", "asked for", "seed", "accuracy, %", "sparsity", "parameters left", "folder"]
    return Table(columns, rows, "Every run", numbers=["asked for", "accuracy, %", "sparsity"])


def _key_figures(comparison: Comparison) -> dict[str, KeyFigure]:
    groups = comparison.groups
    figures = {"Runs": KeyFigure(str(sum(len(group.runs) for group in groups)), f"in {len(groups)} groups")}
    sparse = [group for group in groups if group.method != DENSE]
    dense = [group for group in groups if group.method == DENSE]
    if len(dense) == 1:
        figures["Dense"] = KeyFigure(f"{spread(dense[0].accuracy)} %", "accuracy")
    if sparse:
        best = max(sparse, key=lambda group: group.accuracy.mean)
        figures["Most accurate sparse"] = KeyFigure(f"{spread(best.accuracy)} %", _named(best))
    near = [group for group in sparse if len(dense) == 1 and _is_near(dense[0], group)]
    if near:
        smallest = min(near, key=lambda group: (group.kept_share, -group.accuracy.mean))
        figures[f"Smallest within {NEAR_DENSE:g} point of dense"] = KeyFigure(
            f"{100 * smallest.kept_share:.3g} %", f"of the parameters: {_named(smallest)}"
        )
    return figures


def _is_near(dense: Group, group: Group) -> bool:
    return group.network == dense.network and dense.accuracy.mean - group.accuracy.mean <= NEAR_DENSE


def _named(group: Group) -> str:
    return f"{group.name}, asked for {group.target_text}" if group.target_text else group.name
