"""How the demonstration looks: one progress bar, one table, and what to try next."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sparsewright.cli.report_output import comparison_beside, report_beside
from sparsewright.cli.tables import console, print_table
from sparsewright.demo import EPOCHS, RECIPE, FinishedRun, PlannedRun, fresh_folder, plan, run_all
from sparsewright.formats import percent, seconds

COMPARISON = "comparison.html"
"""The page in the folder of the demonstration that shows all of its runs beside each other."""


def show_demo(
    out: Path, *, methods: Sequence[str] | None = None, sparsities: Sequence[float] | None = None, seed: int = 0
) -> list[FinishedRun]:
    """Run the demonstration into ``out``, or a numbered folder beside it if that exists, and print its table."""
    planned = plan(methods, sparsities)
    folder = fresh_folder(out)
    if folder != out:
        print(f"{out} holds an earlier demo; this one goes into {folder}")
    start = time.monotonic()
    finished, reports = _run_with_bar(planned, folder, seed)
    _print_results(finished)
    console().print(
        f"\n{len(finished)} runs of {RECIPE}, {EPOCHS} epochs each, in {seconds(time.monotonic() - start)}. "
        f"Accuracy is on the test images after the last epoch, with one seed ({seed}): a look at the methods, "
        "not a ranking. FLOPs are relative to dense, as the RigL paper counts them.\n",
        markup=False,
    )
    _print_pages(reports, comparison_beside([run.folder for run in finished], folder / COMPARISON))
    _print_next(finished, folder)
    return finished


def _run_with_bar(planned: Sequence[PlannedRun], folder: Path, seed: int) -> tuple[list[FinishedRun], list[Path]]:
    """The runs, and the reports that could be written."""
    finished: list[FinishedRun] = []
    reports: list[Path] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console()) as progress:
        task = progress.add_task(_label(planned[0]), total=len(planned))
        for run in run_all(planned, folder, seed=seed):
            finished.append(run)
            if report := report_beside(run.folder):
                reports.append(report)
            following = planned[len(finished)] if len(finished) < len(planned) else None
            progress.update(task, advance=1, description=_label(following) if following else "done")
    return finished, reports


def _print_results(finished: Sequence[FinishedRun]) -> None:
    columns = ["method", "sparsity", "accuracy", "inference FLOPs", "training FLOPs"]
    rows: list[list[str]] = []
    former = None
    for run in finished:
        if run.planned.sparsity != former:
            rows.append([""] * len(columns))
            former = run.planned.sparsity
        rows.append(_cells(run))
    print_table(columns, rows, right=columns[1:])


def _cells(run: FinishedRun) -> list[str]:
    summary = run.summary
    return [
        run.planned.name,
        percent(summary["sparsity"]),
        f"{summary['test_accuracy']:.2f} %",
        percent(summary["inference_flops_sparse"] / summary["inference_flops_dense"]),
        percent(summary["training_flops_sparse"] / summary["training_flops_dense"]),
    ]


def _print_pages(reports: Sequence[Path], comparison: Path | None) -> None:
    pages = [] if comparison is None else [f"all runs beside each other: {comparison}"]
    if reports:
        pages.append(f"each run by itself: {reports[-1]} and the like")
    if pages:
        print("Pages to open in a browser:")
    for page in pages:
        print(f"  {page}")


def _print_next(finished: Sequence[FinishedRun], folder: Path) -> None:
    shown = next((run for run in reversed(finished) if run.planned.name == "granet"), finished[-1])
    print(f"The runs are in {folder}. Try next:")
    for command in (
        f"sparsewright inspect {shown.folder}",
        f"sparsewright log {folder}/*",
        f"sparsewright train {RECIPE} method=granet sparsity=0.95",
        "sparsewright train mnist/lenet300 method=granet sparsity=0.98   (downloads MNIST)",
    ):
        print(f"  {command}")


def _label(run: PlannedRun) -> str:
    return f"{run.name:<18} {'':>5}" if run.sparsity is None else f"{run.name:<18} {100 * run.sparsity:>4g}%"
