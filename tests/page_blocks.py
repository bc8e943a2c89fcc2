"""The Python blocks of a documentation page, and a process that runs them. Imports little: each process pays for it."""

from __future__ import annotations

import os
import re
import textwrap
import traceback
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import zip_longest
from multiprocessing.connection import Connection
from pathlib import Path

FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """Python code of a page.

    Attributes:
        line: line of the page that it starts on.
        code: the code.
        printed: the block of ``text`` that follows at once, which is what the code prints; None without one.
    """

    line: int
    code: str
    printed: str | None


def python_blocks(page: Path) -> list[Block]:
    """The Python blocks of a Markdown page, in their order."""
    text = page.read_text(encoding="utf-8")
    fences = list(FENCE.finditer(text))
    return [
        Block(
            line=text.count("\n", 0, fence.start("text")) + 1,
            code=fence["text"],
            printed=after["text"] if after is not None and _is_output(text, fence, after) else None,
        )
        for fence, after in zip_longest(fences, fences[1:])
        if fence["language"] == "python"
    ]


def _is_output(text: str, fence: re.Match[str], after: re.Match[str]) -> bool:
    return after["language"] == "text" and not text[fence.end() : after.start()].strip()


def run_blocks(page: Path, folder: Path, before: Mapping[int, str], port: int, answer: Connection) -> None:
    """Runs the blocks of a page in ``folder`` and sends what each printed, or the traceback of the one that failed.

    Args:
        page: the Markdown page.
        folder: the working directory.
        before: number of a block -> code to run before it.
        port: a free one, for a process group of this process alone.
        answer: where the result goes.
    """
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK="0", WORLD_SIZE="1", OMP_NUM_THREADS="1")
    os.chdir(folder)
    warnings.simplefilter("error")
    names = {"__name__": "__main__"}
    printed: list[str] = []
    try:
        for number, block in enumerate(python_blocks(page)):
            exec(textwrap.dedent(before.get(number, "")), names)
            with redirect_stdout(StringIO()) as output:
                exec(compile("\n" * (block.line - 1) + block.code, page.name, "exec"), names)
            printed.append(output.getvalue())
    except BaseException:
        answer.send(traceback.format_exc())
    else:
        answer.send(printed)
