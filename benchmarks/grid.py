"""Many short trainings of one recipe: each cell of a grid is a run folder of one process with one thread."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cell:
    """One run: a recipe with settings on top, and a seed.

    Attributes:
        folder: its run folder.
        recipe: name of a recipe.
        settings: ``key=value`` overrides.
        seed: seed of the run.
        weights: run folder whose final weights it starts from; None for fresh ones.
    """

    folder: Path
    recipe: str
    settings: tuple[str, ...]
    seed: int
    weights: Path | None = None


def train_all(cells: Sequence[Cell], data_dir: Path, jobs: int) -> None:
    """Train every cell on the CPU, ``jobs`` at a time, or take it up where it was left; exits on the first failure."""
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda cell: _train(cell, data_dir), cells))


def folder_name(label: str, sparsity: float, seed: int) -> str:
    """A readable folder name for a cell."""
    readable = "".join(character if character.isalnum() or character == "-" else " " for character in label.lower())
    return f"{'-'.join(readable.split())}-{sparsity:g}-seed{seed}"


def _train(cell: Cell, data_dir: Path) -> None:
    command = [sys.executable, "-m", "sparsewright", "train", cell.recipe, *cell.settings]
    command += ["--data-dir", str(data_dir), "--out", str(cell.folder), "--seed", str(cell.seed)]
    command += ["--device", "cpu", "--no-download", "--resume"]
    command += ["--weights", str(cell.weights)] if cell.weights is not None else []
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nfailed:\n{done.stderr}")
