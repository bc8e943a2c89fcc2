"""The page about a run: it shows what the run folder holds, says what is missing, and needs nothing else."""

from __future__ import annotations

import itertools
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
import torch
from compared_runs import change_json, change_recipe, copy_run
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import sparsewright.report
from sparsewright.cli import app
from sparsewright.report import write_run_report
from sparsewright.report.histograms import BINS, histogram, kept_weights
from sparsewright.report.layers import layers_section
from sparsewright.report.page import (
    MISSING,
    Choice,
    Code,
    KeyFigure,
    Pairs,
    Paragraph,
    Plot,
    Section,
    Table,
    format_cell,
    format_column,
    write_page,
)
from sparsewright.report.palette import DARK, LIGHT, Theme
from sparsewright.report.pixels import connections_per_pixel, pixel_plot
from sparsewright.report.run_data import RunData, read_run
from sparsewright.report.run_report import sections_of
from sparsewright.training import load_masks, load_recipe, read_metrics, train
from sparsewright.training.layer_log import LayerLog, TopologyLine, read_layer_log

LARGEST = 5_000_000
LAYERS = ("fc1", "fc2", "fc3")


@pytest.fixture(scope="module")
def granet_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _trained(tmp_path_factory, "method=granet", "sparsity=0.9", "log_rank_every=1ep")


@pytest.fixture(scope="module")
def rigl_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _trained(tmp_path_factory, "method=rigl-itop", "sparsity=0.8")


@pytest.fixture(scope="module")
def shrunk_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    method = "method: {name: magnitude, granularity: filter, exclude: [fc3.weight]}, sparsity: 0.5"
    stages = f"stages=[{{kind: train, duration: 1ep}}, {{kind: prune, {method}}}, {{kind: shrink}}]"
    return _trained(tmp_path_factory, stages)


def _trained(factory: pytest.TempPathFactory, *overrides: str) -> Path:
    folder = factory.mktemp("runs") / "run"
    train(load_recipe("digits/lenet300", ["duration=4ep", *overrides]), out=folder, device="cpu", quiet=True)
    return folder


@pytest.fixture
def unfinished_run(granet_run: Path, tmp_path: Path) -> Path:
    """As a kill after the second epoch leaves it."""
    folder = tmp_path / "unfinished"
    shutil.copytree(granet_run, folder)
    for name in ("summary.json", "model.safetensors", "masks.safetensors"):
        (folder / name).unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:2]))
    return folder


