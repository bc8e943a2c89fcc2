"""Independent pieces of work, one after the other or in several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


def run_all(work: Callable[[_Job], _Result], jobs: Sequence[_Job], processes: int) -> Iterator[_Result]:
    """The results of ``work`` for each job, as they are ready.

    With more than one process, ``work`` and the jobs must be picklable. The processes end when the caller stops early,
    fails, is interrupted or is killed.

    Raises:
        Exception: what ``work`` raised first; jobs that have not begun are given up.
        RuntimeError: a process was ended from outside.
    """
    if processes == 1 or len(jobs) < 2:
        yield from map(work, jobs)
        return
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context, initializer=_follow_parent)
    others = set(multiprocessing.active_children())
    try:
        for future in as_completed([executor.submit(work, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a process of this work was ended from outside, which is how a system without memory left does it; what "
            "was finished is kept, and fewer processes at a time need less memory"
        ) from error
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Ends this process as soon as its parent is gone, and on Ctrl-C, which the parent answers, without a traceback."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
