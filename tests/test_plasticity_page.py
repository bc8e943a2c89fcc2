"""The page of a pruning-plasticity study: every number is on it, and it works in a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from browser import check_page, chromium, opened

from sparsewright.analysis.plasticity import RULES
from sparsewright.plasticity import BranchResult, PlasticityResult
from sparsewright.plasticity.moments import Moment
from sparsewright.plasticity.plan import PlasticityPlan
from sparsewright.plasticity.result import summarise
from sparsewright.report.palette import DARK, LIGHT
from sparsewright.report.plasticity_page import write_plasticity_page
from sparsewright.report.plasticity_plots import SCALE, STRONGEST, change_figure, heat_map
from sparsewright.training import load_recipe
from sparsewright.training.duration import Duration

MOMENTS = (Moment(4, 400, 0.1), Moment(9, 900, 0.1), Moment(11, 1100, 0.01), Moment(18, 1800, 0.001))
RATES = (0.5, 0.9, 0.98)


def made_up(
    seeds: tuple[int, ...],
    *,
    diverged: bool,
    name: str = "digits/lenet300",
    moments: tuple[Moment, ...] = MOMENTS,
) -> PlasticityResult:
    """A study of all rules whose accuracies are made of its settings; one branch may have diverged."""
    recipe = load_recipe("digits/lenet300").model_copy(update={"name": name})
    plan = PlasticityPlan(recipe, 2000, 100, moments, tuple(RULES), RATES, Duration(2, "ep"), 200, seeds)
    branches = []
    for seed in seeds:
        for branch in plan.branches(seed):
            loss = 0.0 if branch.rate is None else (branch.rate**8) * branch.moment.epoch * (2 + seed)
            lost = diverged and (branch.rule, branch.rate, branch.moment.epoch) == ("prune_global", 0.98, 4)
            branches.append(
                BranchResult(
                    seed=seed,
                    epoch=branch.moment.epoch,
                    step=branch.moment.step,
                    learning_rate=branch.moment.learning_rate,
                    horizon_steps=200,
                    rule=branch.rule,
                    rate=branch.rate,
                    sparsity=0.0 if branch.rule is None or RULES[branch.rule].regrows else branch.rate or 0.0,
                    accuracy_before=95.0,
                    accuracy_pruned=95.0 - 2 * loss,
                    accuracy_after=None if lost else 96.0 - loss,
                    seconds=1.0,
                )
            )
    return summarise(plan, branches, Path("study"))


def cells_of(page: str) -> list[list[str]]:
    """The rows of all tables, as the texts of their cells."""
    rows = re.findall(r"<tr>(.*?)</tr>", page, flags=re.DOTALL)
    return [
        [
            re.sub(r"<[^>]*>", "", cell).replace("\xa0", " ").strip()
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
        ]
        for row in rows
    ]


def test_page_in_a_browser(tmp_path: Path) -> None:
    page = write_plasticity_page(made_up((0, 1), diverged=True), tmp_path / "plasticity.html")
    assert page.stat().st_size < 5_000_000
    with chromium() as browser:
        check_page(browser, page)


def test_heat_maps_follow_the_theme_and_have_every_number(tmp_path: Path) -> None:
    page = write_plasticity_page(made_up((0,), diverged=True), tmp_path / "plasticity.html")
    with chromium() as browser, opened(browser, page, dark=True) as shown:
        maps = shown.page.evaluate(
            "[...document.querySelectorAll('.plot')].map((plot) => plot._fullData || [])"
            ".filter((traces) => traces.some((trace) => trace.type === 'heatmap'))"
            ".map((traces) => [traces[0].colorscale.map((pair) => pair[1]), traces[1].text])"
        )
        assert len(maps) == len(RULES)
        for colours, numbers in maps:
            assert colours == list(DARK.diverging[1:-1])
            assert len(numbers) == len(MOMENTS) * len(RATES)
        assert [numbers.count("diverged") for _, numbers in maps] == [0, 1, 0, 0, 0, 0]


def test_every_cell_is_in_the_table_of_all_branches(tmp_path: Path) -> None:
    result = made_up((0, 1), diverged=True)
    page = write_plasticity_page(result, tmp_path / "plasticity.html")
    rows = {tuple(row[:3]): row for row in cells_of(page.read_text()) if len(row) == 9}
    for cell in result.cells:
        row = rows[cell.rule, f"{cell.rate:g}", str(cell.epoch)]
        assert row[3] == "2"
        assert row[4] == f"{100 * cell.sparsity:.2f} %"
        if cell.change is None:
            assert row[6:] == ["diverged", "diverged", "diverged"]
        else:
            assert row[7] == f"{cell.change.mean:+.2f} ± {cell.change.deviation:.2f}"


def test_names_cannot_break_the_page(tmp_path: Path) -> None:
    page = write_plasticity_page(made_up((0,), diverged=False, name="<script>x</script>"), tmp_path / "plasticity.html")
    assert "<script>x" not in page.read_text()


def test_lines_leave_out_what_diverged_and_mark_each_drop_of_the_learning_rate() -> None:
    figure = change_figure(made_up((0,), diverged=True), 0.98)
    lines = {trace.name: trace for trace in figure.data}
    assert list(lines["prune_global"].y[:1]) == [None]
    assert None not in lines["prune_uniform"].y
    upright = [shape.x0 for shape in figure.layout.shapes if shape.x0 == shape.x1]
    assert upright == [10, 14.5]
    assert not figure.data[0].error_y.visible
    assert change_figure(made_up((0, 1), diverged=False), 0.98).data[0].error_y.visible


def test_a_learning_rate_that_falls_smoothly_or_rises_has_no_drop_to_mark() -> None:
    moments = tuple(replace(moment, learning_rate=rate) for moment, rate in zip(MOMENTS, (1, 3, 2, 2), strict=True))
    figure = change_figure(made_up((0,), diverged=False, moments=moments), 0.98)
    assert [shape for shape in figure.layout.shapes if shape.x0 == shape.x1] == []


def test_heat_maps_of_one_study_share_their_scale_and_use_the_readable_part_of_it() -> None:
    result = made_up((0,), diverged=False)
    maps = [heat_map(result, rule).data[0] for rule in RULES]
    assert len({(trace.zmin, trace.zmax) for trace in maps}) == 1
    tones = [abs(tone) / trace.zmax for trace in maps for line in trace.z for tone in line]
    assert max(tones) == pytest.approx(STRONGEST)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_numbers_are_readable_on_every_colour_of_a_heat_map(theme) -> None:
    colours = theme.diverging[1:-1]
    assert [colour for _, colour in SCALE] == list(LIGHT.diverging[1:-1])
    for side, share in product((-1, 1), range(21)):
        place = 2 + side * 2 * STRONGEST * share / 20
        low = min(int(place), 3)
        mixed = [
            (1 - place + low) * first + (place - low) * second
            for first, second in zip(channels(colours[low]), channels(colours[low + 1]), strict=True)
        ]
        bright, dull = sorted((luminance(mixed), luminance(channels(theme.text))), reverse=True)
        assert (bright + 0.05) / (dull + 0.05) >= 4.5


def channels(colour: str) -> list[float]:
    return [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]


def luminance(rgb: list[float]) -> float:
    """Relative luminance, WCAG 2.2."""
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
