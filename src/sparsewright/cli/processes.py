"""Which of several training processes speaks."""

from __future__ import annotations

import os


def is_first_process() -> bool:
    """Whether this process may print: under torchrun the first of all, else the only one."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"
