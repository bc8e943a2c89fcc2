"""The demonstration: dense and every method on the embedded digits, by one short recipe.

Each run is a normal run in a folder of its own, with the figures of its last epoch and one seed: enough to see what
the methods do and that they reach what they were asked for, too little to rank them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparsewright.training import Recipe, load_recipe, train
from sparsewright.training.suggestions import nearest

RECIPE = "digits/lenet300"
SPARSITIES = (0.9, 0.98)
EPOCHS = 40
COMMON = (f"duration={EPOCHS}ep",)

METHODS: dict[str, tuple[str, ...]] = {
    "dense": ("method=dense",),
    "static": ("method=static",),
    "set": ("method=set",),
    "snfs": ("method=snfs",),
    "rigl": ("method=rigl",),
    "rigl-itop": ("method=rigl-itop",),
    "gmp": ("method=gmp",),
    "gmp-uniform": ("method=gmp-uniform",),
    "granet": ("method=granet",),
    "granet-uniform": ("method=granet-uniform",),
    "granet-from-sparse": ("method=granet", "method.initial_sparsity=0.5"),
    "rpg": ("method=rpg",),
    "gsm": ("method=gsm",),
    "greg-1": ("method=greg-1",),
    "greg-2": ("method=greg-2",),
    "magnitude": ("method=magnitude",),
}
"""What is run, by the name people choose it by: the overrides of the recipe. All train for the same number of epochs;
by the recipe one-shot magnitude pruning comes in the middle, and GSM and GReg start there, GReg with fine-tuning."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of the demonstration: its name, recipe and target sparsity (None for dense)."""

    name: str
    recipe: Recipe
    sparsity: float | None


@dataclass(frozen=True)
class FinishedRun:
    """One run and what came of it: the content of its ``summary.json``."""

    planned: PlannedRun
    folder: Path
    summary: dict[str, Any]


def plan(methods: Sequence[str] | None = None, sparsities: Sequence[float] | None = None) -> list[PlannedRun]:
    """Dense first, for comparison, then every method at every sparsity.

    Args:
        methods: names of METHODS; None for all.
        sparsities: target sparsities in [0, 1); None for 0.9 and 0.98.

    Raises:
        ValueError: an unknown method or a sparsity that a recipe does not take.
    """
    for name in methods or ():
        if name not in METHODS:
            raise ValueError(f"the demo has no method {name!r}{nearest(name, METHODS)}")
    chosen = [name for name in METHODS if name != "dense" and (not methods or name in methods)]
    runs = [PlannedRun("dense", load_recipe(RECIPE, [*COMMON, *METHODS["dense"]]), None)]
    for sparsity in dict.fromkeys(sparsities or SPARSITIES):
        for name in chosen:
            recipe = load_recipe(RECIPE, [*COMMON, *METHODS[name], f"sparsity={sparsity}"])
            runs.append(PlannedRun(name, recipe, sparsity))
    return runs


def fresh_folder(wanted: Path) -> Path:
    """``wanted``, or with the first free number behind it: an earlier demonstration is neither reused nor changed."""
    folder, number = wanted, 1
    while folder.exists():
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    return folder


def run_all(planned: Sequence[PlannedRun], folder: Path, *, seed: int = 0) -> Iterator[FinishedRun]:
    """Train one after the other on one CPU thread and yield each as it is done."""
    for run in planned:
        out = folder / (run.name if run.sparsity is None else f"{run.name}-{run.sparsity:g}")
        with _one_thread():
            summary = train(run.recipe, out=out, seed=seed, device="cpu", download=False, quiet=True)
        yield FinishedRun(run, out, summary)


@contextmanager
def _one_thread() -> Generator[None, None, None]:
    # Layers this small are done before a second thread wakes up; on a busy machine waiting for it costs tenfold.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
