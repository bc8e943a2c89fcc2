"""Run folders to compare: a few that were really trained, and ways to make others of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from sparsewright.training import load_recipe, train

RECIPE = "digits/lenet300"
SETTINGS = ("duration=2ep", "method_defaults.update_interval=4")


def train_runs(root: Path) -> Path:
    """Dense with seeds 0 and 1, GraNet at 90 % with 0 to 2, RigL at 90 and 98 % with 0."""
    for method, sparsity, seeds in (("dense", None, 2), ("granet", 0.9, 3), ("rigl", 0.9, 1), ("rigl", 0.98, 1)):
        asked = [] if sparsity is None else [f"sparsity={sparsity}"]
        recipe = load_recipe(RECIPE, [*SETTINGS, f"method={method}", *asked])
        for seed in range(seeds):
            folder = root / f"{method}-{sparsity}-seed{seed}"
            train(recipe, out=folder, seed=seed, device="cpu", quiet=True, download=False, logger="none")
    return root


def copy_run(run: Path, folder: Path, **summary: Any) -> Path:
    """The run under another name, with other figures in its summary."""
    shutil.copytree(run, folder)
    change_json(folder / "summary.json", **summary)
    return folder


def change_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def change_recipe(run: Path, **values: Any) -> Path:
    """Lays keys over the top level of a run's recipe."""
    file = run / "recipe.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | values, sort_keys=False))
    return run
