"""The documentation says what the code does: every option and default stands in its card and in the table."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import sparsewright as sw
from sparsewright.methods.registry import method_info
from sparsewright.options import COMMON

DOCS = Path(__file__).resolve().parent.parent / "docs"
NAMES = [info.name for info in sw.list_methods()]


def family(name: str) -> str:
    """The card that a preset stands in: that of the method its class is the plain form of."""
    return next(other for other in NAMES if method_info(other).cls is method_info(name).cls)


def tables(text: str) -> list[dict[str, dict[str, str]]]:
    """Every table of a page as first cell -> column -> cell, without the backticks."""
    found: list[dict[str, dict[str, str]]] = []
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        lines = [[cell.strip().strip("`") for cell in line.strip("|").split(" | ")] for line in block.splitlines()]
        found.append({line[0]: dict(zip(lines[0][1:], line[1:], strict=True)) for line in lines[2:]})
    return found


def as_written(options: dict) -> dict[str, str]:
    return {name: repr(value) for name, value in options.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_card_lists_every_option_with_the_default_of_each_preset(name: str) -> None:
    text = (DOCS / "methods" / f"{family(name)}.md").read_text(encoding="utf-8")
    if not method_info(name).options:
        assert "## Options\n\nNone of its own" in text
        return
    options = tables(text)[0]
    assert {option: row[name] for option, row in options.items()} == as_written(method_info(name).options)
    assert all(len(row["effect"]) > 20 for row in options.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_table_of_defaults_lists_every_option_of_each_preset(name: str) -> None:
    options = tables((DOCS / "defaults.md").read_text(encoding="utf-8"))[0]
    written = {option: row[name] for option, row in options.items() if row[name] != "-"}
    assert written == as_written(method_info(name).options)


def test_the_table_of_defaults_lists_the_common_arguments() -> None:
    written = tables((DOCS / "defaults.md").read_text(encoding="utf-8"))[1]
    signature = inspect.signature(sw.Sparsifier.__init__).parameters
    defaults = {
        name: "required" if signature[name].default is inspect.Parameter.empty else repr(signature[name].default)
        for name in COMMON
    }
    assert {name: row["default"] for name, row in written.items()} == defaults


@pytest.mark.parametrize("page", sorted(path.name for path in (DOCS / "methods").glob("*.md")))
def test_each_card_has_its_sections_and_links_that_exist(page: str) -> None:
    path = DOCS / "methods" / page
    text = path.read_text(encoding="utf-8")
    sections = ["What it does", "When to use it", "Options", "Differences from the original code", "Memory", "Results"]
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == sections
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file = path.parent / target.partition("#")[0]
        assert target.startswith("https://") or file.exists(), f"{page} links to {target}"


def test_every_method_has_a_card_and_every_card_a_method() -> None:
    assert {path.stem for path in (DOCS / "methods").glob("*.md")} == {family(name) for name in NAMES}


def test_the_recipe_in_the_docs_is_one(tmp_path: Path) -> None:
    from sparsewright.training import load_recipe

    found = re.search(r"```yaml\n(.*?)```", (DOCS / "recipes.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    (tmp_path / "own.yaml").write_text(found.group(1))
    stages = load_recipe(str(tmp_path / "own.yaml")).resolved_stages()
    assert [(stage.kind, stage.method.name) for stage in stages] == [
        ("train", "dense"),
        ("prune", "magnitude"),
        ("train", "dense"),
    ]
