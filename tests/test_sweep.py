"""Sweeps: the grid, the plan, and runs as processes that are killed, interrupted, fail, and are called again."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner, Result
from waiting import interrupted_when, interrupts, wait_for

from sparsewright.cli import app
from sparsewright.cli.sweep_progress import ProgressLines, ProgressTable
from sparsewright.sweep import (
    Cell,
    LocalWorkers,
    RunOptions,
    RunStatus,
    State,
    Sweep,
    plan_sweep,
    run_sweep,
    take_stock,
)
from sparsewright.sweep.grid import Axis, combinations, parse_axes, split_values
from sparsewright.sweep.local import visible_gpus
from sparsewright.sweep.process import RunProcess
from sparsewright.sweep.records import check_root
from sparsewright.sweep.status import Length, length_of
from sparsewright.training import RecipeError, load_recipe, read_metrics, train
from sparsewright.training.folder import CHECKPOINT, LOG, METRICS, SUMMARY, RunFolderError, only_here

ROOT = Path(__file__).resolve().parents[1]
RECIPE = "digits/lenet300"
PLAIN = st.text("abcXYZ0159._-+=:/ ", min_size=1).map(str.strip).filter(bool)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))


def sweep(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["sweep", RECIPE, *map(str, arguments), "--device", "cpu", "--threads", "1"])


@contextmanager
def sweep_process(*arguments: object) -> Generator[subprocess.Popen[str], None, None]:
    options = ["--device", "cpu", "--threads", "1"]
    command = [sys.executable, "-m", "sparsewright", "sweep", RECIPE, *map(str, arguments), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def nothing_trains_in(folder: Path) -> bool:
    try:
        with only_here(folder):
            return True
    except RunFolderError:
        return False


# The grid.


@settings(deadline=None)
@given(values=st.lists(PLAIN, min_size=1, unique=True))
def test_values_are_set_off_by_commas(values: list[str]) -> None:
    assert split_values(",".join(values)) == values


@settings(deadline=None)
@given(
    lists=st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=4),
    quoted=st.lists(st.text("ab, []{}", max_size=5), max_size=3),
)
def test_commas_in_brackets_braces_and_quotes_belong_to_the_value(lists: list[list[int]], quoted: list[str]) -> None:
    values = [*map(str, lists), "{a: [1, 2], b: 'x, y'}", *(f'"{text}"' for text in quoted)]
    assert split_values(",".join(values)) == values


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "seed"]), st.lists(PLAIN, min_size=1, max_size=3, unique=True)))
def test_every_combination_is_there_once_and_the_seed_varies_fastest(grid: dict[str, list[str]]) -> None:
    axes = parse_axes([f"{key}={','.join(values)}" for key, values in grid.items()])
    found = combinations(axes)
    count = 1
    for values in grid.values():
        count *= len(values)
    assert len(found) == len({tuple(cell.items()) for cell in found}) == count
    assert [cell["seed"] for cell in found][: len(axes[-1].values)] == list(axes[-1].values)
    assert all(cell[key] in {**grid, "seed": grid.get("seed", ["0"])}[key] for cell in found for key in cell)


@pytest.mark.parametrize(
    ("grid", "parts"),
    [
        (["sparsity"], ["key=a,b,c", "'sparsity'"]),
        (["=1"], ["key=a,b,c"]),
        (["seed=0", "seed=1"], ["seed is given twice", "seed=A,B"]),
        (["method=rigl,,gmp"], ["method=rigl,,gmp", "missing"]),
        (["sparsity="], ["sparsity=: a value is missing"]),
        (["method=rigl,gmp,rigl"], ["the value rigl is there twice"]),
    ],
)
def test_a_grid_that_is_not_well_formed_is_refused(grid: list[str], parts: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        parse_axes(grid)
    assert all(part in str(refused.value) for part in parts)


def test_without_a_seed_there_is_the_seed_0() -> None:
    assert parse_axes(["method=rigl"]) == (Axis("method", ("rigl",)), Axis("seed", ("0",)))


# The plan.


def test_dense_among_methods_is_run_once_for_all_sparsities(tmp_path: Path) -> None:
    grid = ["method=dense,granet", "sparsity=0.9,0.95", "method.drop_fraction=0.3", "seed=0,1"]
    plan = plan_sweep(RECIPE, grid, tmp_path)
    found = [(cell.settings["method"], cell.settings.get("sparsity"), cell.seed) for cell in plan.cells]
    assert found == [("dense", None, 0), ("dense", None, 1)] + [
        ("granet", sparsity, seed) for sparsity in ("0.9", "0.95") for seed in (0, 1)
    ]
    assert all(
        "method.drop_fraction=0.3" in cell.overrides for cell in plan.cells if cell.settings["method"] != "dense"
    )
    assert plan.same == tuple(f"method=dense sparsity=0.95 method.drop_fraction=0.3 seed={seed}" for seed in (0, 1))
    assert plan.varied == ("method", "sparsity", "seed")
    assert [plan.name_of(cell) for cell in plan.cells[1:3]] == [
        "method=dense seed=1",
        "method=granet sparsity=0.9 seed=0",
    ]


def test_dense_takes_the_place_of_a_recipes_own_sparsity(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(f"extends: {RECIPE}\nmethod: granet\nsparsity: 0.9\n")
    plan = plan_sweep(str(tmp_path / "own.yaml"), ["method=dense,rigl"], tmp_path)
    assert [cell.recipe.sparsity for cell in plan.cells] == [None, 0.9]


def test_dense_alone_refuses_a_sparsity_as_train_does(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"method=dense sparsity=0\.9 seed=0: .*no effect with method dense"):
        plan_sweep(RECIPE, ["method=dense", "sparsity=0.9"], tmp_path)


def test_a_combination_that_the_recipe_refuses_is_named_before_anything_starts(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = sweep("method=granet,rigl", "sparsity=0.9,1.5", "seed=0,1", "--out", out)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: method=granet sparsity=1.5 seed=0: ")
    assert not out.exists()


@pytest.mark.parametrize("seed", ["0,x", "0..2", "-1"])
def test_a_seed_that_is_none_is_refused(tmp_path: Path, seed: str) -> None:
    with pytest.raises(RecipeError, match=r"^seed=\S+: seed must be .*; several seeds are written seed=0,1,2"):
        plan_sweep(RECIPE, [f"seed={seed}"], tmp_path)


def test_a_combination_is_not_blamed_for_what_is_wrong_with_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(f"extends: {RECIPE}\ndurations: 2ep\n")
    for recipe, begin in (("nosuch/recipe", "there is no recipe"), (str(tmp_path / "wrong.yaml"), "recipe wrong")):
        with pytest.raises(RecipeError, match=f"^{begin}"):
            plan_sweep(recipe, ["seed=0,1"], tmp_path)


def test_a_logger_that_is_not_installed_is_told_of_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    result = sweep("--logger", "wandb", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "wandb" in result.stderr
    assert not (tmp_path / "out").exists()


@settings(max_examples=8, deadline=None)
@given(
    rates=st.lists(st.floats(1e-6, 10), min_size=1, max_size=3, unique=True),
    patterns=st.lists(st.text("ab/*. ", min_size=1, max_size=40), min_size=1, max_size=3, unique=True),
)
def test_folders_of_a_plan_are_readable_names_that_do_not_collide(rates: list[float], patterns: list[str]) -> None:
    grid = [
        "method=granet,rigl",
        f"optimizer.lr={','.join(map(str, rates))}",
        "method.include=" + ",".join(f"['{pattern}']" for pattern in patterns),
        "sparsity=0.9",
        "seed=0,7",
    ]
    plan = plan_sweep(RECIPE, grid, Path("runs/x"))
    names = [cell.folder.name for cell in plan.cells]
    assert len(set(names)) == len(names) == 4 * len(rates) * len(patterns)
    assert all(cell.folder.parent == Path("runs/x") for cell in plan.cells)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._=-") for name in names)
    assert all(len(name) < 150 and name.startswith(("granet-0.9-", "rigl-0.9-")) for name in names)


def test_a_run_is_found_again_whatever_else_the_grid_says(tmp_path: Path) -> None:
    first = plan_sweep(RECIPE, ["method=granet", "sparsity=0.9"], tmp_path).cells[0]
    (tmp_path / f"renamed-{first.digest}").mkdir(parents=True)
    # The recipe's own value, given again, does not make another run.
    again = ["sparsity=0.9,0.95", "optimizer.momentum=0.9", "method=granet", "seed=1,0"]
    assert tmp_path / f"renamed-{first.digest}" in [cell.folder for cell in plan_sweep(RECIPE, again, tmp_path).cells]


def test_the_default_folder_is_named_after_the_recipe() -> None:
    assert plan_sweep(RECIPE, []).root == Path("runs/sweep-digits-lenet300")


# Carrying it out, with workers that do nothing.


class FakeWorkers:
    """Two at a time; each ends at the second look, those of seed 1 with a problem."""

    def __init__(self) -> None:
        self.running: list[tuple[Cell, int]] = []
        self.most = 0
        self.fresh: list[Cell] = []
        self.stopped = False

    def has_room(self) -> bool:
        return len(self.running) < 2

    def start(self, cell: Cell) -> None:
        self.running.append((cell, 0))
        self.fresh.append(cell)
        self.most = max(self.most, len(self.running))

    def begun(self) -> list[Cell]:
        found, self.fresh = self.fresh, []
        return found

    def ended(self) -> list[tuple[Cell, str | None]]:
        looked_at = [(cell, looks + 1) for cell, looks in self.running]
        self.running = [(cell, looks) for cell, looks in looked_at if looks < 2]
        return [(cell, "it broke" if cell.seed == 1 else None) for cell, looks in looked_at if looks == 2]

    def stop(self) -> None:
        self.stopped = True


def statuses_of(root: Path, seeds: str) -> list[RunStatus]:
    plan = plan_sweep(RECIPE, ["duration=2ep", f"seed={seeds}"], root)
    return take_stock(plan.cells, RunOptions())


def test_a_failed_run_does_not_stop_the_others(tmp_path: Path) -> None:
    statuses, workers = statuses_of(tmp_path, "0,1,2"), FakeWorkers()
    seen: list[list[State]] = []
    run_sweep(statuses, workers, lambda now: seen.append([status.state for status in now]))
    assert (workers.most, workers.stopped) == (2, True)
    assert seen[0] == [State.WAITING] * 3
    assert [State.RUNNING, State.RUNNING, State.WAITING] in seen
    # Nothing was trained, and a run without a summary is not done, whatever its process says.
    assert [status.state for status in statuses] == [State.FAILED] * 3
    assert [status.problem for status in statuses] == [
        "it ended without a summary.json",
        "it broke",
        "it ended without a summary.json",
    ]


def test_a_run_that_another_process_trains_is_put_off(tmp_path: Path) -> None:
    statuses, workers = statuses_of(tmp_path, "0,2"), FakeWorkers()
    held = only_here(statuses[0].cell.folder)
    held.__enter__()
    states: list[State] = []

    def observe(now: object) -> None:
        states.append(statuses[0].state)
        if statuses[1].state == State.FAILED and State.RUNNING not in states:
            held.__exit__(None, None, None)

    run_sweep(statuses, workers, observe)
    assert State.ELSEWHERE in states
    assert states.index(State.ELSEWHERE) < states.index(State.RUNNING)
    assert statuses[0].state == State.FAILED


def test_runs_are_stopped_however_a_sweep_ends(tmp_path: Path) -> None:
    workers = FakeWorkers()

    def interrupt(now: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(statuses_of(tmp_path, "0"), workers, interrupt)
    assert workers.stopped


def test_the_length_counts_all_stages() -> None:
    recipe = load_recipe(
        RECIPE, ["stages=[{kind: train, duration: 2ep}, {kind: evaluate}, {kind: train, duration: 7it}]"]
    )
    assert length_of(recipe, 5) == Length(epochs=4, steps=17)


def test_time_left_follows_the_pace_since_the_start(tmp_path: Path) -> None:
    status = statuses_of(tmp_path, "0")[0]
    assert status.length is not None
    status.step = 4
    status.state, status.began, status.first_step = State.RUNNING, 100.0, 4
    assert status.seconds_left(110.0) is None
    status.step = 8
    assert status.seconds_left(110.0) == pytest.approx(10 / 4 * (status.length.steps - 8))


def half_done(root: Path) -> tuple[Sweep, list[RunStatus]]:
    """One run done, one failed, one running at half of its way, one waiting."""
    sweep = plan_sweep(RECIPE, ["duration=2ep", "optimizer.lr=0.1,0.2,0.3,0.4"], root)
    statuses = take_stock(sweep.cells, RunOptions())
    done, failed, running, _ = statuses
    done.state, done.accuracy = State.DONE, 97.5
    failed.state, failed.problem = State.FAILED, "it broke"
    running.begin(time.monotonic() - 10)
    assert running.length is not None
    running.epoch, running.step = 1, running.length.steps // 2
    return sweep, statuses


@pytest.mark.parametrize("width", [80, 200])
def test_the_table_of_progress_shows_the_figures_at_any_width(tmp_path: Path, width: int) -> None:
    sweep, statuses = half_done(tmp_path)
    console = Console(width=width, height=30, file=io.StringIO(), record=True)
    table = ProgressTable(sweep, console)
    table(statuses)
    console.print(table.render())
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["done", "0/2", "97.50", "%", "optimizer.lr=0.1"] in lines
    assert ["failed", "0/2", "optimizer.lr=0.2"] in lines
    running = next(line for line in lines if line[:1] == ["running"])
    assert (running[1], running[-1]) == ("1/2", "optimizer.lr=0.3")
    assert float(running[2]) == pytest.approx(10, abs=2)
    assert ["1", "waiting,", "1", "running,", "1", "done,", "1", "failed"] in [line[:8] for line in lines]


def test_lines_of_progress_tell_each_change_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep, statuses = half_done(tmp_path)
    lines = ProgressLines(sweep)
    lines(statuses)
    assert capsys.readouterr().out == ""
    statuses[2].state, statuses[2].accuracy = State.DONE, 98.0
    for _ in range(2):
        lines(statuses)
    assert capsys.readouterr().out.startswith("[3/4]  done  optimizer.lr=0.3  accuracy 98.00 %")
    assert capsys.readouterr().out == ""


def test_gpus_are_those_that_the_process_may_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-7f3a")
    assert visible_gpus() == ["2", "GPU-7f3a"]


def test_absent_data_are_told_of_once_and_before_anything_starts(tmp_path: Path) -> None:
    grid = ["method=granet", "sparsity=0.9", "seed=0,1", "--no-download", "--data-dir", str(tmp_path / "none")]
    result = CliRunner().invoke(app, ["sweep", "mnist/lenet300", *grid, "--out", str(tmp_path / "out")])
    assert (result.exit_code, result.stderr.count("error: mnist is not in")) == (2, 1)
    assert not list((tmp_path / "out").rglob("train.log"))


def test_two_sweeps_in_one_folder_are_refused(tmp_path: Path) -> None:
    with only_here(tmp_path):
        result = sweep("duration=1ep", "--out", tmp_path)
    assert result.exit_code == 2
    assert f"another process is training in {tmp_path}" in result.stderr


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep with one run, of the seed 0."""
    root = tmp_path_factory.mktemp("finished") / "sweep"
    cell = plan_sweep(RECIPE, ["duration=1ep"], root).cells[0]
    train(cell.recipe, out=cell.folder, device="cpu", quiet=True, logger="none")
    return root


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("summary.json", "{", "delete it, and the same command finishes the run again"),
        ("summary.json", "{}", "delete it, and the same command finishes the run again"),
        ("recipe.yaml", "", "delete the folder, and the same command trains the run anew"),
        ("run.json", "[]", "delete the folder, and the same command trains the run anew"),
        ("recipe.yaml", None, "delete the folder, and the same command trains the run anew"),
    ],
)
def test_a_finished_run_with_a_damaged_record_fails_and_the_others_go_on(
    tmp_path: Path, finished_run: Path, name: str, content: str | None, part: str
) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "copy"))
    statuses = take_stock(plan_sweep(RECIPE, ["duration=1ep", "seed=0,2"], root).cells, RunOptions())
    assert [(status.state, status.reused) for status in statuses] == [(State.DONE, True), (State.WAITING, False)]
    file = statuses[0].cell.folder / name
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    statuses = take_stock(plan_sweep(RECIPE, ["duration=1ep", "seed=0,2"], root).cells, RunOptions())
    assert [status.state for status in statuses] == [State.FAILED, State.WAITING]
    assert statuses[0].problem is not None
    assert name in statuses[0].problem
    assert part in statuses[0].problem


