"""Carrying a sweep out: what is missing is started as there is room for it, and nothing stops the others."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from sparsewright.sweep.plan import Cell
from sparsewright.sweep.status import RunStatus, State, is_elsewhere

POLL_SECONDS = 0.2
REFRESH_SECONDS = 1.0


class Workers(Protocol):
    """Where runs are carried out."""

    def has_room(self) -> bool:
        """Whether another run may be started now."""
        ...

    def start(self, cell: Cell) -> None:
        """Starts a run, or has it started as soon as it can be."""
        ...

    def begun(self) -> list[Cell]:
        """The runs that are really running since the last call."""
        ...

    def ended(self) -> list[tuple[Cell, str | None]]:
        """The runs that have ended since the last call, each with what went wrong (None: nothing)."""
        ...

    def stop(self) -> None:
        """Stops all that is running; each has saved its last finished epoch."""
        ...


Observer = Callable[[Sequence[RunStatus]], None]


def run_sweep(statuses: Sequence[RunStatus], workers: Workers, observe: Observer) -> None:
    """Carries out every run that is not done, in their order; their statuses say what came of them.

    A run whose folder another process is training in is put off until that one ends.

    Args:
        statuses: from ``take_stock``.
        workers: where runs are carried out; stopped however this ends.
        observe: called with ``statuses`` about once a second, and whenever a run starts or ends.
    """
    by_digest = {status.cell.digest: status for status in statuses}
    handed_over: set[str] = set()
    try:
        observe(statuses)
        next_refresh = 0.0
        while any(status.state in (State.WAITING, State.RUNNING, State.ELSEWHERE) for status in statuses):
            _start_what_fits(statuses, workers, handed_over)
            begun, ended = workers.begun(), workers.ended()
            for cell in begun:
                by_digest[cell.digest].begin(time.monotonic())
            for cell, problem in ended:
                by_digest[cell.digest].end(problem)
            changed = bool(begun or ended)
            now = time.monotonic()
            if changed or now >= next_refresh:
                next_refresh = now + REFRESH_SECONDS
                for status in statuses:
                    if status.state in (State.RUNNING, State.ELSEWHERE):
                        status.refresh()
                observe(statuses)
            time.sleep(POLL_SECONDS)
    finally:
        workers.stop()


def _start_what_fits(statuses: Sequence[RunStatus], workers: Workers, handed_over: set[str]) -> None:
    """Hands runs over as long as there is room."""
    for status in statuses:
        if status.state not in (State.WAITING, State.ELSEWHERE) or status.cell.digest in handed_over:
            continue
        if not workers.has_room():
            break
        if is_elsewhere(status.cell.folder):
            status.state = State.ELSEWHERE
            continue
        handed_over.add(status.cell.digest)
        try:
            workers.start(status.cell)
        except OSError as error:
            # A folder that cannot be made, or no process more: the other runs may still do.
            status.end(f"it could not be started: {error}")
