"""What a measurement was made on, in words."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")


def machine() -> str:
    """Processor, number of cores that this process may use, and the best vector instructions of ours among its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name, flags = _processor()
    instructions = next((label for flag, label in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "")
    return ", ".join(part for part in (name, f"{cores} core{'' if cores == 1 else 's'}", instructions) if part)


def _processor() -> tuple[str, list[str]]:
    if not _CPU_INFO.is_file():
        return platform.processor() or platform.machine(), []
    pairs = (line.partition(":") for line in _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines())
    found = {key.strip(): value.strip() for key, _, value in pairs if value}
    return found.get("model name", platform.machine()), found.get("flags", "").split()