def test_a_run_whose_damaged_summary_is_deleted_is_finished_again(tmp_path: Path, finished_run: Path) -> None:
    root = Path(shutil.copytree(finished_run, tmp_path / "copy"))
    (summary,) = root.glob(f"*/{SUMMARY}")
    former = json.loads(summary.read_text())
    summary.write_text("")
    failed = sweep("duration=1ep", "--out", root)
    assert failed.exit_code == 1
    assert f"{summary.parent}: summary.json is damaged; delete it" in failed.stdout
    summary.unlink()
    assert sweep("duration=1ep", "--out", root).exit_code == 0
    assert json.loads(summary.read_text())["test_accuracy"] == former["test_accuracy"]


def test_a_folder_of_something_else_is_refused(tmp_path: Path, finished_run: Path) -> None:
    (run,) = finished_run.iterdir()
    study = tmp_path / "study"
    shutil.copytree(run, study / "seed-0" / "base")
    for out, part in (
        (study, f"{study} holds a pruning-plasticity study"),
        (run, f"{run} is the folder of one run"),
        (run / SUMMARY, f"{run / SUMMARY} is a file and not a folder"),
    ):
        result = sweep("duration=1ep", "--out", out)
        assert (result.exit_code, result.stderr) == (2, f"error: {part}; choose another folder with --out\n")
    (tmp_path / "other.yaml").write_text(f"extends: {RECIPE}\n")
    with pytest.raises(RunFolderError, match=f"holds runs of the recipe {RECIPE}, such as {run.name}, and this"):
        check_root(plan_sweep(str(tmp_path / "other.yaml"), [], finished_run))
    check_root(plan_sweep(RECIPE, ["duration=3ep"], finished_run))


