"""layers.jsonl: what a run says about its layers, through kills, stages and a thousand updates."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsewright.analysis.history import TopologyTracker
from sparsewright.analysis.itop import ExplorationTracker
from sparsewright.masks import pack_bits, unpack_bits
from sparsewright.training import load_recipe, train
from sparsewright.training.layer_log import LAYERS, LayerLog, LayerRecorder, read_layer_log
from sparsewright.training.masks_file import MASKS, load_masks

QUICK = ["duration=4ep", "method.update_interval=7"]


def random_masks(generator: torch.Generator, shapes: list[tuple[int, ...]]) -> dict[str, Tensor]:
    return {f"layer{i}": torch.rand(shape, generator=generator) < 0.4 for i, shape in enumerate(shapes)}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=4),
    looks=st.integers(1, 5),
)
def test_the_tracker_counts_what_a_plain_comparison_counts(
    seed: int, shapes: list[tuple[int, ...]], looks: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    history = [random_masks(generator, shapes) for _ in range(looks + 1)]
    tracker, explored = TopologyTracker(history[0]), ExplorationTracker(history[0])
    for before, now in itertools.pairwise(history):
        change = tracker.look(now)
        explored.update(now)
        for index, name in enumerate(change.names):
            old, new, first = before[name], now[name], history[0][name]
            expected = (new.numel(), int(new.sum()), int((old & ~new).sum()), int((new & ~old).sum()))
            found = (change.weights[index], change.kept[index], change.dropped[index], change.grown[index])
            assert found == expected
            assert change.survived[index] == int((first & new).sum())
            assert change.explored[index] / change.weights[index] == explored.layer_rates()[name]


@given(bits=st.lists(st.booleans(), max_size=200))
def test_packed_bits_are_eight_a_byte_with_the_lowest_first(bits: list[bool]) -> None:
    packed = pack_bits(torch.tensor(bits, dtype=torch.bool))
    expected = [sum(bit << place for place, bit in enumerate(bits[i : i + 8])) for i in range(0, len(bits), 8)]
    assert packed.tolist() == expected
    assert unpack_bits(packed, (len(bits),)).tolist() == bits


@pytest.fixture(scope="module")
def rigl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layers") / "rigl"
    train(load_recipe("digits/lenet300", ["method=rigl", "sparsity=0.9", *QUICK]), out=folder, quiet=True)
    return folder


def test_a_run_logs_every_update_of_its_topology(rigl: Path) -> None:
    lines = read_layer_log(rigl).topology
    updates = range(7, round(0.75 * 92) + 1, 7)
    assert [line.step for line in lines] == [0, *updates]
    start, last = lines[0], lines[-1]
    assert start.dropped == start.grown == (0, 0, 0)
    assert start.kept == start.initial == start.survived == start.explored
    for line in lines:
        assert line.kept == start.kept, "RigL keeps the count of each layer"
        assert line.dropped == line.grown
        assert all(survived <= kept for survived, kept in zip(line.survived, line.kept, strict=True))
    assert all(end > begin for begin, end in zip(start.explored, last.explored, strict=True))
    masks = load_masks(rigl / MASKS)
    assert last.kept == tuple(int(masks[name].sum()) for name in last.names)


def test_dense_training_logs_no_topology(tmp_path: Path) -> None:
    train(load_recipe("digits/lenet300", ["duration=1ep"]), out=tmp_path / "run", quiet=True)
    assert read_layer_log(tmp_path / "run") == LayerLog()
    assert not (tmp_path / "run" / LAYERS).exists()


# Two epochs are too few for GSM, which says so; here only the counts matter.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("method", ["magnitude", "gsm"])
def test_pruning_in_one_shot_starts_from_the_dense_network(method: str, tmp_path: Path) -> None:
    recipe = load_recipe("digits/lenet300", [f"method={method}", "sparsity=0.9", "duration=2ep"])
    train(recipe, out=tmp_path / "run", quiet=True)
    start, pruned = read_layer_log(tmp_path / "run").topology
    assert start.kept == start.weights
    assert sum(pruned.kept) == 5020
    assert pruned.dropped == tuple(w - k for w, k in zip(pruned.weights, pruned.kept, strict=True))
    assert (start.step, pruned.step) == (0, 23 if method == "magnitude" else 46)


def test_ranks_of_each_layer_are_logged_where_asked_for(tmp_path: Path) -> None:
    recipe = load_recipe("digits/lenet300", ["method=static", "sparsity=0.9", "duration=2ep", "log_rank_every=1ep"])
    train(recipe, out=tmp_path / "run", quiet=True)
    ranks = read_layer_log(tmp_path / "run").ranks
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line.step for line in ranks] == [23, 46]
    for line, metric in zip(ranks, metrics, strict=True):
        assert line.layers.keys() == {"fc1.weight", "fc2.weight", "fc3.weight"}
        mean = sum(layer["stable"] for layer in line.layers.values()) / 3
        assert mean == pytest.approx(metric["rank_stable"], abs=1e-3)
        assert line.layers["fc3.weight"]["full"] == 10


@pytest.mark.slow
def test_a_killed_and_resumed_run_has_the_same_log(rigl: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from sparsewright.training import load_recipe, train\n"
        "import sparsewright.training.layer_log as log\n"
        "def look(self, step, masks, version, plain=log.LayerRecorder.look):\n"
        "    plain(self, step, masks, version)\n"
        "    if step == 60: os.kill(os.getpid(), signal.SIGKILL)\n"
        "log.LayerRecorder.look = look\n"
        f"recipe = load_recipe('digits/lenet300', ['method=rigl', 'sparsity=0.9', *{QUICK!r}])\n"
        f"train(recipe, out=Path({str(folder)!r}), quiet=True)\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert read_layer_log(folder).topology[-1].step == 56
    recipe = load_recipe("digits/lenet300", ["method=rigl", "sparsity=0.9", *QUICK])
    train(recipe, out=folder, resume=True, quiet=True)
    assert (folder / LAYERS).read_bytes() == (rigl / LAYERS).read_bytes()


def test_updates_at_every_step_share_lines(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    recorder = LayerRecorder(tmp_path, total_steps=20_000)
    history = [random_masks(generator, [(5, 7)]) for _ in range(101)]
    for step, masks in enumerate(history):
        recorder.look(step, masks, version=step)
    recorder.flush(100)
    lines = read_layer_log(tmp_path).topology
    assert [line.step for line in lines] == [0, 20, 40, 60, 80, 100]
    changes = [(a["layer0"], b["layer0"]) for a, b in itertools.pairwise(history)]
    assert sum(line.grown[0] for line in lines) == sum(int((new & ~old).sum()) for old, new in changes)
    assert sum(line.dropped[0] for line in lines) == sum(int((old & ~new).sum()) for old, new in changes)


def test_pruning_more_layers_begins_from_the_masks_that_were_held(tmp_path: Path) -> None:
    stages = (
        "stages=[{duration: 1ep, method: {name: static, include: fc1.weight}, sparsity: 0.8},"
        " {kind: prune, sparsity: 0.9}, {duration: 1ep}]"
    )
    train(load_recipe("digits/lenet300", [stages]), out=tmp_path / "run", quiet=True)
    static, before, pruned = read_layer_log(tmp_path / "run").topology
    assert (static.names, static.kept) == (("fc1.weight",), (3840,))
    assert before.names == ("fc1.weight", "fc2.weight", "fc3.weight")
    assert before.kept == (3840, 30000, 1000)
    assert sum(pruned.kept) == 5020
    assert sum(pruned.dropped) == 34840 - 5020


def test_a_stage_that_masks_other_layers_begins_anew(tmp_path: Path) -> None:
    recorder = LayerRecorder(tmp_path, total_steps=10)
    recorder.look(0, {"a": torch.ones(4, dtype=torch.bool)}, version=1)
    recorder.look(5, {"b": torch.zeros(3, dtype=torch.bool)}, version=2)
    first, second = read_layer_log(tmp_path).topology
    assert (first.names, first.kept, second.names, second.kept) == (("a",), (4,), ("b",), (0,))


def test_a_lost_file_begins_anew_and_a_cut_line_is_left_out(tmp_path: Path) -> None:
    recorder = LayerRecorder(tmp_path, total_steps=10)
    masks = {"a": torch.tensor([True, False, True])}
    recorder.look(0, masks, version=1)
    state = recorder.state_dict()
    recorder.look(5, {"a": torch.tensor([True, True, False])}, version=2)
    assert [line.step for line in read_layer_log(tmp_path).topology] == [0, 5]
    with (tmp_path / LAYERS).open("a") as stream:
        stream.write('{"kind":"topo')
    assert [line.step for line in read_layer_log(tmp_path).topology] == [0, 5]
    again = LayerRecorder(tmp_path, total_steps=10, state=state)
    again.look(6, {"a": torch.tensor([False, True, True])}, version=1)
    assert [(line.step, line.grown) for line in read_layer_log(tmp_path).topology] == [(0, (0,)), (6, (1,))]
    (tmp_path / LAYERS).unlink()
    LayerRecorder(tmp_path, total_steps=10, state=state).look(7, masks, version=1)
    assert [line.step for line in read_layer_log(tmp_path).topology] == [7]


@pytest.mark.parametrize("text", ["nothing\n", '{"kind": "topology", "step": 1}\n', "[1]\n"])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / LAYERS).write_text(text)
    with pytest.raises(ValueError, match=r"line 1 of .*layers\.jsonl is damaged or was not written"):
        read_layer_log(tmp_path)
