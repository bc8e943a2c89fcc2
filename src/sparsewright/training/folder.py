"""The run folder: its name, its files, and what may be done with one that is already there."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout

from sparsewright.files import remove_leftovers, write_text
from sparsewright.training.errors import RecipeError
from sparsewright.training.layer_log import LAYERS
from sparsewright.training.masks_file import MASKS
from sparsewright.training.recipe import WITHOUT_EFFECT, Recipe
from sparsewright.training.recipe_files import load_recipe
from sparsewright.training.start import NO_START, StartRecord
from sparsewright.training.weights import WEIGHTS

RECIPE = "recipe.yaml"
SETTINGS = "run.json"
CHECKPOINT = "last.ckpt"
SUMMARY = "summary.json"
METRICS = "metrics.jsonl"
BOARD = "tensorboard"
WANDB = "wandb"
REPORT = "report.html"
KEPT = "checkpoints"
LOG = "train.log"
BENCH = "bench.json"
"""What a run of a sweep printed."""

LoggerName = Literal["tensorboard", "wandb", "none"]

ANOTHER_FOLDER = "choose another folder with --out"


class RunFolderError(ValueError):
    """A run folder that cannot be used as asked.

    Attributes:
        problem: what is wrong.
        remedy: what to do about it; empty where the problem says it all.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem}; {remedy}" if remedy else problem)
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True)
class RunSettings:
    """What besides the recipe decides the numbers of a run; kept in run.json.

    Attributes:
        seed: of the initial weights, the order of the data and the method's random choices.
        precision: "32" or "bf16".
        device: "cpu" or "cuda".
        world_size: number of processes.
        threads: CPU threads of each process. Sums over threads round differently for another number, so that a
            resumed run takes the number that it was started with.
        start: the weights, masks and step that it started from, and where it stops.
    """

    seed: int
    precision: str
    device: str
    world_size: int
    threads: int
    start: StartRecord = NO_START


@dataclass(frozen=True)
class Prepared:
    """What ``prepare_folder`` found or made.

    Attributes:
        summary: of a run that is finished already, else None.
        new_run: whether the run was started in this folder now.
        new_folder: whether the folder itself was made for it.
    """

    summary: dict[str, Any] | None = None
    new_run: bool = False
    new_folder: bool = False


def default_folder(recipe: Recipe, seed: int, start: StartRecord = NO_START) -> Path:
    """``runs/RECIPE-HASH``, the hash of ``run_digest``."""
    return Path("runs") / f"{recipe.name.replace('/', '-')}-{run_digest(recipe, seed, start)}"


def run_digest(recipe: Recipe, seed: int, start: StartRecord = NO_START) -> str:
    """Eight hexadecimal digits over the resolved settings, the seed and, where there is one, the start."""
    own = recipe.digest(seed)
    return own if not start.content() else hashlib.sha256(f"{own}/{start.content()}".encode()).hexdigest()[:8]


