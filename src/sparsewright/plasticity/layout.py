"""Where the files of a study are."""

from __future__ import annotations

from pathlib import Path

from sparsewright.plasticity.plan import Branch
from sparsewright.training.recipe import Recipe

RECORD = "plasticity.json"
PAGE = "plasticity.html"


def default_folder(recipe: Recipe) -> Path:
    """``runs/plasticity-RECIPE-HASH``, the hash over the settings of the base."""
    return Path("runs") / f"plasticity-{recipe.name.replace('/', '-')}-{recipe.digest()}"


def seed_folder(folder: Path, seed: int) -> Path:
    """The base and the branches of one seed."""
    return folder / f"seed-{seed}"


def branch_file(folder: Path, branch: Branch) -> Path:
    """The result of one branch."""
    name = f"{branch.title}-{branch.horizon_steps}it.json"
    return seed_folder(folder, branch.seed) / "branches" / f"step-{branch.moment.step}" / name


def branch_files(folder: Path) -> list[Path]:
    """The results of all branches that are there, whichever were asked for last."""
    return sorted(folder.glob("seed-*/branches/step-*/*.json"))
