"""How the progress of a sweep is told: a table that is drawn again on a terminal, or a line for each change."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sparsewright.formats import seconds
from sparsewright.sweep import RunStatus, State, Sweep

_LIVE_WIDTHS = {"state": 9, "epoch": 7, "accuracy": 8, "time left": 11}
_SHOWN_BESIDES_RUNNING = 8


@contextmanager
def told_progress(sweep: Sweep) -> Iterator[Callable[[Sequence[RunStatus]], None]]:
    """A live table on a terminal, else a line for each run that starts or ends."""
    console = Console()
    if not console.is_terminal:
        yield ProgressLines(sweep)
        return
    view = ProgressTable(sweep, console)
    with Live(console=console, refresh_per_second=4, get_renderable=view.render):
        yield view


class ProgressLines:
    """Plain lines, for files and pipes."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._before: dict[str, State] = {}
        self._pace = _Pace()

    def __call__(self, statuses: Sequence[RunStatus]) -> None:
        self._pace.look(statuses)
        for status in statuses:
            if self._before.setdefault(status.cell.digest, status.state) != status.state:
                self._before[status.cell.digest] = status.state
                print(self._line(status, statuses), flush=True)

    def _line(self, status: RunStatus, statuses: Sequence[RunStatus]) -> str:
        over = sum(other.state in (State.DONE, State.FAILED) for other in statuses)
        parts = [f"[{over}/{len(statuses)}]", status.state.value, self._sweep.name_of(status.cell)]
        if status.state == State.DONE and status.accuracy is not None:
            parts.append(f"accuracy {status.accuracy:.2f} %")
        if status.problem is not None:
            parts.append(status.problem)
        left = self._pace.seconds_left(statuses)
        if left:
            parts.append(f"(about {seconds(left)} left)")
        return "  ".join(parts)


class ProgressTable:
    """The runs at hand with the last ones that ended, as many as fit, and how many there are of each state."""

    def __init__(self, sweep: Sweep, console: Console) -> None:
        self._sweep = sweep
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
        for column, width in _LIVE_WIDTHS.items():
            table.add_column(column, justify="left" if column == "state" else "right", no_wrap=True, min_width=width)
        table.add_column("run", overflow="fold")
        room = max(min(self._console.height - 6, 200), 1)
        active = [status for status in self._statuses if status.state in (State.RUNNING, State.ELSEWHERE)][:room]
        past = list(reversed(self._ended.values()))[: min(_SHOWN_BESIDES_RUNNING, room - len(active))]
        for status in [*reversed(past), *active]:
            table.add_row(*(Text(cell) for cell in (*_live_cells(status, now), self._sweep.name_of(status.cell))))
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
    return [status.state.value, epochs, accuracy, "" if left is None else seconds(left)]
