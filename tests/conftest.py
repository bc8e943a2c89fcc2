"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from filelock import FileLock

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_configure(config: pytest.Config) -> None:
    # What a shell starts in the background ignores Ctrl-C, and so would the processes that tests interrupt.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Files with slow tests first, so that no process is left alone with one of them at the end.
    slow = {item.path for item in items if "slow" in item.keywords}
    items.sort(key=lambda item: item.path not in slow)
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the numerical traces of the original implementations."""
    folder = Path(os.environ.get("SPARSEWRIGHT_GOLDEN", SHARED / "golden"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"golden traces are not at {folder} (set SPARSEWRIGHT_GOLDEN)")
    return folder


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Real data sets in torchvision's layout: from SPARSEWRIGHT_DATA, or unpacked once from the shared folder."""
    ready = os.environ.get("SPARSEWRIGHT_DATA")
    if ready:
        return Path(ready)
    script = SHARED / "data" / "unpack.py"
    if not script.is_file():
        pytest.skip(f"shared data sets are not at {script.parent} (set SPARSEWRIGHT_DATA to an unpacked folder)")
    # Each worker has a folder of its own in one that all of them share.
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "data"
    with FileLock(f"{folder}.lock"):
        if not (folder / "unpacked").exists():
            subprocess.run([sys.executable, str(script), str(folder)], check=True)
            (folder / "unpacked").touch()
    return folder
