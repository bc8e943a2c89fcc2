"""``sparsewright sweep``: carries a sweep out, and at the end prints one line for each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import typer

from sparsewright.cli import tables
from sparsewright.cli.sweep_progress import told_progress
from sparsewright.formats import percent, seconds
from sparsewright.sweep import RunOptions, RunStatus, State, Sweep, Workers, run_sweep, take_stock
from sparsewright.sweep.grid import SEED
from sparsewright.sweep.records import check_root
from sparsewright.training.folder import only_here
from sparsewright.training.kept_durations import warn_of_kept_durations


def show_sweep(sweep: Sweep, options: RunOptions, make_workers: Callable[[], Workers]) -> bool:
    """Carries the sweep out, and tells how it goes and what came of it; whether every run is done.

    Raises:
        RunFolderError: another sweep is running in the folder, the folder is of something else, or a run there has
            another device or precision.
        KeyboardInterrupt: the sweep was interrupted, and its runs have stopped.
    """
    check_root(sweep)
    for cell in sweep.cells:
        warn_of_kept_durations(cell.recipe, cell.overrides)
    with only_here(sweep.root):
        statuses = take_stock(sweep.cells, options)
        _announce(sweep, statuses)
        if any(status.state != State.DONE for status in statuses):
            _carry_out(sweep, statuses, make_workers())
    _print_results(sweep, statuses)
    return all(status.state == State.DONE for status in statuses)


def _carry_out(sweep: Sweep, statuses: Sequence[RunStatus], workers: Workers) -> None:
    try:
        with told_progress(sweep) as observe:
            run_sweep(statuses, workers, observe)
    except KeyboardInterrupt:
        left = sum(status.state != State.DONE for status in statuses)
        typer.echo(f"{left} of {len(statuses)} runs are not done; the same command goes on with them", err=True)
        raise


def _announce(sweep: Sweep, statuses: Sequence[RunStatus]) -> None:
    done = sum(status.reused for status in statuses)
    begun = sum(status.step > 0 and not status.reused for status in statuses)
    there = f", {done} of them done already" if done else ""
    there += f", {begun} begun" if begun else ""
    print(
        f"{len(statuses)} {'run' if len(statuses) == 1 else 'runs'} of {sweep.recipe} in {sweep.root}{there}",
        flush=True,
    )
    if sweep.same:
        print(f"{len(sweep.same)} more combinations are the same runs, such as {sweep.same[0]}", flush=True)


def _print_results(sweep: Sweep, statuses: Sequence[RunStatus]) -> None:
    varied = sweep.varied or (SEED,)
    columns = [*varied, "state", "accuracy", "sparsity", "trained for", "folder"]
    print()
    rows = [[*_varied_cells(status, varied), *_result_cells(status)] for status in statuses]
    tables.print_table(columns, rows, right=[*varied, "accuracy", "sparsity", "trained for"])
    failed = [status for status in statuses if status.state == State.FAILED]
    if failed:
        print(f"\n{len(failed)} of {len(statuses)} runs failed; the same command tries them again:")
        for status in failed:
            print(f"  {status.cell.folder}: {status.problem}")
    else:
        print(f"\nNext: sparsewright compare {sweep.root}")


def _varied_cells(status: RunStatus, varied: Sequence[str]) -> list[str]:
    return [str(status.cell.seed) if key == SEED else status.cell.settings.get(key, "") for key in varied]


def _result_cells(status: RunStatus) -> list[str]:
    summary = status.summary or {}
    state = "done before" if status.reused else status.state.value
    return [
        state,
        "" if status.accuracy is None else f"{status.accuracy:.2f} %",
        percent(summary["sparsity"]) if summary else "",
        seconds(summary["train_seconds"]) if summary else "",
        str(status.cell.folder),
    ]
