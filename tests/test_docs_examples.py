"""The examples in the documentation run: blocks of Python page by page, command lines against the real commands.

The blocks of a page are run in their order, in a process and a folder of their own, with warnings as errors. Where a
block of ``text`` follows, it is what the block before prints, up to 10 % of numbers with decimals.
"""

from __future__ import annotations

import math
import multiprocessing
import re
import shlex
import socket
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from page_blocks import FENCE, python_blocks, run_blocks
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from sparsewright.cli import app
from sparsewright.cli.ticket_output import take_sparsity
from sparsewright.sweep import plan_sweep
from sparsewright.training import list_recipes, load_recipe

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))]
SHELLS = ("", "bash", "sh", "shell")
DECIMAL = re.compile(r"\d+\.\d+")

LOOP = """
    import torch, torch.nn.functional as F
    from torch import nn
    model, epochs = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 10)), 2
    loader = [(torch.randn(8, 1, 8, 8), torch.randint(10, (8,))) for _ in range(1000)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""
FILTERS = """
    import torch, sparsewright as sw
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

        def forward(self, x):
            return x + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))

    class Network(nn.Sequential):
        def __init__(self):
            super().__init__()
            self.stem, self.layer1 = nn.Conv2d(3, 8, 3), nn.Sequential(Block())
            self.pool, self.flatten, self.fc = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)

    resnet56 = make_model = Network
    model = make_model().eval()
    images = example_input = torch.randn(2, 3, 32, 32)
    sparsifier = sw.Magnitude(model, torch.optim.SGD(model.parameters(), lr=0.1), sparsity=0.5, granularity="filter")
    sparsifier.finalize()
    pruned_groups = sparsifier.pruned_groups
"""
# What a page takes for granted before its blocks (by number): the reader's own model and data, or files of a run.
BEFORE = {
    "README.md": {0: LOOP, 1: FILTERS},
    "docs/index.md": {0: LOOP},
    "docs/shrink.md": {0: FILTERS},
    "docs/export.md": {
        0: """
            import torch
            from sparsewright.export import save_hdf5
            from sparsewright.models import create_model
            network = create_model("lenet300", num_classes=10, in_channels=1, image_size=8, seed=0)
            save_hdf5("model.hdf5", network.state_dict())
        """,
        2: """
            from sparsewright.export.onnx import save_onnx
            save_onnx("small.onnx", network, torch.zeros(1, 1, 8, 8))
        """,
    },
    "docs/rank.md": {
        0: """
            from torch import nn
            model = nn.Sequential()
            model.layer = nn.Linear(20, 10)
        """
    },
    "docs/tickets.md": {
        0: """
            import torch
            from torch import nn
            model, steps = nn.Linear(20, 10), 10
            def train(model, optimizer):
                for _ in range(steps):
                    optimizer.zero_grad()
                    model(torch.randn(8, 20)).square().sum().mul(1e-3).backward()
                    optimizer.step()
        """
    },
}
# Fragments in which the loop is left out.
NOT_RUN = {"docs/methods/greg-1.md", "docs/methods/greg-2.md"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Fresh processes that need not import torch, Lightning and plotly again."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "sparsewright.training.ranks", "sparsewright.report"])
    return context


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(ROOT / page) and page not in NOT_RUN])
def test_the_python_of_a_page_runs_and_prints_what_it_says(
    page: str, processes: ForkServerContext, tmp_path: Path
) -> None:
    receiver, sender = processes.Pipe(duplex=False)
    arguments = (ROOT / page, tmp_path, BEFORE.get(page, {}), free_port(), sender)
    process = processes.Process(target=run_blocks, args=arguments)
    process.start()
    sender.close()
    try:
        assert receiver.poll(240), f"{page}: no end after four minutes"
        printed = receiver.recv()
    finally:
        process.kill()
        process.join()
    assert isinstance(printed, list), printed
    for block, output in zip(python_blocks(ROOT / page), printed, strict=True):
        if block.printed is not None:
            assert same_output(output, block.printed), f"{page}, line {block.line}, prints\n{output}"


def same_output(printed: str, written: str) -> bool:
    """Equal but for numbers with decimals, which depend on the machine; those of both are within 10 %."""
    if DECIMAL.sub("#", printed.strip()) != DECIMAL.sub("#", written.strip()):
        return False
    pairs = zip(DECIMAL.findall(printed), DECIMAL.findall(written), strict=True)
    return all(math.isclose(float(one), float(other), rel_tol=0.1) for one, other in pairs)


@pytest.mark.parametrize(
    ("printed", "same"),
    [("accuracy 90.1 %, 5 left", True), ("accuracy 60.1 %, 5 left", False), ("accuracy 90.8 %, 6 left", False)],
)
def test_output_is_compared_exactly_but_for_decimals(printed: str, same: bool) -> None:
    assert same_output(printed, "accuracy 90.8 %, 5 left\n") is same


def all_commands() -> dict[str, TyperCommand]:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    return {name: command for name, command in group.commands.items() if isinstance(command, TyperCommand)}


def command_lines() -> Iterator[tuple[str, str]]:
    """(place, line) of every line of a shell that the documentation and the help of the commands show."""
    for name, command in all_commands().items():
        yield from ((f"help of {name}", line) for line in re.findall(r"^ +(sparsewright .*)", command.help or "", re.M))
    for page in PAGES:
        for fence in FENCE.finditer((ROOT / page).read_text(encoding="utf-8")):
            lines = fence["text"].replace("\\\n", " ").splitlines()
            if fence["language"] == "console":
                yield from ((page, line.removeprefix("$ ")) for line in lines if line.startswith("$ "))
            elif fence["language"] in SHELLS:
                yield from ((page, line) for line in lines if line)


@pytest.mark.parametrize(("place", "line"), list(command_lines()))
def test_a_command_line_that_is_shown_is_one(place: str, line: str) -> None:
    program, *arguments = shlex.split(line, comments=True)
    check = {"sparsewright": check_command, "make": check_target, "pip": check_install}[program]
    check(arguments)


def check_command(arguments: list[str]) -> None:
    name, *rest = arguments
    parameters = all_commands()[name].make_context(name, rest).params
    if parameters.get("recipe") not in {info.name for info in list_recipes()}:
        return
    if name == "sweep":
        plan_sweep(parameters["recipe"], parameters["settings"] or ())
        return
    overrides = parameters["overrides"] or ()
    load_recipe(parameters["recipe"], take_sparsity(overrides, None)[0] if name == "ticket" else overrides)


def check_target(arguments: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in arguments)


def check_install(arguments: list[str]) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = [
        extra for package in arguments for extra in re.findall(r"\[(.*)\]", package) for extra in extra.split(",")
    ]
    assert arguments[0] == "install"
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras)
