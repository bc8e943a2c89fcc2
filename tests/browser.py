"""Pages in a real browser: opened from their file, in both themes and two widths, and what must hold for each.

A test of a page of plots is::

    def test_page_in_a_browser(tmp_path):
        write_..._page(tmp_path / "page.html")
        with chromium() as browser:
            check_page(browser, tmp_path / "page.html")
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDE, NARROW = 1280, 400

PATIENCE = 120_000
"""Milliseconds until a page that does not get ready fails the test; a busy machine takes its time."""

_TEXT_OUTSIDE = """
() => {
  const outside = [];
  for (const plot of document.querySelectorAll(".plot")) {
    if (plot.closest("[hidden]")) continue;
    const box = plot.getBoundingClientRect();
    for (const text of plot.querySelectorAll("text")) {
      const own = text.getBoundingClientRect();
      const cut = own.left < box.left - 2 || own.right > box.right + 2 ||
                  own.top < box.top - 2 || own.bottom > box.bottom + 2;
      if (own.width && cut) outside.push(`${plot.getAttribute("aria-label").slice(0, 40)}: ${text.textContent}`);
    }
  }
  return outside;
}
"""

_RESIZED = """
() => [...document.querySelectorAll(".plot")].filter((plot) => !plot.closest("[hidden]")).every((plot) => {
  const drawing = plot.querySelector(".main-svg");
  return drawing && Math.abs(drawing.getBoundingClientRect().width - plot.getBoundingClientRect().width) < 2;
})
"""

_NOT_DRAWN = """
() => [...document.querySelectorAll(".plot")].filter((plot) => !plot.closest("[hidden]")).filter((plot) => {
  const drawn = [...plot.querySelectorAll(".trace path, .trace .point, .trace text, .hm image, .bars path")];
  return !drawn.some((mark) => { const box = mark.getBoundingClientRect(); return box.width > 0 || box.height > 0; });
}).map((plot) => plot.getAttribute("aria-label"))
"""

_BACKGROUNDS = """
() => [getComputedStyle(document.body).backgroundColor,
       ...[...document.querySelectorAll(".plot .main-svg:first-child")]
         .filter((drawing) => !drawing.closest("[hidden]")).map((drawing) => drawing.style.background)]
"""

_COUNT_CONTROLS = """
() => [...document.querySelectorAll("a[href], button, select, summary, [tabindex='0']")]
  .filter((control) => control.checkVisibility()).length
"""

_FOCUS = """
() => {
  const focused = document.activeElement;
  if (focused === document.body) return null;
  window.reached = window.reached || new Set();
  window.reached.add(focused);
  const style = getComputedStyle(focused);
  const shown = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
  return { name: focused.outerHTML.slice(0, 80), shown, reached: window.reached.size };
}
"""


@dataclass
class OpenPage:
    """A page in the browser.

    Attributes:
        page: playwright's page.
        problems: errors on the console or in scripts, and requests for anything but the page itself.
    """

    page: Page
    problems: list[str] = field(default_factory=list)


def find_chromium() -> str:
    """The browser's executable: SPARSEWRIGHT_CHROMIUM, or the first on the path; skips the test without one."""
    wanted = os.environ.get("SPARSEWRIGHT_CHROMIUM")
    found = wanted or next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None:
        pytest.skip(f"no Chromium on the path ({', '.join(NAMES)}); set SPARSEWRIGHT_CHROMIUM to one")
    return found


@contextmanager
def chromium() -> Generator[Browser, None, None]:
    """A headless browser; it is closed at the end."""
    executable = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(FLAGS), timeout=PATIENCE)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Browser, file: Path, *, dark: bool = False, width: int = WIDE, javascript: bool = True
) -> Generator[OpenPage, None, None]:
    """``file`` in a new window, its plots drawn."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        java_script_enabled=javascript,
    )
    context.set_default_timeout(PATIENCE)
    shown = OpenPage(context.new_page())
    address = file.resolve().as_uri()
    shown.page.on("console", lambda message: shown.problems.append(f"{message.type}: {message.text}"))
    shown.page.on("pageerror", lambda error: shown.problems.append(f"error: {error}"))
    shown.page.on("request", lambda request: _note_request(shown, request.url, address))
    try:
        shown.page.goto(address)
        if javascript and shown.page.locator(".plot").count():
            shown.page.wait_for_selector("html[data-plots=drawn]")
        yield shown
    finally:
        context.close()


def check_page(browser: Browser, file: Path) -> None:
    """All that holds for every page, in both themes and two widths: wide and light, dark, narrow, light again."""
    with opened(browser, file) as shown:
        page = shown.page
        assert_shown(page)
        assert_choices_work(page)
        assert_all_reached_by_tab(page)
        switch_theme(page, "Enter")
        assert_shown(page)
        page.set_viewport_size({"width": NARROW, "height": 900})
        page.wait_for_function(_RESIZED)
        assert_shown(page)
        switch_theme(page, "Space")
        assert_shown(page)
        assert shown.problems == []


def assert_shown(page: Page) -> None:
    """Nothing sticks out of the window or, of the text in a plot, out of the plot, and every plot is drawn."""
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert page.evaluate(_TEXT_OUTSIDE) == []
    assert page.evaluate(_NOT_DRAWN) == []


def assert_choices_work(page: Page) -> None:
    """Each control shows the plot that is chosen, and no other one of its own."""
    for control in page.locator("select").all():
        values = [option.get_attribute("value") for option in control.locator("option").all()]
        for value in (values[-1], values[0]):
            control.select_option(value=value)
            page.wait_for_function(f"document.querySelector('#{value} .plot .main-svg') !== null")
            assert [shown for shown in values if page.locator(f"#{shown}").is_visible()] == [value]
            assert_shown(page)


def assert_all_reached_by_tab(page: Page) -> None:
    """The tab key comes to every link, button, select, summary and scrolling region, and one sees where it is."""
    controls = page.evaluate(_COUNT_CONTROLS)
    reached = 0
    for _ in range(controls + 5):
        page.keyboard.press("Tab")
        focus = page.evaluate(_FOCUS)
        if focus is not None:
            assert focus["shown"], f"no visible focus on {focus['name']}"
            reached = focus["reached"]
    assert reached >= controls


def switch_theme(page: Page, key: str) -> None:
    """Presses ``key`` on the button for the theme, and waits until the page and every plot have changed theirs."""
    before = page.evaluate(_BACKGROUNDS)
    page.locator("#theme").focus()
    page.keyboard.press(key)
    page.wait_for_function(f"(before) => ({_BACKGROUNDS})().every((now, i) => now !== before[i])", arg=before)


def _note_request(shown: OpenPage, url: str, address: str) -> None:
    if url.partition("#")[0] != address and not url.startswith(("data:", "blob:")):
        shown.problems.append(f"request for {url[:200]}")
