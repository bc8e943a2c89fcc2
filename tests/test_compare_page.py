"""The page of a comparison: what it says, and that a browser draws it from the file alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import check_page, chromium, opened
from compared_runs import change_recipe, copy_run, train_runs

from sparsewright.report.comparison_page import write_comparison


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def page(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_comparison([runs], tmp_path_factory.mktemp("pages") / "comparison.html")


def test_the_page_is_one_file_that_says_what_was_compared(page: Path, runs: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text) < 5_000_000
    for words in (
        "Comparison: digits/lenet300",
        "digits, test images",
        "Accuracy against sparsity",
        "Accuracy against inference FLOPs",
        "Accuracy against training FLOPs",
        "&lt;3 seeds",
        str(runs / "granet-0.9-seed2"),
    ):
        assert words in text, words


def test_the_page_works_in_a_browser(page: Path) -> None:
    with chromium() as browser:
        check_page(browser, page)
        with opened(browser, page) as shown:
            assert shown.page.locator(".plot").count() == 3
            legend = shown.page.locator(".plot").first.locator(".legendtext").all_text_contents()
            assert legend[:3] == ["granet", "rigl", "Pareto front"]
            assert [name.partition(" ")[0] for name in legend[3:]] == ["dense"]


def test_names_from_a_recipe_are_text_on_the_page(runs: Path, tmp_path: Path) -> None:
    run = copy_run(runs / "granet-0.9-seed0", tmp_path / "run")
    write_comparison([change_recipe(run, name="<b>bold</b>")], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>bold</b>" not in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in text


def test_dense_networks_alone_have_a_page_without_plots(runs: Path, tmp_path: Path) -> None:
    write_comparison(sorted(runs.glob("dense-*")), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Every network is dense." in text
    assert len(text) < 200_000
