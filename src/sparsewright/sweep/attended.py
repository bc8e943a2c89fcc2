"""``python -m sparsewright.sweep.attended ARGUMENTS``: the command line while the process that started it lives.

Standard input is a pipe whose other end that process holds. When it ends, however it does, the pipe closes, and the
command is interrupted as by Ctrl-C: nothing trains on unseen. Closing the pipe is also the way to ask it to stop.
"""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time

# Here, so that no interruption falls into its import.
from sparsewright.__main__ import main as command_line

STANDARD_INPUT = 0
PATIENCE_SECONDS = 30.0
"""For an interruption that waits for a long operation outside Python, before the process is ended at once."""


def main() -> None:
    """Watches standard input beside the command line."""
    # A shell that starts a job in the background lets it ignore interruptions, and its children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_interrupt_when_alone, daemon=True).start()
    command_line()


def _interrupt_when_alone() -> None:
    # Not through sys.stdin, whose lock would still be held when the interpreter ends.
    while os.read(STANDARD_INPUT, 1024):
        pass
    _thread.interrupt_main()
    time.sleep(PATIENCE_SECONDS)
    os._exit(130)


if __name__ == "__main__":
    main()
