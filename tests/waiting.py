"""Waiting for what other processes do, and interrupting this one as Ctrl-C would when it has happened."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest


def wait_for(happened: Callable[[], bool], what: str, seconds: float = 300) -> None:
    """Returns when ``happened`` does; fails after ``seconds``, naming ``what`` did not."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)


# For tests of it: an interruption can come between the opening of a file and the statement that would close it.
interrupts = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@contextmanager
def interrupted_when(happened: Callable[[], bool], seconds: float = 300) -> Iterator[None]:
    """Interrupts what runs within, in this thread, when ``happened`` does or after ``seconds``."""
    over = threading.Event()

    def watch() -> None:
        end = time.monotonic() + seconds
        while not over.wait(0.02):
            if happened() or time.monotonic() > end:
                _thread.interrupt_main()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
