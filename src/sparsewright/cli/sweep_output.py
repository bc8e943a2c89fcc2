"""How a sweep looks: a live table of what is running, and at the end one line for each run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sparsewright.cli import tables
from sparsewright.formats import percent, seconds
from sparsewright.sweep import RunOptions, RunStatus, State, Sweep, Workers, run_sweep, take_stock
from sparsewright.sweep.grid import SEED
from sparsewright.training.folder import only_here
from sparsewright.training.kept_durations import warn_of_kept_durations

_LIVE_COLUMNS = ("run", "state", "epoch", "accuracy", "time left")
_SHOWN_BESIDES_RUNNING = 8


def show_sweep(sweep: Sweep, options: RunOptions, make_workers: Callable[[], Workers]) -> bool:
    """Carries the sweep out, and tells how it goes and what came of it; whether every run is done.

    Raises:
        RunFolderError: another sweep is running in the folder, or a run there has other settings.
        KeyboardInterrupt: the sweep was interrupted, and its runs have stopped.
    """
    for cell in sweep.cells:
        warn_of_kept_durations(cell.recipe, cell.overrides)
    with only_here(sweep.root):
        statuses = take_stock(sweep.cells, options)
        _announce(sweep, statuses)
        if any(status.state != State.DONE for status in statuses):
            _carry_out(statuses, make_workers())
    _print_results(sweep, statuses)
    return all(status.state == State.DONE for status in statuses)


def _carry_out(statuses: Sequence[RunStatus], workers: Workers) -> None:
    try:
        with _observer() as observe:
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


@contextmanager
def _observer() -> Iterator[Callable[[Sequence[RunStatus]], None]]:
    """A live table on a terminal, else a line for each run that starts or ends."""
    console = Console()
    if not console.is_terminal:
        yield _Lines()
        return
    view = _Table(console)
    with Live(console=console, refresh_per_second=4, get_renderable=view.render):
        yield view


class _Lines:
    """Plain lines, for files and pipes."""

    def __init__(self) -> None:
        self._before: dict[str, State] = {}
        self._pace = _Pace()

    def __call__(self, statuses: Sequence[RunStatus]) -> None:
        self._pace.look(statuses)
        for status in statuses:
            if self._before.setdefault(status.cell.label, status.state) != status.state:
                self._before[status.cell.label] = status.state
                print(self._line(status, statuses), flush=True)

    def _line(self, status: RunStatus, statuses: Sequence[RunStatus]) -> str:
        over = sum(other.state in (State.DONE, State.FAILED) for other in statuses)
        parts = [f"[{over}/{len(statuses)}]", status.state.value, status.cell.label]
        if status.state == State.DONE and status.accuracy is not None:
            parts.append(f"accuracy {status.accuracy:.2f} %")
        if status.problem is not None:
            parts.append(status.problem)
        left = self._pace.seconds_left(statuses)
        if left:
            parts.append(f"(about {seconds(left)} left)")
        return "  ".join(parts)


class _Table:
    """The runs at hand with the last ones that ended, as many as fit, and how many there are of each state."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._statuses: Sequence[RunStatus] = ()
        self._ended: dict[str, RunStatus] = {}
        self._pace = _Pace()

    def __call__(self, statuses: Sequence[RunStatus]) -> None:
        self._statuses = statuses
        self._pace.look(statuses)
        for status in statuses:
            if status.state in (State.DONE, State.FAILED) and not status.reused:
                self._ended.setdefault(status.cell.digest, status)

    def render(self) -> Group:
        """The table as it is now."""
        now = time.monotonic()
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for column in _LIVE_COLUMNS:
            table.add_column(column, justify="left" if column in ("run", "state") else "right", no_wrap=True)
        room = max(min(self._console.height - 6, 200), 1)
        active = [status for status in self._statuses if status.state in (State.RUNNING, State.ELSEWHERE)][:room]
        past = list(reversed(self._ended.values()))[: min(_SHOWN_BESIDES_RUNNING, room - len(active))]
        for status in [*reversed(past), *active]:
            table.add_row(*(Text(cell) for cell in _live_cells(status, now)))
        return Group(table, Text(), Text(self._counts()))

    def _counts(self) -> str:
        counts = {state: sum(status.state == state for status in self._statuses) for state in State}
        parts = [f"{count} {state.value}" for state, count in counts.items() if count]
        left = self._pace.seconds_left(self._statuses)
        return ", ".join(parts) + (f"; about {seconds(left)} left" if left else "")


class _Pace:
    """How fast all runs together get on, for the time that is left."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._left_at_start: int | None = None

    def look(self, statuses: Sequence[RunStatus]) -> None:
        """Takes the first look as the start."""
        if self._left_at_start is None:
            self._left_at_start = sum(status.steps_left for status in statuses)

    def seconds_left(self, statuses: Sequence[RunStatus]) -> float | None:
        """At the pace since the start; None before any step is known of."""
        left = sum(status.steps_left for status in statuses)
        done = (self._left_at_start or 0) - left
        return (time.monotonic() - self._start) / done * left if done > 0 else None


def _live_cells(status: RunStatus, now: float) -> list[str]:
    left = status.seconds_left(now)
    epochs = f"{status.epoch}/{status.length.epochs}" if status.length is not None else str(status.epoch)
    accuracy = "" if status.accuracy is None else f"{status.accuracy:.2f} %"
    return [status.cell.label, status.state.value, epochs, accuracy, "" if left is None else seconds(left)]


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
