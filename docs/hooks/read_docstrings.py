"""Reads docstrings as their authors mean them: cross-references become links, shared entries one entry per argument."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|func|meth|mod):`(?P<name>[\w.]+)`")
SECTION = re.compile(r"^(?P<title>Args|Raises):\n(?:(?: {4}.*)?(?:\n|\Z))+", re.MULTILINE)
SHARED_ENTRY = re.compile(r"^ {4}(?P<names>[*\w]+(?:,\s+[*\w]+)+):(?P<text> .*\n?(?: {8}.*\n?)*)", re.MULTILINE)


class ReadDocstrings(griffe.Extension):
    """Rewrites every docstring of a package once all of it is loaded, so that the names of other modules are known."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        _rewrite(pkg)


def _rewrite(owner: griffe.Object) -> None:
    if owner.docstring is not None:
        text = SECTION.sub(_read_section, owner.docstring.value)
        owner.docstring.value = ROLE.sub(lambda role: _link(owner, role["name"]), text)
    for member in owner.members.values():
        if isinstance(member, griffe.Object):
            _rewrite(member)


def _read_section(section: re.Match[str]) -> str:
    return SHARED_ENTRY.sub(_one_entry_each if section["title"] == "Args" else _as_union, section[0])


def _one_entry_each(entry: re.Match[str]) -> str:
    """``a, b: text`` as ``a: text`` and ``b: text``, so that each argument stands beside its type and default."""
    names = re.split(r",\s+", entry["names"])
    return "".join(f"    {name}:{entry['text'].rstrip()}\n" for name in names)


def _as_union(entry: re.Match[str]) -> str:
    """``ValueError, TypeError: text`` as ``ValueError | TypeError: text``."""
    names = " | ".join(re.split(r",\s+", entry["names"]))
    return f"    {names}:{entry['text']}"


def _link(owner: griffe.Object, name: str) -> str:
    """The name as code, with a link to what it means in that docstring if the site shows it."""
    return f'<autoref identifier="{_path(owner, name)}" optional><code>{name}</code></autoref>'


def _path(owner: griffe.Object, name: str) -> str:
    first, _, rest = name.partition(".")
    if isinstance(owner, griffe.Class) and first in owner.all_members:
        return f"{owner.path}.{name}"
    try:
        return ".".join(filter(None, (owner.resolve(first), rest)))
    except griffe.NameResolutionError:
        return name