def test_seeds_given_as_an_option_are_told_where_they_belong() -> None:
    result = sweep("--seed", "0,1")
    assert result.exit_code == 2
    assert "a setting without dashes: seed=0,1" in result.stderr


# Real processes.


@pytest.mark.slow
def test_a_killed_sweep_does_only_what_is_missing_when_it_is_called_again(tmp_path: Path) -> None:
    """Of three runs one is done, one is under way when the sweep is killed, and one cannot be started."""
    arguments = ("method=granet", "sparsity=0.9", "duration=60ep", "method.update_interval=4", "--out", tmp_path)
    grid = [*map(str, arguments[:4]), "optimizer.lr=0.1,0.05,0.01"]
    done, second, blocked = plan_sweep(RECIPE, grid, tmp_path).cells
    train(done.recipe, out=done.folder, device="cpu", quiet=True)
    # Where the log of that run would go.
    (blocked.folder / LOG).mkdir(parents=True)
    files_before = modified(done.folder)
    with sweep_process(*arguments, grid[-1]) as process:
        wait_for(lambda: (second.folder / CHECKPOINT).is_file() or process.poll() is not None, "the second run")
        assert process.poll() is None, process.communicate()[0]
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: nothing_trains_in(second.folder), "the end of the run that lost its sweep", seconds=60)
    assert not (second.folder / SUMMARY).exists()
    epochs_before = len(read_metrics(second.folder))

    result = sweep(*arguments, grid[-1])
    assert result.exit_code == 1, result.output
    assert "3 runs of digits/lenet300" in result.stdout
    assert "1 of them done already, 1 begun" in result.stdout
    assert modified(done.folder) == files_before
    assert 1 <= epochs_before < 60
    assert len(read_metrics(second.folder)) == 60
    assert (second.folder / LOG).read_text().count("$ sparsewright train") == 2
    assert "1 of 3 runs failed" in result.stdout
    assert f"  {blocked.folder}: it could not be started: " in result.stdout

    again = sweep(*arguments, "optimizer.lr=0.05,0.1")
    assert again.exit_code == 0
    assert again.stdout.count("done before") == 2
    assert "running" not in again.stdout


