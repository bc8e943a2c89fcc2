"""How the command line ends: one sentence on standard error and an exit code, never a traceback.

0  done
1  failure: what was asked for is fine but could not be done (a full disk, training that diverges, no memory left)
2  bad input: a recipe, option, name, path or file that cannot be used, a damaged checkpoint or model included
130  interrupted with Ctrl-C

``--debug`` or the environment variable SPARSEWRIGHT_DEBUG=1 prints the traceback before the sentence.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
import traceback
import warnings
import zipfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from sparsewright.extras import explain_missing

FAILURE, BAD_INPUT, INTERRUPTED = 1, 2, 130
LONGEST_SENTENCE = 1000

_DAMAGED = (json.JSONDecodeError, pickle.UnpicklingError, EOFError, zipfile.BadZipFile)
_BAD_INPUT = (
    ValueError,
    TypeError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    ImportError,
)


class CommandGroup(TyperGroup):
    """The group of all commands; turns whatever goes wrong in one of them into a sentence and an exit code."""

    def main(self, args: Sequence[str] | None = None, *positional: Any, **options: Any) -> Any:
        arguments = list(sys.argv[1:] if args is None else args)
        # Accepted anywhere, because one adds it to the end of a command that has just failed.
        debug = "--debug" in arguments or os.environ.get("SPARSEWRIGHT_DEBUG", "0") not in ("", "0")
        arguments = [argument for argument in arguments if argument != "--debug"]
        options["standalone_mode"] = False
        with _plain_warnings():
            try:
                result = super().main(arguments, *positional, **options)
                sys.stdout.flush()
                code = result if isinstance(result, int) else 0
            except BrokenPipeError:
                # The reader (`| head`) has seen enough. Nothing may be flushed into the closed pipe at exit either.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                code = FAILURE
            except (KeyboardInterrupt, typer.Abort):
                code = INTERRUPTED
            except Exception as error:
                if debug:
                    traceback.print_exc()
                code, sentence = explain(error)
                typer.echo(f"error: {sentence}", err=True)
        if code == INTERRUPTED:
            typer.echo(_interrupted(arguments), err=True)
        sys.exit(code)


def explain(error: Exception) -> tuple[int, str]:
    """The exit code and the sentence for ``error``."""
    usage = getattr(error, "format_message", None)
    if callable(usage):
        context = getattr(error, "ctx", None)
        pointer = f" (see {context.command_path} --help)" if context is not None else ""
        return int(
            getattr(error, "exit_code", BAD_INPUT)
        ), f"{_one_line(str(usage())).replace('Value error, ', '')}{pointer}"
    if isinstance(error, ModuleNotFoundError) and (sentence := explain_missing(error)):
        return BAD_INPUT, sentence
    if isinstance(error, _DAMAGED) or type(error).__name__ == "SafetensorError":
        return BAD_INPUT, f"a file is damaged: {_text(error)}"
    if isinstance(error, _BAD_INPUT):
        return BAD_INPUT, _text(error)
    if isinstance(error, (OSError, RuntimeError, MemoryError)):
        return FAILURE, _text(error)
    return FAILURE, f"unexpected {type(error).__name__}: {_text(error)} (run it again with --debug to see where)"


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    return _one_line(str(error)) or type(error).__name__


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_SENTENCE else f"{line[:LONGEST_SENTENCE]}…"


def _interrupted(arguments: Sequence[str]) -> str:
    if "train" in arguments:
        return "interrupted: the same command with --resume continues from the last saved epoch"
    if "plasticity" in arguments:
        return "interrupted: the same command trains what is missing; a base goes on from its last saved epoch"
    if any(command in arguments for command in ("ticket", "sweep")):
        return "interrupted: the same command continues from the last saved epoch"
    return "interrupted"


@contextmanager
def _plain_warnings() -> Generator[None, None, None]:
    """Warnings as one line for people; the place in the code says nothing to who typed a command."""

    def show(message: Warning | str, *details: object, **options: object) -> None:
        typer.echo(f"warning: {_one_line(str(message))}", err=True)

    former = warnings.showwarning
    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = former
