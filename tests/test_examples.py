"""The examples run as they are written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_train_loop_ends_accurate_and_exactly_sparse() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    script = ROOT / "examples" / "train_loop.py"
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-1]
    found = re.search(r"accuracy ([\d.]+) %, (\d+) of (\d+) weights", last)
    assert found is not None, last
    total = 64 * 300 + 300 * 100 + 100 * 10
    assert int(found[3]) == total
    assert int(found[2]) == total - round((1 - 0.95) * total)
    assert float(found[1]) > 85
