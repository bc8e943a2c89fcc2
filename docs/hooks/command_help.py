"""Puts the help of every command, as the program prints it, where a page has the marker."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup
from typer.main import get_command

from sparsewright.cli import app

MARKER = "<!-- help of the commands -->"
# Of the column of text on a screen of 1280 pixels, in characters.
WIDTH = 84


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Puts the help texts in place of the marker."""
    return markdown.replace(MARKER, help_of_commands()) if MARKER in markdown else markdown


def help_of_commands() -> str:
    """One section of Markdown per command, in the order of the program's own help."""
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    sections: list[str] = []
    for name, command in group.commands.items():
        program = f"sparsewright {name}"
        with command.make_context(program, [], resilient_parsing=True, terminal_width=WIDTH) as context:
            sections.append(f"## {name}\n\n```text\n{command.get_help(context)}\n```")
    return "\n\n".join(sections)
