"""Where the scalars of a run go besides metrics.jsonl: TensorBoard, Weights & Biases, or nowhere."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, get_args

from sparsewright.checks import check_choice
from sparsewright.files import write_text
from sparsewright.training.folder import BOARD, WANDB, LoggerName

LOGGERS: tuple[LoggerName, ...] = get_args(LoggerName)
PROJECT = "sparsewright"
"""The project of Weights & Biases that runs go to, unless WANDB_PROJECT names another."""


class Logger(Protocol):
    """Takes the scalars of an epoch."""

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Takes values by name, such as test/accuracy, after ``epoch`` epochs."""
        ...

    def close(self, *, failed: bool) -> None:
        """Ends the log; ``failed`` says whether training was cut short by an error."""
        ...


@dataclass(frozen=True)
class RunFacts:
    """What a logger tells about a run.

    Attributes:
        folder: the run folder.
        name: what to call it.
        settings: of the recipe and the run, plain values.
        epochs: done before a resume; later ones in the log are of a process that was killed.
    """

    folder: Path
    name: str
    settings: Mapping[str, Any]
    epochs: int = 0


def check_logger(name: str) -> LoggerName:
    """Refuses a logger that there is not, or whose package is not installed.

    Raises:
        ValueError: there is no such logger.
        ModuleNotFoundError: Weights & Biases is not installed.
    """
    check_choice(name, "logger", LOGGERS)
    if name == "wandb":
        import wandb  # noqa: F401
    return cast(LoggerName, name)


@contextmanager
def opened_logger(name: LoggerName, facts: RunFacts) -> Iterator[Logger | None]:
    """The logger of a run, closed however the run ends.

    None for "none", and for TensorBoard, with a sentence, where it is not installed.

    Raises:
        RuntimeError: Weights & Biases cannot start.
        ValueError: the file that names the run of Weights & Biases is damaged.
    """
    logger = _open(name, facts)
    failed = True
    try:
        yield logger
        failed = False
    finally:
        if logger is not None:
            logger.close(failed=failed)


def _open(name: LoggerName, facts: RunFacts) -> Logger | None:
    if name == "none":
        return None
    return _WandbLogger(facts) if name == "wandb" else _open_tensorboard(facts)


def _open_tensorboard(facts: RunFacts) -> Logger | None:
    try:
        return _TensorBoardLogger(facts)
    except ImportError:
        print("no TensorBoard scalars: the package tensorboard is not installed", file=sys.stderr)
        return None


class _TensorBoardLogger:
    def __init__(self, facts: RunFacts) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = facts.epochs + 1 if facts.epochs else None
        self._writer = SummaryWriter(str(facts.folder / BOARD), purge_step=purge)

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, global_step=epoch)
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        self._writer.close()


class _WandbLogger:
    """One run of Weights & Biases for one run folder: a resumed run goes on in the same.

    Whether it goes to a server, and to which, is what the variables of wandb say (WANDB_MODE=offline, WANDB_PROJECT).
    """

    def __init__(self, facts: RunFacts) -> None:
        import wandb

        folder = facts.folder / WANDB
        folder.mkdir(exist_ok=True)
        try:
            self._run = wandb.init(
                project=wandb.Settings().project or PROJECT,
                name=facts.name,
                id=_run_id(folder / "run.json"),
                dir=str(facts.folder),
                config=dict(facts.settings),
                resume="allow",
                settings=wandb.Settings(silent=True),
            )
        except wandb.Error as error:
            raise RuntimeError(
                f"Weights & Biases cannot start: {error}; log in with: wandb login, or set WANDB_MODE=offline"
            ) from error
        # Epochs are the axis, since a resumed run may tell some of them twice, and wandb's own steps only go up.
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        self._run.log({**values, "epoch": epoch})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else 0)


def _run_id(path: Path) -> str:
    if path.is_file():
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["id"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged; delete it to log to a new run of Weights & Biases") from error
    name = secrets.token_hex(4)
    write_text(path, json.dumps({"id": name}) + "\n")
    return name