class _Page(HTMLParser):
    """The text of a page, its plots by title, and what its elements refer to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.figures: dict[str, dict[str, Any]] = {}
        self.references: list[str] = []
        self.tags: list[str] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._label = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href") and value]
        if attributes.get("class") == "plot":
            self._label = attributes["aria-label"] or ""
        self._open.append((tag, attributes))

    def handle_data(self, data: str) -> None:
        tag, attributes = self._open[-1] if self._open else ("", {})
        if tag == "script" and attributes.get("type") == "application/json" and "id" not in attributes:
            self.figures[self._label.partition(". ")[0]] = json.loads(data)
        elif tag not in ("script", "style"):
            self.texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def _page(folder: Path) -> _Page:
    return _Page(write_run_report(folder))


def _trace(figure: dict[str, Any], name: str) -> dict[str, Any]:
    return next(trace for trace in figure["data"] if trace.get("name") == name)


def _invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_headline_and_curves_are_those_of_the_run(granet_run: Path) -> None:
    page, lines = _page(granet_run), read_metrics(granet_run)
    summary = json.loads((granet_run / "summary.json").read_text())
    assert f"Test accuracy {summary['test_accuracy']:.2f} %" in page.text
    assert "Sparsity 90.00 % asked for 90.00 %" in page.text
    assert f"Parameters {summary['kept_parameters']:,} kept of {summary['parameters']:,}" in page.text
    curves = page.figures["Loss, accuracy and sparsity over training"]
    steps = [line["step"] for line in lines]
    for name, key in (("training loss", "train_loss"), ("test accuracy", "test_accuracy")):
        trace = _trace(curves, name)
        assert trace["x"] == steps
        assert trace["y"] == [line[key] for line in lines]
    assert _trace(curves, "sparsity")["y"][-1] == pytest.approx(90, abs=0.01)
    assert {trace.get("xaxis", "x") for trace in curves["data"]} == {"x"}


def test_layers_and_weights_are_counted_on_the_masks(granet_run: Path) -> None:
    page, masks = _page(granet_run), load_masks(granet_run / "masks.safetensors")
    (bars,) = page.figures["Sparsity per layer"]["data"]
    assert bars["y"] == list(LAYERS)
    kept = {name: int(mask.sum()) for name, mask in masks.items()}
    assert [left for left, _ in bars["customdata"]] == [kept[f"{name}.weight"] for name in LAYERS]
    total = sum(weights for _, weights in bars["customdata"])
    mean = sum(share * weights for share, (_, weights) in zip(bars["x"], bars["customdata"], strict=True)) / total
    assert mean == pytest.approx(90, abs=0.001)
    flops = page.figures["Share of inference FLOPs per layer"]["data"][1]["x"]
    assert flops == pytest.approx([100 * kept[f"{name}.weight"] / sum(kept.values()) for name in LAYERS])
    for name in LAYERS:
        (histogram_of_layer,) = page.figures[f"Kept weights of {name}"]["data"]
        assert sum(histogram_of_layer["y"]) == kept[f"{name}.weight"]
    (pixels,) = page.figures["Connections of each pixel"]["data"]
    assert sum(map(sum, pixels["z"])) == kept["fc1.weight"]
    shares = page.figures["Share of inference FLOPs per layer"]["data"]
    assert [sum(trace["x"]) for trace in shares] == pytest.approx([100, 100])


def test_zeros_among_the_kept_are_said_separately(rigl_run: Path, tmp_path: Path) -> None:
    kept = json.loads((rigl_run / "summary.json").read_text())["kept_parameters"]
    folder = copy_run(rigl_run, tmp_path / "run", nonzero_parameters=kept - 7)
    assert f"Parameters {kept:,} kept of 50,610; 7 of them are zero" in _page(folder).text
    run = read_run(folder)
    assert run.loaded is not None
    assert run.masks is not None
    weight = run.loaded.model.get_parameter("fc1.weight")
    before = int(((weight == 0) & run.masks["fc1.weight"]).sum())
    places = run.masks["fc1.weight"].logical_and(weight != 0).nonzero()[:7]
    with torch.no_grad():
        weight[tuple(places.T)] = 0
    plot = layers_section(run).blocks[0]
    assert isinstance(plot, Plot)
    assert plot.table is not None
    counts = {row[0]: row[3:5] for row in plot.table.rows}
    assert counts["fc1"] == [int(run.masks["fc1.weight"].sum()), before + 7]
    assert "are exactly zero, as new connections are" in plot.note


def test_the_learning_rate_is_that_of_every_step(granet_run: Path, tmp_path: Path) -> None:
    lines = read_metrics(granet_run)
    steps = [0, *(line["step"] for line in lines)]
    rate = _trace(_page(granet_run).figures["Loss, accuracy and sparsity over training"], "learning rate")
    assert (rate["x"][0], rate["x"][-1], rate["line"]["shape"]) == (0, steps[-1], "hv")
    assert rate["y"][-1] == pytest.approx(lines[-1]["lr"])
    milestones = [round(share * steps[-1]) for share in (0.5, 0.75)]
    drawn = dict(zip(rate["x"], rate["y"], strict=True))
    for count, milestone in enumerate(milestones):
        assert drawn[milestone - 1] == pytest.approx(0.1 * 0.1**count)
        assert drawn[milestone] == pytest.approx(0.1 * 0.1 ** (count + 1))
    # Rates that the recipe does not give are drawn as they were logged, each for its epoch.
    folder = copy_run(granet_run, tmp_path / "other")
    logged = [line | {"lr": 0.3 / number} for number, line in enumerate(lines, start=1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))
    rate = _trace(_page(folder).figures["Loss, accuracy and sparsity over training"], "learning rate")
    assert rate["x"] == steps
    assert rate["y"] == [*(line["lr"] for line in logged), logged[-1]["lr"]]


def test_topology_adds_up_to_what_was_logged(rigl_run: Path) -> None:
    page, log = _page(rigl_run), read_layer_log(rigl_run)
    changes = page.figures["Drop and growth per update"]
    assert sum(_trace(changes, "dropped")["y"]) == sum(sum(line.dropped) for line in log.topology) > 0
    assert _trace(changes, "grown")["y"] == _trace(changes, "dropped")["y"]
    curves = page.figures["Survival and exploration"]
    explored, kept = _trace(curves, "weights ever active (ITOP)"), _trace(curves, "weights kept now")
    last = log.topology[-1]
    assert explored["y"][-1] == pytest.approx(100 * sum(last.explored) / sum(last.weights))
    assert kept["y"][-1] == pytest.approx(20, abs=0.01)
    assert explored["x"][-1] == read_metrics(rigl_run)[-1]["step"]
    assert "Ranks were not logged; the recipe's key log_rank_every" in page.text


def test_ranks_are_shown_as_means_and_per_layer(granet_run: Path) -> None:
    page, line = _page(granet_run), read_layer_log(granet_run).ranks[-1]
    assert _trace(page.figures["Mean rank over training"], "numerical rank")["y"] == [
        metrics["rank_numerical"] for metrics in read_metrics(granet_run)
    ]
    (bars,) = page.figures["Rank per layer"]["data"]
    assert [full for _, full in bars["customdata"]] == [ranks["full"] for ranks in line.layers.values()]


def test_a_shrunk_network_is_compared_with_the_one_it_was_made_from(shrunk_run: Path) -> None:
    page, summary = _page(shrunk_run), json.loads((shrunk_run / "summary.json").read_text())
    assert f"of {summary['parameters_dense']:,}" in page.text
    (bars,) = page.figures["Weights removed per layer"]["data"]
    assert bars["x"] == pytest.approx([50, 75, 50])
    assert f"{summary['theoretical_speedup']:.2f}x" in page.text
    assert "train from step 0; prune from step" in page.text


def test_what_was_not_logged_is_left_out_with_the_reason(granet_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "earlier"
    shutil.copytree(granet_run, folder)
    (folder / "layers.jsonl").unlink()
    page = _page(folder)
    assert "has no record of connections (layers.jsonl)" in page.text
    assert "The ranks of the single layers were not logged" in page.text
    assert "Drop and growth per update" not in page.figures
    assert "Sparsity per layer" in page.figures


def test_an_unfinished_run_is_shown_as_far_as_it_is(unfinished_run: Path) -> None:
    page = _page(unfinished_run)
    assert "not finished" in page.text
    assert "Weights and FLOPs of the layers are shown once the run is finished." in page.text
    assert len(_trace(page.figures["Loss, accuracy and sparsity over training"], "test loss")["x"]) == 2
    assert "Survival and exploration" in page.figures
    assert "2 of 4 epochs, 46 of 92 steps" in page.text
    for name in ("metrics.jsonl", "layers.jsonl"):
        (unfinished_run / name).unlink()
    text = _page(unfinished_run).text
    assert "no epoch has ended yet" in text
    assert "Nothing has been logged about connections yet." in text
    assert "No ranks have been logged yet." in text


def test_pages_need_nothing_else_and_stay_small(granet_run: Path) -> None:
    file = write_run_report(granet_run)
    assert file == granet_run / "report.html"
    assert file.stat().st_size < LARGEST
    page = _Page(file)
    assert [reference for reference in page.references if not reference.startswith(("#", "data:"))] == []
    assert {"iframe", "img", "object", "embed"}.isdisjoint(page.tags)
    assert write_run_report(granet_run).read_bytes() == file.read_bytes()


def test_the_page_of_a_long_run_of_a_deep_network_stays_small(granet_run: Path, tmp_path: Path) -> None:
    layers, steps = 54, [100 * line for line in range(1000)]
    counts = tuple(1_000_000 + layer for layer in range(layers))
    names = tuple(f"layer{layer // 3}.{layer}.conv{layer % 3}.weight" for layer in range(layers))
    topology = [
        TopologyLine(names, counts, counts, counts, counts, counts, tuple(n - step for n in counts), counts, step=step)
        for step in steps
    ]
    epoch = read_metrics(granet_run)[-1]
    lines = [epoch | {"epoch": number, "step": 625 * number} for number in range(1, 161)]
    finished = read_run(granet_run)
    run = RunData(tmp_path, finished.recipe, "", None, lines, LayerLog(topology), None, None)
    histograms = {name: Plot(name, go.Figure(go.Bar(x=list(range(BINS)), y=[1e6 / 3] * BINS)), "") for name in names}
    write_page(tmp_path / "page.html", "long", [*sections_of(run), Section("weights", [Choice("layer", histograms)])])
    assert (tmp_path / "page.html").stat().st_size < LARGEST


@given(seed=st.integers(0, 2**31), size=st.integers(0, 300), scale=st.floats(1e-6, 1e6))
@settings(max_examples=50, deadline=None)
def test_a_histogram_counts_every_weight_once_and_where_it_is(seed: int, size: int, scale: float) -> None:
    values = scale * torch.randn(size, generator=torch.Generator().manual_seed(seed))
    middles, counts = histogram(values)
    assert sum(counts) == size
    assert middles[BINS // 2] == pytest.approx(0, abs=scale * 1e-6)
    width = middles[1] - middles[0]
    for middle, count in zip(middles, counts, strict=True):
        within = (values.double() - middle).abs()
        assert int((within < width * 0.49).sum()) <= count <= int((within < width * 0.51).sum())


def test_pixels_count_what_the_first_layer_keeps(rigl_run: Path) -> None:
    run = read_run(rigl_run)
    counts = connections_per_pixel(run)
    assert run.masks is not None
    assert counts is not None
    assert counts.shape == (8, 8)
    row, column = 3, 5
    assert counts[row, column] == run.masks["fc1.weight"][:, 8 * row + column].sum()
    assert kept_weights(run)["fc1"].numel() == run.masks["fc1.weight"].sum()


HOSTILE = "</script><script>alert(1)</script> & <b>bold</b>"


@pytest.mark.parametrize(
    ("side", "squares", "words"), [(8, 8, "keep none."), (384, 128, "sum of 3 x 3 pixels"), (300, 100, "3 x 3 pixels")]
)
def test_the_picture_of_a_large_image_is_drawn_in_squares(
    rigl_run: Path, tmp_path: Path, side: int, squares: int, words: str
) -> None:
    first = torch.nn.Linear(3 * side * side, 4, bias=False)
    with torch.no_grad():
        first.weight[:] = (torch.rand(first.weight.shape) < 0.1).float()
    run = read_run(rigl_run)
    assert run.loaded is not None
    loaded = replace(
        run.loaded, model=torch.nn.Sequential(torch.nn.Flatten(), first), facts={"in_channels": 3, "image_size": side}
    )
    plot = pixel_plot(replace(run, loaded=loaded, masks=None))
    assert plot is not None
    rows = plot.figure.to_plotly_json()["data"][0]["z"]
    assert (len(rows), len(rows[0])) == (squares, squares)
    assert sum(map(sum, rows)) == int(first.weight.sum())
    assert words in plot.note
    assert (plot.table is None) == (side > 64)
    write_page(tmp_path / "page.html", "large", [Section("weights", [plot])])
    assert (tmp_path / "page.html").stat().st_size < 2_500_000


def test_everything_on_a_page_is_escaped(tmp_path: Path) -> None:
    figure = go.Figure(go.Scatter(x=[1], y=[2], name=HOSTILE))
    plot = Plot(HOSTILE, figure, HOSTILE, Table([HOSTILE], [[HOSTILE]], HOSTILE))
    blocks = [plot, Choice(HOSTILE, {HOSTILE: plot}), Pairs({HOSTILE: HOSTILE}), Code(HOSTILE), Paragraph(HOSTILE)]
    file = tmp_path / "page.html"
    write_page(
        file, HOSTILE, [Section(HOSTILE, blocks)], subtitle=HOSTILE, headline={HOSTILE: KeyFigure(HOSTILE, HOSTILE)}
    )
    content = file.read_text()
    assert "<script>alert" not in content
    assert "<b>bold" not in content
    page = _Page(file)
    assert page.text.count(HOSTILE) >= 14
    assert next(iter(page.figures.values()))["data"][0]["name"] == HOSTILE


def test_a_page_without_plots_has_no_plotly(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "words", [Section("words", [Paragraph("none")])])
    assert (tmp_path / "page.html").stat().st_size < 50_000


def test_blocks_refuse_what_cannot_be_shown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a row of 1 cells in a table of 2 columns"):
        Table(["a", "b"], [["alone"]])
    with pytest.raises(ValueError, match="'layer' has no options"):
        Choice("layer", {})
    with pytest.raises(ValueError, match="a page shows no str"):
        write_page(tmp_path / "page.html", "title", [Section("one", ["text"])])  # pyright: ignore[reportArgumentType]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (None, MISSING),
        (12345, "12,345"),
        (0.123456, "0.1235"),
        (98765.4, "98,765"),
        (1.6e-6, "1.6e-06"),
        ("as is", "as is"),
    ],
)
def test_cells_are_written_for_people(cell: str | float | None, shown: str) -> None:
    assert format_cell(cell) == shown


@pytest.mark.parametrize(
    ("cells", "shown"),
    [
        ([98.2, 98.25, None], ["98.20", "98.25", MISSING]),
        ([0.1, 0.001], ["0.100", "0.001"]),
        ([2.303, 0.05012], ["2.3030", "0.0501"]),
        ([0.1, 0.00012], ["0.1", "0.00012"]),
        ([1e-6, 0.5], ["1e-06", "0.5"]),
        ([1, "2.5", 2.5], ["1", "2.5", "2.5"]),
    ],
)
def test_numbers_of_a_column_have_the_same_decimals(cells: list[str | float | None], shown: list[str]) -> None:
    assert format_column(cells) == shown


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_are_told_apart_by_everybody(theme: Theme) -> None:
    for surface in (theme.background, theme.surface):
        assert min(_contrast(colour, surface) for colour in (theme.text, theme.muted, theme.accent)) >= 4.5
    assert min(_contrast(colour, theme.background) for colour in theme.series) >= 3
    for matrix in _VISION.values():
        seen = [_lab(_through(matrix, colour)) for colour in theme.series]
        assert min(math.dist(one, other) for one, other in itertools.combinations(seen, 2)) > 15
    assert len(set(LIGHT.colours())) == len(LIGHT.colours()), "a colour is swapped by what it is"


# Machado, Oliveira and Fernandes, 2009: how linear RGB looks without one of the three kinds of cones.
_VISION = {
    "normal": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def _linear(colour: str) -> list[float]:
    values = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio, 1 to 21."""
    lights = [0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in map(_linear, (one, other))]
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def _through(matrix: tuple[tuple[float, ...], ...], colour: str) -> list[float]:
    linear = _linear(colour)
    return [min(1, max(0, sum(a * b for a, b in zip(row, linear, strict=True)))) for row in matrix]


