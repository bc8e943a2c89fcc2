"""Comparisons: groups over seeds, what they are marked with, what is refused or left out, fronts and formats."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import statistics
from pathlib import Path

import pytest
from compared_runs import RECIPE, SETTINGS, change_json, change_recipe, copy_run, train_runs
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from sparsewright.cli import app
from sparsewright.report.compared_run import find_runs
from sparsewright.report.comparison import FEW_SEEDS, MISSED, STARTED, TRAINING, Comparison, Group, compare_runs
from sparsewright.report.comparison_plots import comparison_plots
from sparsewright.report.comparison_table import accuracy_matrix, by_configuration, comparison_table
from sparsewright.report.cost_axis import cost_axes
from sparsewright.report.error_axis import accuracy_axis, error_bars, error_of
from sparsewright.report.log_ticks import log_ticks
from sparsewright.report.pareto import pareto_front
from sparsewright.report.run_facts import uncounted_start
from sparsewright.report.settings_apart import settings_apart
from sparsewright.report.twin_lines import twin_lines
from sparsewright.training import load_recipe, train
from sparsewright.training.folder import read_summary
from sparsewright.training.recipe import ModelSettings
from sparsewright.training.start import NO_START

POSITIVE = st.floats(1e-3, 1e6)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def granet(runs: Path) -> list[Path]:
    return sorted(runs.glob("granet-*"))


def compare(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def group_of(comparison: Comparison, method: str, target: float | None = None) -> Group:
    return next(group for group in comparison.groups if (group.method, group.target) == (method, target))


# Groups.


def test_runs_of_the_same_settings_are_one_group_over_their_seeds(runs: Path, granet: list[Path]) -> None:
    comparison = compare_runs([runs])
    assert [(group.method, group.target, group.seeds) for group in comparison.groups] == [
        ("dense", None, (0, 1)),
        ("granet", 0.9, (0, 1, 2)),
        ("rigl", 0.9, (0,)),
        ("rigl", 0.98, (0,)),
    ]
    group = group_of(comparison, "granet", 0.9)
    accuracies = [read_summary(run)["test_accuracy"] for run in granet]
    assert group.accuracy.mean == pytest.approx(statistics.fmean(accuracies))
    assert group.accuracy.deviation == pytest.approx(statistics.stdev(accuracies))
    assert group.sparsity.mean == pytest.approx(0.9)
    assert group.inference_flops.mean == pytest.approx(0.1 * group.dense_inference_flops, rel=0.01)
    assert 0.1 < group.training_flops.mean / group.dense_training_flops < 1
    assert group.kept_share == pytest.approx(0.107, abs=0.001)
    assert group.settings == {}
    assert group_of(comparison, "rigl", 0.98).accuracy.deviation is None
    assert comparison.images == "digits, test images"
    assert (comparison.left_out, comparison.notes) == ((), ())


def test_groups_of_fewer_than_three_seeds_are_marked(runs: Path) -> None:
    marked = {(group.method, group.target): FEW_SEEDS in group.marks for group in compare_runs([runs]).groups}
    assert marked == {("dense", None): True, ("rigl", 0.9): True, ("granet", 0.9): False, ("rigl", 0.98): True}


def test_runs_may_be_given_one_by_one_and_twice(runs: Path, granet: list[Path]) -> None:
    assert find_runs([granet[1], granet[0], runs / "." / granet[1].name]) == [granet[1], granet[0]]
    assert len(find_runs([runs])) == 7


def test_what_the_same_seed_did_twice_counts_once(granet: list[Path], tmp_path: Path) -> None:
    again = copy_run(granet[0], tmp_path / "again", test_accuracy=1.0)
    comparison = compare_runs([*granet, again])
    assert [group.seeds for group in comparison.groups] == [(0, 1, 2)]
    assert comparison.groups[0].accuracy.mean > 10
    assert comparison.notes == (f"{again} has the settings and the seed (0) of {granet[0]}, and does not count",)


def test_groups_that_would_be_called_the_same_are_told_apart_by_their_settings(
    granet: list[Path], tmp_path: Path
) -> None:
    faster = change_recipe(copy_run(granet[0], tmp_path / "faster"), optimizer={"name": "sgd", "lr": 0.5})
    first, second = compare_runs([granet[0], faster]).groups
    assert {first.settings["optimizer.lr"], second.settings["optimizer.lr"]} == {"0.1", "0.5"}
    assert any(" lr=0.5" in group.name for group in (first, second))


def test_an_option_that_one_of_two_runs_sets_has_a_value_in_both(granet: list[Path], tmp_path: Path) -> None:
    other = change_recipe(copy_run(granet[0], tmp_path / "other"), method={"name": "granet", "drop_fraction": 0.1})
    names = {group.name for group in compare_runs([granet[0], other]).groups}
    assert names == {"granet drop_fraction=0.5", "granet drop_fraction=0.1"}


def test_a_line_is_one_configuration_over_its_sparsities(granet: list[Path], tmp_path: Path) -> None:
    runs, optimizer = [granet[0]], load_recipe(str(granet[0] / "recipe.yaml")).resolved()["optimizer"]
    for name, sparsity, rate in (("b", 0.95, 0.1), ("c", 0.98, 0.5)):
        run = copy_run(granet[0], tmp_path / name, target_sparsity=sparsity)
        runs.append(change_recipe(run, sparsity=sparsity, optimizer=optimizer | {"lr": rate}))
    comparison = compare_runs(runs)
    lines = [[group.target for group in line] for line in by_configuration(comparison.groups)]
    assert lines == [[0.9, 0.95], [0.98]]
    matrix = accuracy_matrix(comparison)
    assert matrix is not None
    assert [[bool(cell) for cell in row[1:]] for row in matrix.rows] == [[True, True, False], [False, False, True]]
    assert len({row[0] for row in matrix.rows}) == 2


def test_stages_that_prune_differently_on_the_way_are_no_line(granet: list[Path], tmp_path: Path) -> None:
    def pruned_twice(name: str, first: float, last: float) -> Path:
        run = copy_run(granet[0], tmp_path / name, method="magnitude", target_sparsity=last)
        stages = [{"kind": "prune", "sparsity": first}, {"kind": "prune", "sparsity": last}]
        return change_recipe(run, method={"name": "magnitude"}, sparsity=None, stages=stages)

    runs = [pruned_twice("a", 0.5, 0.9), pruned_twice("b", 0.5, 0.95), pruned_twice("c", 0.7, 0.95)]
    lines = [[group.target for group in line] for line in by_configuration(compare_runs(runs).groups)]
    assert lines == [[0.9, 0.95], [0.95]]


def test_targets_that_are_nearly_the_same_have_columns_of_their_own(granet: list[Path], tmp_path: Path) -> None:
    runs: list[Path] = []
    for name, lr in (("a", 0.1), ("b", 0.2)):
        for sparsity in (0.9, 0.99991, 0.99992):
            run = copy_run(granet[0], tmp_path / f"{name}{sparsity}", target_sparsity=sparsity)
            runs.append(change_recipe(run, sparsity=sparsity, optimizer={"name": "sgd", "lr": lr}))
    matrix = accuracy_matrix(compare_runs(runs))
    assert matrix is not None
    assert matrix.columns == ("method", "90 %", "99.991 %", "99.992 %")
    assert all(all(row) for row in matrix.rows)


def test_other_precision_is_another_group(granet: list[Path], tmp_path: Path) -> None:
    half = copy_run(granet[0], tmp_path / "half")
    change_json(half / "run.json", precision="bf16")
    assert {group.name for group in compare_runs([*granet, half]).groups} == {
        "granet precision=32",
        "granet precision=bf16",
    }


def test_starts_from_other_weights_are_seeds_until_one_seed_has_two(granet: list[Path], tmp_path: Path) -> None:
    def started(seed: int, name: str) -> Path:
        run = copy_run(granet[seed], tmp_path / name)
        start = {"weights": name, "weights_sha256": name * 8, "masks": None, "masks_sha256": None, "step": 0}
        change_json(run / "run.json", start=start)
        return run

    found = compare_runs([started(0, "a"), started(1, "b")])
    assert [group.seeds for group in found.groups] == [(0, 1)]
    assert STARTED in found.groups[0].marks
    assert any("training FLOPs of their own steps" in note for note in found.notes)
    assert {group.name for group in compare_runs([tmp_path / "a", started(0, "c")]).groups} == {
        "granet weights=a",
        "granet weights=c",
    }


@pytest.mark.parametrize("kind", ["weights", "masks"])
def test_what_began_with_the_work_of_others_wins_no_front_of_training_flops(
    granet: list[Path], tmp_path: Path, kind: str
) -> None:
    ticket = copy_run(granet[0], tmp_path / "ticket", test_accuracy=100.0, training_flops_sparse=1.0)
    start = {"weights": None, "weights_sha256": None, "masks": None, "masks_sha256": None, "step": 0}
    change_json(ticket / "run.json", start=start | {kind: "runs/other", f"{kind}_sha256": "ab"})
    comparison = compare_runs([ticket, *granet])
    index = next(index for index, group in enumerate(comparison.groups) if group.accuracy.mean == 100)
    assert comparison.fronts_of(index) == ["size", "inference FLOPs"]
    assert comparison.fronts[TRAINING] == ((1 - index,),)
    assert comparison.groups[index].marks == (FEW_SEEDS, STARTED)
    notes = [plot.note for plot in comparison_plots(comparison)]
    assert ["own steps alone, and no ring" in note for note in notes] == [False, False, True]


def test_what_did_not_train_is_not_drawn_against_training_flops(granet: list[Path], tmp_path: Path) -> None:
    pruned = copy_run(granet[0], tmp_path / "pruned", training_flops_sparse=0.0, training_flops_dense=0.0)
    change_recipe(pruned, optimizer={"name": "sgd", "lr": 0.3})
    assert len(comparison_plots(compare_runs([pruned]))) == 2
    plots = comparison_plots(compare_runs([pruned, granet[1]]))
    names = [[trace.name for trace in plot.figure.data if "lr=" in trace.name] for plot in plots]
    assert [len(lines) for lines in names] == [2, 2, 1]


def test_pretrained_weights_are_a_start_too(granet: list[Path]) -> None:
    recipe = load_recipe(str(granet[0] / "recipe.yaml"))
    for name, options in (("timm:resnet18@pretrained", {}), ("timm:resnet18", {"pretrained": True})):
        changed = recipe.model_copy(update={"model": ModelSettings(name=name, **options)})
        assert uncounted_start(changed, NO_START) == "weights"
    assert uncounted_start(recipe, NO_START) == ""


def test_each_network_has_a_front_of_its_own(granet: list[Path], tmp_path: Path) -> None:
    poor = copy_run(granet[0], tmp_path / "poor", test_accuracy=1.0, inference_flops_sparse=1e9)
    change_recipe(poor, name="digits/other", model={"name": "lenet5"})
    comparison = compare_runs([poor, granet[1]])
    assert all(sorted(fronts) == [(0,), (1,)] for fronts in comparison.fronts.values())
    assert "On the Pareto front of its network" in compare(poor, granet[1]).stdout
    assert all("of the same network" in plot.note for plot in comparison_plots(comparison))


def test_plots_and_table_have_the_same_percentages(granet: list[Path], tmp_path: Path) -> None:
    shorter = copy_run(granet[0], tmp_path / "shorter", seed=7)
    flops = read_summary(shorter)["training_flops_dense"]
    change_json(shorter / "summary.json", training_flops_dense=0.995 * flops, training_flops_sparse=0.5 * 0.995 * flops)
    change_recipe(shorter, optimizer={"name": "sgd", "lr": 0.3})
    comparison = compare_runs([granet[0], shorter])
    axis = next(axis for axis in cost_axes(comparison, comparison.groups) if axis.front == TRAINING)
    table = comparison_table(comparison)
    cells = [row[table.columns.index("training FLOPs")] for row in table.rows]
    places = [f"({100 * axis.place(group):.2f} %)" for group in comparison.groups]
    assert all(cell.endswith(place) for cell, place in zip(cells, places, strict=True))
    assert "(50.00 %)" in places


def test_versions_and_devices_that_differ_are_marked(granet: list[Path], tmp_path: Path) -> None:
    versions = read_summary(granet[0])["versions"] | {"torch": "0.1"}
    other = copy_run(granet[0], tmp_path / "other", versions=versions, seed=7)
    change_json(other / "run.json", device="cuda")
    comparison = compare_runs([*granet, other])
    assert comparison.groups[0].marks == ("versions", "devices")
    assert any("torch 0.1 (1 run)" in note for note in comparison.notes)


# Targets.


def test_a_run_that_missed_its_target_is_marked_and_named(granet: list[Path], tmp_path: Path) -> None:
    summary = read_summary(granet[0])
    pruned = summary["parameters"] - summary["kept_parameters"]
    scope = round(pruned / summary["sparsity"])
    missed = copy_run(
        granet[0],
        tmp_path / "missed",
        kept_parameters=summary["kept_parameters"] + 1,
        sparsity=(pruned - 1) / scope,
    )
    comparison = compare_runs([granet[1], granet[2], missed])
    assert comparison.groups[0].marks == (MISSED,)
    kept = scope - pruned
    assert comparison.notes == (f"{missed} missed its target: kept {kept + 1:,} of {scope:,} weights, not {kept:,}",)


@settings(max_examples=10, deadline=None)
@given(scope=st.integers(1000, 10**8), sparsity=st.floats(0.01, 0.999), apart=st.sampled_from([-1, 0, 1]))
def test_the_target_is_the_exact_promise(
    granet_run: Path, tmp_path_factory: pytest.TempPathFactory, scope: int, sparsity: float, apart: int
) -> None:
    kept = round((1 - sparsity) * scope) + apart
    run = tmp_path_factory.mktemp("exact") / "run"
    copy_run(granet_run, run, parameters=scope + 7, kept_parameters=kept + 7, sparsity=(scope - kept) / scope)
    group = compare_runs([change_recipe(run, sparsity=sparsity)]).groups[0]
    assert (MISSED in group.marks) == (apart != 0)


@pytest.fixture(scope="module")
def granet_run(runs: Path) -> Path:
    """One run, for tests that hypothesis repeats."""
    return runs / "granet-0.9-seed0"


def test_layers_of_a_method_with_ratios_have_to_reach_theirs(granet: list[Path], tmp_path: Path) -> None:
    layers = {
        "whole": {"shape": [10, 100], "sparsity": 0.0},
        "reached": {"shape": [10, 300], "sparsity": 0.9},
        "most that can go": {"shape": [5, 300], "sparsity": 0.8},
    }
    run = copy_run(granet[0], tmp_path / "greg", layers=layers, method="greg-1")
    change_recipe(run, method={"name": "greg-1", "granularity": "filter"}, sparsity=0.85)
    assert MISSED not in compare_runs([run]).groups[0].marks
    change_json(run / "summary.json", layers=layers | {"short": {"shape": [10, 30], "sparsity": 0.7}})
    comparison = compare_runs([run])
    assert MISSED in comparison.groups[0].marks
    assert "1 layers have less than asked for, such as short" in comparison.notes[0]


def test_what_could_not_be_taken_out_misses_the_target(granet: list[Path], tmp_path: Path) -> None:
    run = copy_run(granet[0], tmp_path / "part", shrunk=True, not_removed={"conv1": "its outputs are added"})
    comparison = compare_runs([run])
    assert MISSED in comparison.groups[0].marks
    assert "still there in 1 layers" in comparison.notes[0]


# What is left out or refused.


def test_runs_that_are_not_finished_are_named_and_left_out(granet: list[Path], tmp_path: Path) -> None:
    begun = copy_run(granet[0], tmp_path / "a-begun")
    (begun / "summary.json").unlink()
    failed = tmp_path / "b-failed"
    failed.mkdir()
    (failed / "train.log").write_text("error: it broke\n")
    damaged = copy_run(granet[0], tmp_path / "c-damaged")
    (damaged / "summary.json").write_text("{")
    copy_run(granet[1], tmp_path / "d-done")
    foreign = copy_run(granet[2], tmp_path / "e-foreign")
    (foreign / "summary.json").write_text("{}")
    comparison = compare_runs([tmp_path])
    assert [group.seeds for group in comparison.groups] == [(1,)]
    assert [item.folder for item in comparison.left_out] == [begun, failed, damaged, foreign]
    reasons = [item.reason for item in comparison.left_out]
    assert reasons[0] == "it is not finished"
    assert "train.log" in reasons[1]
    assert "damaged" in reasons[2]
    assert reasons[3].startswith("summary.json has no method")
    told = compare(tmp_path).stdout
    assert told.startswith("1 run of digits/lenet300")
    assert f"left out: {begun}, it is not finished" in told


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("summary.json", {"test_accuracy": "high"}),
        ("summary.json", {"layers": ["fc1"]}),
        ("summary.json", {"target_sparsity": "0.9"}),
        ("summary.json", {"kept_parameters": None}),
        ("summary.json", {"test_accuracy": float("nan")}),
        ("summary.json", {"training_flops_sparse": float("inf")}),
        ("run.json", {"start": {"step": "first"}}),
    ],
)
def test_values_of_another_type_and_no_number_leave_a_run_out_by_name(
    granet: list[Path], tmp_path: Path, name: str, values: dict
) -> None:
    damaged = copy_run(granet[0], tmp_path / "damaged")
    change_json(damaged / name, **values)
    comparison = compare_runs([damaged, granet[1]])
    (item,) = comparison.left_out
    assert item.reason.startswith(f"{name} is damaged: {next(iter(values))}")
    assert [group.seeds for group in comparison.groups] == [(1,)]


def test_runs_that_were_to_stop_on_the_way_are_named_and_left_out(granet: list[Path], tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE, SETTINGS)
    for stop in (None, 10):
        folder = tmp_path / f"stop-{stop}"
        train(recipe, out=folder, stop=stop, device="cpu", quiet=True, download=False, logger="none")
    comparison = compare_runs([tmp_path, granet[0]])
    assert sorted(group.method for group in comparison.groups) == ["dense", "granet"]
    assert group_of(comparison, "dense").name == "dense"
    (item,) = comparison.left_out
    assert item.folder == tmp_path / "stop-10"
    assert "stop before step 10" in item.reason


def test_without_any_finished_run_there_is_nothing_to_compare(granet: list[Path], tmp_path: Path) -> None:
    copy_run(granet[0], tmp_path / "begun")
    (tmp_path / "begun" / "summary.json").unlink()
    result = compare(tmp_path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no finished run to compare" in result.stderr
    assert "it is not finished" in result.stderr


@pytest.mark.parametrize("values", [{"name": "mnist"}, {"name": "digits", "validation": 100}])
def test_runs_on_different_images_are_refused_by_name(granet: list[Path], tmp_path: Path, values: dict) -> None:
    other = change_recipe(copy_run(granet[0], tmp_path / "other"), data={"batch_size": 128} | values)
    result = compare(*granet, other)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "digits, test images" in result.stderr
    assert str(other) in result.stderr
    assert ("100 validation images" if "validation" in values else "mnist, test images") in result.stderr


@pytest.mark.parametrize(
    ("made", "words"), [(None, "there is no run folder"), ("folder", "holds no run"), ("file", "is no run folder")]
)
def test_what_is_no_run_is_refused_by_name(tmp_path: Path, made: str | None, words: str) -> None:
    path = tmp_path / "thing"
    if made == "folder":
        path.mkdir()
    elif made == "file":
        path.write_text("x")
    result = compare(path)
    assert result.exit_code == 2
    assert str(path) in result.stderr
    assert words in result.stderr


# Networks that got smaller, and published numbers.


def test_of_networks_that_got_smaller_the_parameters_say_what_was_removed(granet: list[Path], tmp_path: Path) -> None:
    small = copy_run(
        granet[0], tmp_path / "small", shrunk=True, sparsity=0.0, parameters=2000, kept_parameters=2000, not_removed={}
    )
    change_recipe(small, duration="3ep")
    comparison = compare_runs([small, granet[1]])
    assert comparison.has_shrunk
    shrunk = next(group for group in comparison.groups if group.shrunk)
    assert shrunk.kept_share == 2000 / 50_610
    other = next(index for index, group in enumerate(comparison.groups) if not group.shrunk)
    # Larger and no more accurate: with a sparsity of 0 for the small one it would be the other way round.
    assert (other in comparison.fronts["size"][0]) == (comparison.groups[other].accuracy.mean > shrunk.accuracy.mean)
    assert "2,000 (3.95 %)" in compare(small).stdout


def test_a_published_number_stands_beside_ours_with_its_source(granet: list[Path], tmp_path: Path) -> None:
    run = copy_run(granet[0], tmp_path / "run")
    change_recipe(
        run, published=[{"accuracy": 97.25, "source": "a paper, table 3", "method": "granet", "sparsity": 0.9}]
    )
    result = compare(run, "--format", "markdown")
    header, row = (
        [cell.strip() for cell in line.split("|")]
        for line in result.stdout.splitlines()
        if line.startswith(("| method", "| granet"))
    )
    assert row[header.index("published, %")] == "97.25"
    assert "published 97.25 %: a paper, table 3" in result.stdout


# Formats.


def test_the_csv_holds_plain_numbers(runs: Path, granet: list[Path]) -> None:
    result = compare(runs, "--format", "csv")
    records = list(csv.DictReader(io.StringIO(result.stdout)))
    assert len(records) == 4
    record = next(record for record in records if record["method"] == "granet")
    assert float(record["accuracy_mean"]) == pytest.approx(
        statistics.fmean(read_summary(run)["test_accuracy"] for run in granet)
    )
    assert (record["target_sparsity"], record["seeds"], record["marks"]) == ("0.9", "0 1 2", "")
    assert record["kept_parameters"] == str(read_summary(granet[0])["kept_parameters"])
    assert record["folders"].split("; ") == [str(run) for run in granet]
    assert next(record for record in records if record["method"] == "dense")["target_sparsity"] == ""


def test_the_csv_has_a_column_for_each_setting_and_ratios_as_json(granet: list[Path], tmp_path: Path) -> None:
    target = {"fc1*": 0.5, "fc2*": 0.25}
    named = copy_run(granet[0], tmp_path / "named", method="magnitude", target_sparsity=target)
    change_recipe(named, method={"name": "magnitude", "granularity": "filter"}, sparsity=target)
    slow = change_recipe(copy_run(granet[1], tmp_path / "slow"), optimizer={"name": "sgd", "lr": 0.01})
    result = compare(granet[0], named, slow, "--format", "csv")
    records = {record["folders"]: record for record in csv.DictReader(io.StringIO(result.stdout))}
    assert json.loads(records[str(named)]["target_sparsity"]) == target
    rates = [records[str(run)]["setting:optimizer.lr"] for run in (granet[0], slow, named)]
    assert rates == ["0.1", "0.01", ""]


def test_the_tables_show_every_group_and_the_methods_by_sparsity(runs: Path) -> None:
    result = compare(runs)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "7 runs of digits/lenet300 with duration=2ep method_defaults.update_interval=4 on digits, test" in lines[0]
    matrix = next(line for line in lines if line.split()[:1] == ["rigl"])
    comparison = compare_runs([runs])
    assert [f"{group_of(comparison, 'rigl', target).accuracy.mean:.2f}" for target in (0.9, 0.98)] == matrix.split()[1:]
    assert sum("<3 seeds" in line for line in lines) == 3


def test_settings_that_not_all_runs_share_are_not_said_of_all(granet: list[Path], tmp_path: Path) -> None:
    longer = change_recipe(copy_run(granet[0], tmp_path / "longer"), duration="3ep")
    assert compare_runs([granet[0], longer]).settings_text == "method_defaults.update_interval=4"
    unknown = change_recipe(copy_run(granet[1], tmp_path / "unknown"), name="mine")
    assert compare_runs([unknown]).settings == {}


def test_markdown_tables_have_as_many_cells_in_every_row(runs: Path, granet: list[Path], tmp_path: Path) -> None:
    piped = change_recipe(copy_run(granet[0], tmp_path / "piped"), name="a|b", sparsity=0.91)
    result = compare(runs, piped, "--format", "markdown")
    blocks = [block.splitlines() for block in result.stdout.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 2
    for block in blocks:
        assert len({line.replace("\\|", "").count("|") for line in block}) == 1
    assert "a\\|b" in result.stdout


@pytest.mark.parametrize(
    ("name", "start"), [("c.csv", "images,"), ("c.md", "7 runs"), ("c.txt", "7 runs"), ("c.html", "<!")]
)
def test_the_suffix_of_the_file_says_what_is_written(runs: Path, tmp_path: Path, name: str, start: str) -> None:
    result = compare(runs, "--out", tmp_path / name)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"comparison {tmp_path / name}\n"
    assert (tmp_path / name).read_text(encoding="utf-8").lower().startswith(start.lower())


def test_a_file_that_is_there_is_replaced_only_on_demand(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.csv"
    file.write_text("mine")
    refused = compare(runs, "--out", file)
    assert (refused.exit_code, file.read_text()) == (2, "mine")
    assert "--force" in refused.stderr
    assert compare(runs, "--out", file, "--force").exit_code == 0
    assert file.read_text().startswith("images,")


def test_a_text_file_has_no_colours(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = compare(runs).stdout
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert compare(runs, "--out", tmp_path / "c.txt").exit_code == 0
    written = (tmp_path / "c.txt").read_text(encoding="utf-8")
    assert "\x1b" not in written
    words = [sorted(word for word in text.split() if "─" not in word) for text in (plain, written)]
    assert words[0] == words[1]


def test_force_without_a_file_is_refused(runs: Path) -> None:
    result = compare(runs, "--force")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--force is for a file" in result.stderr


@pytest.mark.parametrize("arguments", [["--out", "c.pdf"], ["--format", "csv", "--out", "c.md"]])
def test_a_suffix_that_does_not_suit_is_refused(runs: Path, tmp_path: Path, arguments: list[str]) -> None:
    result = compare(runs, *arguments[:-1], tmp_path / arguments[-1])
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert ".csv" in result.stderr


def test_runs_of_earlier_versions_can_be_compared(granet: list[Path], tmp_path: Path) -> None:
    run = copy_run(granet[0], tmp_path / "old")
    summary = json.loads((run / "summary.json").read_text())
    for key in ("parameters_dense", "shrunk", "not_removed"):
        del summary[key]
    (run / "summary.json").write_text(json.dumps(summary))
    (run / "run.json").unlink()
    shutil.rmtree(run / "tensorboard", ignore_errors=True)
    group = compare_runs([run]).groups[0]
    assert (group.dense_parameters, group.shrunk) == (50_610, False)


# The small parts.


@given(st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), max_size=12))
def test_the_front_holds_exactly_what_nothing_else_beats(points: list[tuple[float, float]]) -> None:
    def beaten(index: int) -> bool:
        cost, value = points[index]
        return any(c <= cost and v >= value and (c, v) != (cost, value) for c, v in points)

    front = pareto_front(points)
    assert set(front) == {index for index in range(len(points)) if not beaten(index)}
    assert [points[index] for index in front] == sorted(points[index] for index in front)


def test_of_nearly_the_same_cost_the_better_one_is_on_the_front() -> None:
    assert pareto_front([(1.0, 99.0), (0.999, 70.0), (0.9, 80.0)]) == [2, 0]


@given(low=POSITIVE, ratio=st.floats(1, 1e5), dense=st.booleans())
def test_an_axis_has_a_few_round_labels_in_its_range(low: float, ratio: float, dense: bool) -> None:
    high = low * ratio
    ticks = log_ticks(low, high, dense=dense)
    assert ticks == sorted(set(ticks))
    assert all(float(f"{tick:.3g}") == tick or ratio < 1.01 for tick in ticks)
    assert 1 <= len(ticks) <= 14
    assert len(ticks) > 1 or ratio < 1.1
    assert ticks[0] <= high * 1.2
    assert ticks[-1] >= low


def test_lines_that_lie_on_others_are_found_and_said(granet: list[Path], tmp_path: Path) -> None:
    one, far = [(0.0, 1.0), (1.0, 2.0)], [(0.0, 3.0), (1.0, 4.0)]
    assert twin_lines([one, far, [(0.0, 1.01), (1.0, 2.01)], one[:1]]) == {2: 0}
    again = change_recipe(copy_run(granet[0], tmp_path / "again"), optimizer={"name": "sgd", "lr": 0.3})
    plot, *_ = comparison_plots(compare_runs([granet[0], granet[1], granet[2], again]))
    assert "lies on" not in plot.note
    plot, *_ = comparison_plots(compare_runs([granet[0], again]))
    assert re.search(r" granet lr=0\.\d .*lies on granet lr=0\.\d ", plot.note)


@given(st.lists(st.tuples(st.floats(0, 100), st.none() | st.floats(0, 30)), min_size=1, max_size=8))
def test_every_accuracy_and_its_bar_has_a_place_on_the_axis(points: list[tuple[float, float | None]]) -> None:
    accuracies, deviations = [list(values) for values in zip(*points, strict=True)]
    axis, bars = accuracy_axis(accuracies, deviations), error_bars(accuracies, deviations)
    bottom, top = (10**power for power in axis["range"])
    for accuracy, down in zip(accuracies, bars["arrayminus"], strict=True):
        assert top < error_of(accuracy) < bottom
        assert error_of(accuracy) - down > 0
    assert all(float(text) <= 100 for text in axis["ticktext"])


def test_settings_that_differ_are_found_at_any_depth() -> None:
    one = {"a": {"b": 1, "c": [1, {"d": 2}]}, "stages": [{"kind": "train"}], "same": 3}
    other = {"a": {"b": 2, "c": [1, {"d": 3}]}, "stages": [{"kind": "train"}, {"kind": "prune"}], "same": 3}
    assert settings_apart([one, other]) == [
        {"a.b": "1", "a.c.1.d": "2", "stages": "train"},
        {"a.b": "2", "a.c.1.d": "3", "stages": "train+prune"},
    ]


def test_stages_of_the_same_names_are_told_apart_by_all_they_say() -> None:
    one, other = {"s": [{"kind": "train", "n": 1}]}, {"s": [{"kind": "train"}, {"kind": "prune"}]}
    third = {"s": [{"kind": "train"}, {"kind": "prune", "n": 2}]}
    texts = [apart["s"] for apart in settings_apart([one, other, third])]
    assert len(set(texts)) == 3


def test_magnitude_in_a_train_stage_is_held_to_the_count_of_all_layers(granet_run: Path, tmp_path: Path) -> None:
    run = change_recipe(copy_run(granet_run, tmp_path / "run", method="magnitude"), method={"name": "magnitude"})
    assert MISSED not in compare_runs([run]).groups[0].marks


def test_a_method_that_removed_nothing_has_missed_its_target(granet_run: Path, tmp_path: Path) -> None:
    total = read_summary(granet_run)["parameters"]
    run = copy_run(granet_run, tmp_path / "run", method="greg-1", kept_parameters=total, sparsity=0.0)
    change_recipe(run, method={"name": "greg-1", "granularity": "filter"}, sparsity=[0.5, 0.5, 0.0])
    (note,) = [note for note in compare_runs([run]).notes if "missed" in note]
    assert "no weight was removed, and 50.00 %, 50.00 %, 0.00 % asked for" in note
