"""The documentation builds into a site that is whole, leads nowhere else, and works from a folder without a network."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Generator
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import pytest
from browser import chromium
from playwright.sync_api import Browser
from typer.core import TyperGroup
from typer.main import get_command

from sparsewright.cli import app

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = (
    "",
    ".analysis",
    ".data",
    ".export",
    ".models",
    ".plasticity",
    ".report",
    ".structured",
    ".sweep",
    ".training",
)
WIDE, NARROW = 1280, 400
SLOW_MACHINE = 120_000  # milliseconds
# Of each kind of page one: text and code, a wide table, the reference, long blocks of text, generated lists and images.
LOOKED_AT = (
    "index.html",
    "tutorial.html",
    "defaults.html",
    "reference/methods.html",
    "reference/command-line.html",
    "results.html",
    "results/rank/index.html",
)


# Texts with a contrast below 4.5 : 1 (3 : 1 for large ones) against the background behind them, as WCAG AA counts.
FAINT_TEXTS = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const channels = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
  };
  const luminance = ([red, green, blue]) => 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  const faint = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const visible = element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    const box = element.getBoundingClientRect();
    if (!walker.currentNode.data.trim() || !visible || !box.width || box.left < 0) continue;
    const behind = ["white"];
    const ancestors = [];
    for (let node = element; node; node = node.parentElement) ancestors.unshift(node);
    for (const node of ancestors) behind.push(getComputedStyle(node).backgroundColor);
    const style = getComputedStyle(element);
    const [light, dark] = [luminance(channels(behind)), luminance(channels([...behind, style.color]))]
      .sort((one, other) => other - one);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if ((light + 0.05) / (dark + 0.05) < (large ? 3 : 4.5)) faint.add(
      `${element.tagName}.${element.className}: ${walker.currentNode.data.trim().slice(0, 30)} ` +
      `${style.color} ${((light + 0.05) / (dark + 0.05)).toFixed(2)}`);
  }
  return [...faint];
}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


class References(HTMLParser):
    """What a page loads, what it links to, and the anchors that it has."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif value and (name == "src" or (name == "href" and tag == "link")):
                self.loaded.append(value)
            elif value and name == "href" and tag == "a":
                self.linked.append(value)


@pytest.fixture(scope="module")
def references(site: Path) -> dict[Path, References]:
    return {page: References(page) for page in sorted(site.rglob("*.html")) if page.name != "404.html"}


def test_every_page_of_the_repository_is_in_the_site(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    results = [Path("results", path.stem, "index.html") for path in (ROOT / "results").glob("*.md")]
    assert [page for page in [*pages, *results] if not (site / page).is_file()] == []


def test_results_are_listed_with_titles_and_keep_their_images(site: Path) -> None:
    listed = (site / "results.html").read_text(encoding="utf-8")
    for path in (ROOT / "results").iterdir():
        if path.suffix == ".md":
            assert f'href="results/{path.stem}/index.html"' in listed
            assert path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") in listed
        else:
            assert (site / "results" / path.name).read_bytes() == path.read_bytes()


def test_links_and_anchors_lead_somewhere(site: Path, references: dict[Path, References]) -> None:
    broken: list[str] = []
    for page, found in references.items():
        for link in [*found.linked, *found.loaded]:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            anchors = references[target].anchors if target in references else None
            if not target.is_file() or (
                parts.fragment and anchors is not None and unquote(parts.fragment) not in anchors
            ):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert broken == []


def test_nothing_is_loaded_from_elsewhere(site: Path, references: dict[Path, References]) -> None:
    assert [url for found in references.values() for url in found.loaded if re.match(r"(\w+:)?//", url)] == []
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import)[\"'\s]*(?:https?:)?//[^)\"']*", styles) == []


@pytest.mark.parametrize("part", PUBLIC)
def test_the_reference_has_every_public_name(site: Path, part: str) -> None:
    inventory = (site / "objects.inv").read_bytes()
    header, _, packed = inventory.partition(b"zlib.\n")
    documented = {line.split(" ")[0] for line in zlib.decompress(packed).decode().splitlines()}
    assert header.startswith(b"# Sphinx inventory version 2")
    module = importlib.import_module(f"sparsewright{part}")
    missing = [name for name in module.__all__ if f"sparsewright{part}.{name}" not in documented]
    # What the package itself shows need not stand twice.
    from_root = {name for name in missing if part and f"sparsewright.{name}" in documented}
    assert sorted(set(missing) - from_root) == []


def test_docstrings_leave_no_markup_behind(references: dict[Path, References]) -> None:
    for page in references:
        text = re.sub(r"<(pre|code)\b.*?</\1>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert re.findall(r":(?:class|func|meth|attr|mod):|``|<autoref", text) == [], page


def test_the_command_line_page_has_the_help_of_every_command(site: Path) -> None:
    text = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        assert f"Usage: sparsewright {name} " in text
        assert all(option in text for parameter in command.params for option in parameter.opts if "--" in option)


def test_messages_that_the_docs_explain_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "how-to-troubleshoot.md").read_text(encoding="utf-8")
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    messages = re.findall(r"^### `(.*)`$", page, re.MULTILINE)
    assert len(messages) > 5
    assert [message for message in messages if message not in source] == []


@pytest.fixture(scope="module")
def browser() -> Generator[Browser, None, None]:
    with chromium() as opened:
        yield opened


@pytest.mark.parametrize(("theme", "scheme", "width"), [("light", "default", WIDE), ("dark", "slate", NARROW)])
def test_pages_fit_and_are_quiet_and_readable_in_a_browser(
    site: Path, browser: Browser, theme: Literal["light", "dark"], scheme: str, width: int
) -> None:
    def elsewhere(url: str) -> bool:
        return not url.startswith(site.as_uri())

    problems: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    context.set_default_timeout(SLOW_MACHINE)
    page = context.new_page()
    page.on("console", lambda message: problems.append(f"{page.url}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"{page.url}: {error}"))
    page.on("request", lambda request: problems.append(request.url) if elsewhere(request.url) else None)
    for name in LOOKED_AT:
        page.goto((site / name).as_uri())
        # What is measured must not be on its way from one colour or place to another.
        page.add_style_tag(content="* { transition: none !important; animation: none !important }")
        assert page.locator("body").get_attribute("data-md-color-scheme") == scheme
        assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0, name
        assert page.evaluate(FAINT_TEXTS) == [], name
    context.close()
    assert problems == []


def test_search_finds_a_page_without_a_server(site: Path, browser: Browser) -> None:
    page = browser.new_page(viewport={"width": WIDE, "height": 900})
    page.set_default_timeout(SLOW_MACHINE)
    page.goto((site / "index.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type("neuroregeneration")
    page.locator(".md-search-result__link", has_text="GraNet").first.wait_for()
    page.close()