def _lab(linear: list[float]) -> tuple[float, float, float]:
    """CIE L*a*b*, where a distance of about 2 is just seen."""
    red, green, blue = linear
    xyz = (
        (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.95047,
        0.2126 * red + 0.7152 * green + 0.0722 * blue,
        (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.08883,
    )
    x, y, z = (value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def test_the_command_writes_where_it_is_told(granet_run: Path, tmp_path: Path) -> None:
    result = _invoke("report", granet_run)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"report {granet_run / 'report.html'}\n"
    out = tmp_path / "page.html"
    assert _invoke("report", granet_run, "--out", out).exit_code == 0
    assert out.read_bytes() == (granet_run / "report.html").read_bytes()
    out.write_text("mine")
    refused = _invoke("report", granet_run, "--out", out)
    assert refused.exit_code == 2
    assert "add --force" in refused.stderr
    assert out.read_text() == "mine"
    assert _invoke("report", granet_run, "--out", out, "--force").exit_code == 0
    assert _invoke("report", granet_run, "--out", tmp_path / "page.txt").exit_code == 2


@pytest.mark.parametrize(
    ("name", "part"), [("absent", "there is no run folder"), ("empty", "holds no run"), ("file", "is a file")]
)
def test_the_command_names_what_is_no_run(tmp_path: Path, name: str, part: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    result = _invoke("report", tmp_path / name)
    assert result.exit_code == 2
    assert part in result.stderr
    assert name in result.stderr


def test_of_a_folder_of_runs_the_command_names_one_to_choose(granet_run: Path) -> None:
    result = _invoke("report", granet_run.parent)
    assert result.exit_code == 2
    assert f"such as {granet_run}, or compare them with: sparsewright compare {granet_run.parent}" in result.stderr


@pytest.mark.parametrize(
    ("name", "line", "change", "words"),
    [
        ("metrics.jsonl", 2, {"step": "ten"}, "line 2 of {file} is damaged: step is 'ten'"),
        ("metrics.jsonl", 1, {"test_loss": [1]}, "line 1 of {file} is damaged: test_loss is [1]"),
        ("metrics.jsonl", 3, {"rank_stable": "low"}, "line 3 of {file} is damaged: rank_stable is 'low'"),
        ("layers.jsonl", 1, {"weights": [1]}, "line 2 of {file} is damaged or was not written"),
        ("layers.jsonl", 2, {"kept": ["a", "b", "c"]}, "{file} about topology after step 0 is damaged: kept.0 is 'a'"),
        ("summary.json", 1, {"test_accuracy": "high"}, "{file} is damaged: test_accuracy is 'high'"),
        ("summary.json", 1, {"versions": ["1.0"]}, "{file} is damaged: versions is ['1.0']"),
        ("summary.json", 1, {"test_accuracy": math.nan}, "{file} is damaged: test_accuracy is nan"),
        ("metrics.jsonl", 2, {"sparsity": math.inf}, "line 2 of {file} is damaged: sparsity is inf"),
        ("run.json", 1, {"seed": None}, "{file} is damaged: seed is None"),
    ],
)
def test_a_damaged_record_is_named(
    granet_run: Path, tmp_path: Path, name: str, line: int, change: dict[str, Any], words: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(granet_run, folder)
    file = folder / name
    lines = file.read_text().splitlines() if name.endswith("l") else [file.read_text()]
    lines[line - 1] = json.dumps(json.loads(lines[line - 1]) | change)
    file.write_text("\n".join(lines) + "\n")
    result = _invoke("report", folder)
    assert result.exit_code == 2, result.output
    assert words.format(file=file) in result.stderr


def test_a_line_without_what_is_drawn_is_named(granet_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(granet_run, folder)
    (folder / "metrics.jsonl").write_text('{"stage": "train"}\n')
    result = _invoke("report", folder)
    assert result.exit_code == 2
    assert f"line 1 of {folder / 'metrics.jsonl'} is damaged: it has no kind" in result.stderr


def test_a_published_number_is_shown_with_what_differs(granet_run: Path, tmp_path: Path) -> None:
    number = {"accuracy": 98.5, "source": "a paper, table 2", "sparsity": 0.9, "changed": ["duration", "batch size"]}
    page = _page(change_recipe(copy_run(granet_run, tmp_path / "run"), published=[number]))
    assert "published, with another duration, batch size: 98.50 %" in page.text
    assert "published 98.50 %: a paper, table 2; ours has another duration, batch size." in page.text


def test_what_was_asked_for_is_that_of_the_last_sparse_stage(granet_run: Path, tmp_path: Path) -> None:
    stages = [{"kind": "train", "method": {"name": "granet"}, "sparsity": 0.8}]
    number = {"accuracy": 98.5, "source": "a paper", "sparsity": 0.8}
    folder = change_recipe(copy_run(granet_run, tmp_path / "run"), stages=stages, published=[number])
    change_json(folder / "summary.json", target_sparsity=0.8)
    finished = _page(folder).text
    assert "asked for 80.00 %" in finished
    assert "asked for 90.00 %" not in finished
    assert "published: 98.50 %" in finished
    (folder / "summary.json").unlink()
    assert "asked for 80.00 % · seed 0 · not finished" in _page(folder).text


def test_the_cost_of_what_it_started_from_is_said_to_be_left_out(granet_run: Path, tmp_path: Path) -> None:
    folder = copy_run(granet_run, tmp_path / "run")
    assert "it started from" not in _page(folder).text
    start = {"weights": "w.safetensors", "weights_sha256": "a", "masks": "m", "masks_sha256": "b", "step": 0}
    change_json(folder / "run.json", start=start)
    assert "what the weights and masks it started from cost is not counted" in _page(folder).text


def test_masks_that_are_gone_are_missed(granet_run: Path, tmp_path: Path) -> None:
    folder = copy_run(granet_run, tmp_path / "run")
    assert "has no masks.safetensors" not in _page(folder).text
    (folder / "masks.safetensors").unlink()
    assert "The run folder has no masks.safetensors" in _page(folder).text


def test_connections_of_an_unfinished_run_were_kept_so_far(unfinished_run: Path) -> None:
    lines = (unfinished_run / "layers.jsonl").read_text().splitlines(keepends=True)
    (unfinished_run / "layers.jsonl").write_text("".join(lines[:2]))
    assert "The same connections were kept so far" in _page(unfinished_run).text


def test_a_run_stopped_by_a_kill_after_a_prune_has_no_accuracy_yet(unfinished_run: Path) -> None:
    (line, *_) = (unfinished_run / "metrics.jsonl").read_text().splitlines()
    (unfinished_run / "metrics.jsonl").write_text(json.dumps(json.loads(line) | {"test_accuracy": None}) + "\n")
    assert "not measured" in _page(unfinished_run).text


def test_force_without_a_file_is_refused(granet_run: Path) -> None:
    result = _invoke("report", granet_run, "--force")
    assert result.exit_code == 2
    assert "--force is for the file that --out names" in result.stderr


def test_training_writes_the_report_and_says_where(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = _invoke("train", "digits/lenet300", "duration=1ep", "--out", folder, "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == f"report {folder / 'report.html'}"
    page = _Page(folder / "report.html")
    assert "digits/lenet300, dense" in page.text
    assert "all layers are dense" in page.text
    assert len(page.figures["Share of inference FLOPs per layer"]["data"]) == 1
    assert re.search(r"This run is dense: it has no connections to drop or to grow\.", page.text)


@pytest.mark.filterwarnings("default")
def test_a_report_that_fails_does_not_lose_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(folder: Path) -> Path:
        raise RuntimeError("no plots today")

    monkeypatch.setattr(sparsewright.report, "write_run_report", fail)
    folder = tmp_path / "run"
    result = _invoke("train", "digits/lenet300", "duration=1ep", "--out", folder, "--quiet")
    assert result.exit_code == 0, result.output
    assert "warning: what was trained is saved, but no page about it (no plots today); try:" in result.stderr
    assert f"sparsewright report {folder}" in result.stderr
    assert "test accuracy" in result.stdout
    assert (folder / "summary.json").is_file()
