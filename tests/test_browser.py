"""The page about a run in a real browser: both themes, wide and narrow screens, the keyboard, paper, no scripts."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import plotly.graph_objects as go
import pytest
from browser import NARROW, PATIENCE, check_page, chromium, find_chromium, opened
from playwright.sync_api import Browser

from sparsewright.report import write_run_report
from sparsewright.report.page import Plot, Section, Table, write_page
from sparsewright.training import load_recipe, train


@pytest.fixture(scope="module")
def browser() -> Generator[Browser, None, None]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def small_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pages") / "page.html"
    plot = Plot("Line", go.Figure(go.Scatter(x=[0, 1], y=[0, 1])), "It rises.", Table(["x", "y"], [[0, 0], [1, 1]]))
    write_page(file, "small", [Section("one", [plot])])
    return file


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    find_chromium()
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = ["duration=4ep", "method=granet", "sparsity=0.9", "log_rank_every=1ep"]
    train(load_recipe("digits/lenet300", settings), out=folder, device="cpu", quiet=True)
    return write_run_report(folder)


def test_the_report_works_in_both_themes_and_widths_and_by_keyboard(browser: Browser, report: Path) -> None:
    check_page(browser, report)


def test_a_page_is_printed_in_light_colours_and_fits_on_paper(browser: Browser, small_page: Path) -> None:
    with opened(browser, small_page, dark=True) as shown:
        drawing = shown.page.locator(".plot .main-svg").first
        assert "rgb(20, 23, 28)" in drawing.evaluate("drawing => drawing.style.background")
        shown.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert "rgb(255, 255, 255)" in drawing.evaluate("drawing => drawing.style.background")
        assert drawing.evaluate("drawing => drawing.getBoundingClientRect().width") <= 680


def test_without_scripts_the_tables_are_there(browser: Browser, small_page: Path) -> None:
    with opened(browser, small_page, javascript=False, width=NARROW) as shown:
        assert shown.page.locator("noscript .notice").is_visible()
        assert shown.page.locator("details table").first.is_visible()
        assert not shown.page.locator(".plot").first.is_visible()


def test_a_browser_that_cannot_unpack_says_so_and_shows_the_tables(browser: Browser, small_page: Path) -> None:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.add_init_script("delete window.DecompressionStream")
    page.goto(small_page.resolve().as_uri())
    assert page.get_by_role("alert").inner_text().startswith("This browser is too old to unpack the plots")
    assert page.locator("details table").first.is_visible()
    page.close()


def test_a_damaged_page_says_so_and_shows_the_tables(browser: Browser, small_page: Path, tmp_path: Path) -> None:
    text = small_page.read_text(encoding="utf-8")
    damaged = tmp_path / "damaged.html"
    damaged.write_text(text.replace("H4sI", "AAAA", 1), encoding="utf-8")
    assert damaged.read_text(encoding="utf-8") != text
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(damaged.as_uri())
    page.get_by_text("The plots could not be drawn").wait_for()
    assert page.locator("details table").first.is_visible()
    page.close()


def test_the_skip_link_leads_to_the_content(browser: Browser, small_page: Path) -> None:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(small_page.resolve().as_uri(), wait_until="domcontentloaded")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.close()