def prepare_folder(folder: Path, recipe: Recipe, settings: RunSettings, resume: bool) -> Prepared:
    """Starts a new run in ``folder``, or checks that the one there may be resumed.

    Raises:
        RunFolderError: the folder holds a run and ``resume`` is false, a run of other settings, or files that are of
            no run and that a new one would overwrite.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file and not a folder", ANOTHER_FOLDER)
    if not any((folder / name).exists() for name in (RECIPE, CHECKPOINT, SUMMARY)):
        _refuse_foreign_files(folder)
        new_folder = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        _write_settings(folder, recipe, settings)
        return Prepared(new_run=True, new_folder=new_folder)
    finished = (folder / SUMMARY).is_file()
    _check_same(folder, recipe, settings)
    if not resume:
        state = "a finished" if finished else "an unfinished"
        what = "show its summary" if finished else "go on with it"
        raise RunFolderError(f"{folder} holds {state} run; add --resume to {what}, or choose another folder with --out")
    remove_leftovers(folder)
    return Prepared(summary=read_summary(folder) if finished else None)


@contextmanager
def only_here(folder: Path) -> Iterator[None]:
    """Keeps other processes of this machine from training in ``folder`` meanwhile; the end of the process lets go too.

    Raises:
        RunFolderError: another process does so.
    """
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    # Not in the folder, which may be new, or its parent, which may not be writable.
    lock = FileLock(Path(tempfile.gettempdir()) / f"sparsewright-{name}.lock", mode=0o666)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunFolderError(f"another process is training in {folder}; wait for it to end", ANOTHER_FOLDER) from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def discard_start(folder: Path, prepared: Prepared) -> None:
    """Takes away what a start wrote that failed before its first checkpoint, so that it can simply be tried again.

    Nothing that was there before ``prepare_folder`` gave ``prepared`` is touched.
    """
    if not prepared.new_run or (folder / CHECKPOINT).exists():
        return
    # The files that mark the folder as a run's go last: whatever a kill leaves of it can be resumed or started again.
    for name in (BOARD, WANDB):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (LAYERS, METRICS, RECIPE, SETTINGS):
        (folder / name).unlink(missing_ok=True)
    if prepared.new_folder and not any(folder.iterdir()):
        folder.rmdir()


def read_settings(folder: Path) -> RunSettings:
    """The content of run.json.

    Raises:
        FileNotFoundError: there is none.
        RunFolderError: it is damaged, or was not written by a run.
    """
    path = folder / SETTINGS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return RunSettings(**{**content, "start": StartRecord(**content.get("start", {}))})
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path} is damaged or was not written by sparsewright train") from error


def read_summary(folder: Path) -> dict[str, Any]:
    """The content of summary.json; raises RunFolderError when it is missing or damaged."""
    path = folder / SUMMARY
    damaged = f"{path} is damaged; delete it and finish the run again with --resume"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunFolderError(f"there is no {SUMMARY} in {folder}; finish the run with --resume") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunFolderError(damaged) from error
    if not isinstance(content, dict):
        raise RunFolderError(damaged)
    return content


def _write_settings(folder: Path, recipe: Recipe, settings: RunSettings) -> None:
    write_text(folder / SETTINGS, json.dumps(asdict(settings), indent=2) + "\n")
    write_text(folder / RECIPE, yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True))


def _refuse_foreign_files(folder: Path) -> None:
    # A kill between the two files that start a run leaves run.json alone, so one of a run is no obstacle.
    foreign = [
        name for name in (WEIGHTS, MASKS, METRICS, LAYERS, BOARD, WANDB, KEPT, REPORT) if (folder / name).exists()
    ]
    if (folder / SETTINGS).exists():
        try:
            read_settings(folder)
        except (OSError, RunFolderError):
            foreign.append(SETTINGS)
    if foreign:
        raise RunFolderError(f"{folder} holds {' and '.join(foreign)}, which a new run would overwrite", ANOTHER_FOLDER)


def _check_same(folder: Path, recipe: Recipe, settings: RunSettings) -> None:
    try:
        there = load_recipe(str(folder / RECIPE))
        known = read_settings(folder)
    except (OSError, RecipeError, RunFolderError) as error:
        raise RunFolderError(
            f"{folder} holds a run whose {RECIPE} or {SETTINGS} cannot be read ({error})", ANOTHER_FOLDER
        ) from error
    if there.digest() != recipe.digest():
        raise RunFolderError(
            f"{folder} holds a run of another recipe ({recipe_difference(there, recipe)})", ANOTHER_FOLDER
        )
    for name in ("seed", "precision", "device", "world_size"):
        before, value = getattr(known, name), getattr(settings, name)
        if before != value:
            raise RunFolderError(f"{folder} holds a run with {name} {before}, not {value}", ANOTHER_FOLDER)
    if difference := known.start.difference(settings.start):
        raise RunFolderError(f"{folder} holds a run with {difference}", ANOTHER_FOLDER)


def recorded_start(folder: Path) -> StartRecord | None:
    """What the run in ``folder`` was started from, where it no longer needs the files; None otherwise."""
    if not any((folder / name).is_file() for name in (CHECKPOINT, SUMMARY)):
        return None
    try:
        return read_settings(folder).start
    except (OSError, RunFolderError):
        # What is wrong with the folder is told when it is prepared.
        return None


def recipe_difference(there: Recipe, recipe: Recipe) -> str:
    """The first setting that differs, such as ``sparsity is 0.9 there and 0.8 here``."""
    old, new = _flat(there.resolved()), _flat(recipe.resolved())
    for key in [*new, *old]:
        if key.split(".")[0] not in WITHOUT_EFFECT and old.get(key) != new.get(key):
            return f"{key} is {old.get(key, 'not set')} there and {new.get(key, 'not set')} here"
    return "its settings differ"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {prefix: value}
    result: dict[str, Any] = {}
    for key, child in items:
        result.update(_flat(child, f"{prefix}.{key}" if prefix else str(key)))
    return result