def modified(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@interrupts
@pytest.mark.slow
def test_interrupting_a_sweep_stops_its_runs_and_loses_nothing(tmp_path: Path) -> None:
    with interrupted_when(lambda: any(tmp_path.glob(f"*/{CHECKPOINT}"))):
        result = sweep("duration=2000ep", "seed=0,1", "--out", tmp_path)
    assert result.exit_code == 130, result.output
    assert "2 of 2 runs are not done; the same command goes on with them" in result.stderr
    run = next(tmp_path.glob("*-seed0-*"))
    assert nothing_trains_in(run)
    assert (run / METRICS).read_text().count("\n") >= 1
    assert "interrupted" in (run / LOG).read_text()
    assert not list(tmp_path.glob("*-seed1-*"))


def ended_process(folder: Path, *arguments: str) -> RunProcess:
    process = RunProcess(arguments, folder, threads=1)
    wait_for(process.ended, "the end of the process")
    return process


def test_a_failed_process_is_told_of_in_the_words_of_its_last_error(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text("error: of the time before\n")
    problem = ended_process(tmp_path, "train", RECIPE, "sparsity=2").problem()
    assert problem is not None
    assert problem.startswith(f"recipe {RECIPE}: sparsity")
    assert f"error: {problem}" in (tmp_path / LOG).read_text()


@pytest.mark.parametrize(
    ("number", "part"), [(9, "ended by SIGKILL, which is how a system without memory"), (40, "ended by signal 40")]
)
def test_a_process_that_a_signal_ends_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, part: str
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nkill -{number} $$\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert part in (ended_process(tmp_path).problem() or "")


def test_a_run_of_another_precision_is_not_taken_for_done(tmp_path: Path) -> None:
    plan = plan_sweep(RECIPE, ["duration=1ep"], tmp_path)
    plan.cells[0].folder.mkdir()
    (plan.cells[0].folder / "run.json").write_text(
        '{"seed": 0, "precision": "bf16", "device": "cpu", "world_size": 1, "threads": 1}'
    )
    with pytest.raises(RunFolderError, match="precision bf16, and this sweep has 32"):
        take_stock(plan.cells, RunOptions())


def test_workers_have_room_for_as_many_runs_as_jobs(tmp_path: Path) -> None:
    workers = LocalWorkers(plan_sweep(RECIPE, [], tmp_path), RunOptions(), jobs=1)
    assert workers.has_room()
    assert workers.ended() == workers.begun() == []
    workers.stop()
