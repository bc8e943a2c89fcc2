"""Ticket experiments: what each stage starts from and ends with, reuse, resuming, and bad input."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

import sparsewright as sw
from sparsewright.cli import app
from sparsewright.models import create_model
from sparsewright.training import (
    RunFolderError,
    TicketResult,
    TicketStage,
    TrainingError,
    find_ticket,
    list_recipes,
    load_masks,
    load_recipe,
    read_metrics,
    save_masks,
)
from sparsewright.training.fading import FadingWarning
from sparsewright.training.kept_durations import warn_of_kept_durations
from sparsewright.training.ticket_plan import TicketPlan, round_sparsities
from sparsewright.training.ticket_recipes import base_recipe, gsm_recipe, prune_recipe
from sparsewright.training.tickets import _check_nested

# Experiments this short leave GSM's passive weights no time to fade.
pytestmark = pytest.mark.filterwarnings("ignore::sparsewright.training.fading.FadingWarning")

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = 64 * 300 + 300 * 100 + 100 * 10
SPARSITY = 0.9
KEPT = round((1 - SPARSITY) * WEIGHTS)
STEPS_PER_EPOCH = 23
TWO_STAGES = {
    "extends": "digits/lenet300",
    "duration": "2ep",
    "sparsity": SPARSITY,
    "stages": [{"name": "base"}, {"name": "gsm", "method": "gsm", "optimizer": {"lr": 0.01, "momentum": 0.99}}],
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "two.yaml"
    path.write_text(yaml.safe_dump(TWO_STAGES))
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tickets")


@pytest.fixture(scope="module")
def experiment(recipe_file: Path, root: Path) -> TicketResult:
    """The ticket that GSM finds."""
    return search(recipe_file, root)


def search(recipe_file: Path, root: Path, *overrides: str, **arguments: Any) -> TicketResult:
    recipe = load_recipe(str(recipe_file), overrides)
    return find_ticket(recipe, root=root, device="cpu", quiet=True, **arguments)


def stage(result: TicketResult, name: str) -> TicketStage:
    return next(item for item in result.stages if item.name == name)


def weights(item: TicketStage) -> dict[str, Tensor]:
    return load_file(item.folder / "model.safetensors")


def files(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file below ``folder`` with its time of change and its checksum."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_masked(tensors: dict[str, Tensor], masks: sw.MaskSet, expected: dict[str, Tensor]) -> None:
    """``tensors`` are those of ``expected`` inside the masks and 0 outside."""
    for name, tensor in tensors.items():
        wanted = expected[name] * masks[name] if name in masks else expected[name]
        assert torch.equal(tensor, wanted), name


def start_of(item: TicketStage) -> dict[str, Any]:
    return json.loads((item.folder / "run.json").read_text())["start"]


def test_a_ticket_keeps_exactly_what_was_asked_for(experiment: TicketResult) -> None:
    assert [item.name for item in experiment.stages] == ["base", "initial", "gsm", "ticket-gsm"]
    assert [item.kept_weights for item in experiment.stages] == [WEIGHTS, WEIGHTS, KEPT, KEPT]
    assert [item.sparsity for item in experiment.stages] == [0, 0, 1 - KEPT / WEIGHTS, 1 - KEPT / WEIGHTS]
    ticket, found = stage(experiment, "ticket-gsm"), stage(experiment, "gsm")
    masks = load_masks(ticket.folder / "masks.safetensors")
    assert masks.kept() == KEPT
    assert dict(masks).keys() == {"fc1.weight", "fc2.weight", "fc3.weight"}
    for name, mask in load_masks(found.folder / "masks.safetensors").items():
        assert torch.equal(mask, masks[name])
        assert int(weights(ticket)[name][~mask].count_nonzero()) == 0
    assert ticket.test_accuracy > 60


def test_only_the_stage_that_prunes_has_an_accuracy_before(experiment: TicketResult) -> None:
    before = {item.name: item.test_accuracy_before_pruning for item in experiment.stages}
    lines = read_metrics(stage(experiment, "gsm").folder)
    assert [line["kind"] for line in lines] == ["train", "train", "prune"]
    assert before == {"base": None, "initial": None, "gsm": lines[1]["test_accuracy"], "ticket-gsm": None}


def test_a_ticket_starts_from_the_initial_weights_of_the_seed(experiment: TicketResult) -> None:
    fresh = create_model("lenet300", num_classes=10, in_channels=1, image_size=8, seed=0).state_dict()
    initial = stage(experiment, "initial")
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in weights(initial).items())
    start = start_of(stage(experiment, "ticket-gsm"))
    assert (start["weights"], start["masks"]) == (str(initial.folder), str(stage(experiment, "gsm").folder))
    assert (start["step"], start["stop"]) == (0, None)
    assert start["weights_sha256"] == files(initial.folder)["model.safetensors"][1]


def test_the_record_is_written_beside_the_ticket(experiment: TicketResult) -> None:
    record = json.loads((experiment.stages[-1].folder / "ticket.json").read_text())
    assert record == experiment.as_dict()
    assert (record["find"], record["rewind"], record["rounds"]) == ("gsm", "weights", None)


def test_folders_are_named_by_data_model_stage_sparsity_and_hash(experiment: TicketResult, root: Path) -> None:
    for item in experiment.stages:
        assert item.folder.parent == root
        sparsity = "-0.9" if item.name in ("gsm", "ticket-gsm") else ""
        assert re.fullmatch(rf"digits-lenet300-{item.name}{sparsity}-[0-9a-f]{{8}}", item.folder.name)


@pytest.mark.parametrize(
    ("rewind", "step", "expected"),
    [
        ("weights", 0, ""),
        ("weights", 7, "step-7"),
        ("learning-rate", 0, "learning-rate"),
        ("learning-rate", 7, "learning-rate-step-7"),
    ],
)
def test_what_a_ticket_is_rewound_to_is_in_its_folders_name(
    recipe_file: Path, rewind: str, step: int, expected: str
) -> None:
    base = base_recipe(load_recipe(str(recipe_file)))
    assert TicketPlan("gsm", 0.9, rewind, step, base, ()).rewound_to() == expected


def test_a_folder_is_known_by_its_hash(tmp_path: Path) -> None:
    """As those of earlier versions, which had less in their names."""
    arguments: dict[str, Any] = {"sparsity": 0.8, "root": tmp_path, "device": "cpu", "quiet": True}
    recipe = load_recipe("digits/lenet300", ["duration=2it"])
    for item in find_ticket(recipe, **arguments).stages:
        item.folder.rename(tmp_path / item.folder.name.replace("-0.8-", "-"))
    before = files(tmp_path)
    again = find_ticket(recipe, **arguments)
    assert all(item.reused for item in again.stages)
    assert {name for name, state in files(tmp_path).items() if before.get(name) != state} == {
        f"{again.stages[-1].folder.name}/ticket.json"
    }


def test_another_way_to_find_reuses_the_base(experiment: TicketResult, recipe_file: Path, root: Path) -> None:
    kept = [stage(experiment, name).folder for name in ("base", "initial")]
    before = [files(folder) for folder in kept]
    other = search(recipe_file, root, find="magnitude")
    assert [item.name for item in other.stages] == ["base", "initial", "magnitude", "ticket-magnitude"]
    assert [item.reused for item in other.stages[:2]] == [True, True]
    assert [files(folder) for folder in kept] == before
    found = stage(other, "magnitude")
    assert found.test_accuracy_before_pruning == stage(other, "base").test_accuracy > found.test_accuracy
    base = weights(stage(other, "base"))
    masks = load_masks(found.folder / "masks.safetensors")
    assert masks.kept() == KEPT
    assert_masked(weights(found), masks, base)
    removed = max(base[name][~mask].abs().max() for name, mask in masks.items())
    assert removed <= min(base[name][mask].abs().min() for name, mask in masks.items())


def test_the_same_call_again_trains_nothing(experiment: TicketResult, recipe_file: Path, root: Path) -> None:
    before = files(root)
    again = search(recipe_file, root)
    assert all(item.reused for item in again.stages)
    assert [item.folder for item in again.stages] == [item.folder for item in experiment.stages]
    changed = {name for name, state in files(root).items() if before.get(name) != state}
    assert changed == {f"{again.stages[-1].folder.name}/ticket.json"}


def test_a_changed_base_is_another_experiment(experiment: TicketResult, recipe_file: Path, root: Path) -> None:
    changed = search(recipe_file, root, "stages.0.duration=1ep", find="magnitude")
    assert not any(item.reused for item in changed.stages)
    assert not {item.folder for item in changed.stages} & {item.folder for item in experiment.stages}


@pytest.mark.parametrize("find", ["gsm", "magnitude"])
def test_weights_are_rewound_to_an_early_step(recipe_file: Path, root: Path, find: str) -> None:
    result = search(recipe_file, root, find=find, rewind_step="1ep")
    early, ticket = stage(result, f"step-{STEPS_PER_EPOCH}"), result.stages[-1]
    lines = read_metrics(stage(result, "base").folder)
    assert early.test_accuracy == lines[0]["test_accuracy"]
    start = start_of(ticket)
    assert (start["weights"], start["step"]) == (str(early.folder), STEPS_PER_EPOCH)
    # The second of two epochs: its learning rate is that of the second half of the step schedule.
    assert [line["lr"] for line in read_metrics(ticket.folder)] == [lines[1]["lr"]]
    assert (result.rewind_step, ticket.kept_weights) == (STEPS_PER_EPOCH, KEPT)


def test_the_learning_rate_is_rewound_with_the_weights_as_they_were_found(recipe_file: Path, root: Path) -> None:
    result = search(recipe_file, root, find="magnitude", rewind="learning-rate", rewind_step=10)
    assert [item.name for item in result.stages] == ["base", "magnitude", "ticket-magnitude"]
    ticket, found = stage(result, "ticket-magnitude"), stage(result, "magnitude")
    start = start_of(ticket)
    assert start["weights"] == start["masks"] == str(found.folder)
    assert read_metrics(ticket.folder)[-1]["step"] == 2 * STEPS_PER_EPOCH - 10
    assert ticket.kept_weights == KEPT
    # Weights that were trained before learn on from there.
    assert read_metrics(ticket.folder)[0]["train_loss"] < read_metrics(stage(result, "base").folder)[0]["train_loss"]


def test_iterative_pruning_removes_the_same_share_in_each_round(recipe_file: Path, root: Path) -> None:
    result = search(recipe_file, root, find="iterative", rounds=3)
    names = ["round-1-prune", "round-1", "round-2-prune", "round-2", "round-3-prune", "ticket-iterative"]
    assert [item.name for item in result.stages] == ["base", "initial", *names]
    expected = [round((1 - SPARSITY) ** (number / 3) * WEIGHTS) for number in (1, 2, 3)]
    assert [stage(result, f"round-{number}-prune").kept_weights for number in (1, 2, 3)] == expected
    assert expected[-1] == result.stages[-1].kept_weights == KEPT
    former = None
    for number, trained in ((1, "round-1"), (2, "round-2"), (3, "ticket-iterative")):
        pruned = stage(result, f"round-{number}-prune")
        masks = load_masks(pruned.folder / "masks.safetensors")
        if former is not None:
            assert all(bool((former[name] | ~mask).all()) for name, mask in masks.items())
        former = masks
        start = start_of(stage(result, trained))
        assert (start["weights"], start["masks"]) == (str(stage(result, "initial").folder), str(pruned.folder))
    assert start_of(stage(result, "round-2-prune"))["weights"] == str(stage(result, "round-1").folder)


@given(st.floats(0.01, 0.999), st.integers(1, 20))
def test_rounds_end_on_the_sparsity(sparsity: float, rounds: int) -> None:
    reached = round_sparsities(sparsity, rounds)
    assert (len(reached), reached[-1]) == (rounds, sparsity)
    left = [1.0, *(1 - value for value in reached)]
    shares = [after / before for before, after in itertools.pairwise(left)]
    assert shares == pytest.approx([(1 - sparsity) ** (1 / rounds)] * rounds)


def test_a_weight_that_comes_back_in_a_later_round_is_told(tmp_path: Path) -> None:
    for name, kept in (("former", [True, False]), ("found", [False, True])):
        (tmp_path / name).mkdir()
        save_masks(tmp_path / name / "masks.safetensors", sw.MaskSet({"weight": torch.tensor(kept)}))
    with pytest.raises(TrainingError, match=r"found gave 1 weights of weight back that .*former had removed"):
        _check_nested(tmp_path / "former", tmp_path / "found")


def test_the_base_of_a_long_recipe_has_the_digest_of_a_plain_one(tmp_path: Path, recipe_file: Path) -> None:
    plain = {
        "data": {"name": "digits", "batch_size": 64},
        "model": {"name": "lenet300"},
        "duration": "2ep",
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4},
        "schedule": {"name": "step", "milestones": [0.5, 0.75], "gamma": 0.1},
    }
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(plain))
    one, two = load_recipe(str(tmp_path / "plain.yaml")), load_recipe(str(recipe_file))
    assert base_recipe(two).digest() == base_recipe(one).digest() == one.digest()
    for sparsity in ("0.5", "0.99"):
        assert base_recipe(load_recipe(str(recipe_file), [f"sparsity={sparsity}"])).digest() == one.digest()
    assert base_recipe(load_recipe(str(recipe_file), ["optimizer.lr=0.2"])).digest() != one.digest()


TICKETS = [info.name for info in list_recipes() if "gsm" in info.name]


@pytest.mark.parametrize("name", TICKETS)
def test_every_shipped_recipe_with_gsm_can_find_a_ticket(name: str) -> None:
    recipe = load_recipe(name)
    dense, gsm = recipe.resolved_stages()
    assert base_recipe(recipe).resolved_stages()[0].model_dump(exclude={"name", "sparsity"}) == dense.model_dump(
        exclude={"name", "sparsity"}
    )
    (found,) = gsm_recipe(recipe, 0.5).resolved_stages()
    assert found.model_dump(exclude={"name", "sparsity"}) == gsm.model_dump(exclude={"name", "sparsity"})
    assert found.sparsity == 0.5


def test_the_recipes_own_stages_give_the_options_of_pruning(tmp_path: Path) -> None:
    stages = "stages=[{}, {kind: prune, method: {name: magnitude, distribution: uniform}, sparsity: 0.7}]"
    recipe = load_recipe("digits/lenet300", ["duration=1ep", stages])
    pruning = prune_recipe(recipe, 0.5).resolved_stages()[-1]
    assert (pruning.method.options["distribution"], pruning.sparsity) == ("uniform", 0.5)
    result = find_ticket(recipe, root=tmp_path, device="cpu", quiet=True)
    assert (result.find, result.sparsity) == ("magnitude", 0.7)
    masks = load_masks(result.stages[-1].folder / "masks.safetensors")
    assert list(masks.layer_sparsity().values()) == pytest.approx([0.7] * 3)


def test_gsm_without_a_stage_of_its_own_warns(tmp_path: Path) -> None:
    recipe = load_recipe("digits/lenet300", ["duration=1ep"])
    with pytest.warns(UserWarning, match=r"no stage of method gsm.* momentum of 0\.98 or more"):
        result = find_ticket(recipe, find="gsm", sparsity=0.8, root=tmp_path, device="cpu", quiet=True)
    assert result.stages[-1].sparsity == pytest.approx(0.8)


def test_weights_that_will_not_fade_are_told_once_before_the_base_is_trained(tmp_path: Path, recipe_file: Path) -> None:
    short = ("duration=2it", "sparsity=0.5")
    with warnings.catch_warnings():
        warnings.simplefilter("error", FadingWarning)
        with pytest.raises(FadingWarning):
            search(recipe_file, tmp_path, *short)
    assert not list(tmp_path.iterdir())
    with pytest.warns(FadingWarning, match="over its 2 steps") as caught:
        search(recipe_file, tmp_path, *short)
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["duration=3it"], r"duration=3it does not reach .*: gsm \(2it\), last \(4it\); set it with stages\.1\.dur"),
        (["duration=3it", "stages.1.duration=1it"], r"keep: last \(4it\); set it with stages\.2\.duration=\.\.\.$"),
        (["duration=3it", "stages.1.duration=1it", "stages.2.duration=1it"], None),
        (["duration=3it", "stages=[{}, {method: gsm, duration: 1it}]"], None),
        (["optimizer.lr=0.2"], None),
    ],
)
def test_stages_that_keep_their_own_duration_are_told(
    tmp_path: Path, overrides: list[str], expected: str | None
) -> None:
    stages = [{}, {"name": "gsm", "method": "gsm", "duration": "2it"}, {"name": "last", "duration": "4it"}]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**TWO_STAGES, "stages": stages}))
    recipe = load_recipe(str(tmp_path / "own.yaml"), overrides)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_kept_durations(recipe, overrides)
    assert len(caught) == (expected is not None)
    assert all(re.search(str(expected), str(item.message)) for item in caught)


def test_stages_without_a_part_are_named(tmp_path: Path) -> None:
    stages = "stages=[{name: base}, {kind: prune}, {name: finetune, duration: 1it}, {kind: evaluate, name: last}]"
    recipe = load_recipe("digits/lenet300", ["duration=3it", "sparsity=0.5", stages])
    with pytest.warns(
        UserWarning, match="without a part in the search for a ticket, which are not run: finetune, last"
    ):
        find_ticket(recipe, root=tmp_path, device="cpu", quiet=True)


def test_a_validation_split_is_kept_in_all_stages(tmp_path: Path, recipe_file: Path) -> None:
    result = search(recipe_file, tmp_path, "data.validation=200", "duration=1ep")
    assert result.evaluated_on == "validation"
    for item in result.stages:
        assert json.loads((item.folder / "summary.json").read_text())["evaluated_on"] == "validation"


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["ticket", *map(str, arguments)])


def test_the_command_prints_each_stage_and_a_table(experiment: TicketResult, recipe_file: Path, root: Path) -> None:
    result = invoke(recipe_file, "--root", root, "--device", "cpu")
    assert result.exit_code == 0, result.output
    head, _, table = result.stdout.partition("kept weights")
    shown = dict(re.split(r"  +", line, maxsplit=1) for line in head.splitlines() if "  " in line.strip())
    assert (shown["found by"], shown["sparsity"], shown["seed"]) == ("gsm", "90.00 %", "0")
    assert (shown["rewound"], shown["accuracy"]) == ("weights to step 0", "on test data")
    for item in experiment.stages:
        assert f"{item.name}: reused, {item.folder}" in head
        line = next(line for line in table.splitlines() if line.startswith(f"{item.name} "))
        for part in (f"{item.kept_weights:,}", f"{item.test_accuracy:.2f} %", str(item.folder), "reused"):
            assert part in line


def test_the_command_says_what_each_stage_does(tmp_path: Path) -> None:
    result = invoke("digits/lenet300", "duration=2it", "sparsity=0.5", "--root", tmp_path, "--device", "cpu")
    assert result.exit_code == 0, result.output
    expected = {"base": "training", "initial": "initialising", "magnitude": "pruning", "ticket-magnitude": "training"}
    for name, activity in expected.items():
        assert f"\n{name}: {activity}, {tmp_path}" in f"\n{result.stdout}"


@pytest.mark.filterwarnings("default:duration")
def test_the_command_tells_of_stages_that_keep_their_duration(tmp_path: Path, recipe_file: Path) -> None:
    tree = yaml.safe_load(recipe_file.read_text())
    tree["stages"][0]["duration"] = "2it"
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(tree))
    result = invoke(
        tmp_path / "own.yaml", "duration=3it", "--root", tmp_path / "runs", "--find", "magnitude", "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    assert "warning: duration=3it does not reach" in result.stderr
    assert "base (2it); set it with stages.0.duration=..." in result.stderr


def test_the_command_prints_json(experiment: TicketResult, recipe_file: Path, root: Path) -> None:
    result = invoke(recipe_file, "--root", root, "--device", "cpu", "--json")
    found = json.loads(result.stdout)
    assert [item["test_accuracy"] for item in found["stages"]] == [item.test_accuracy for item in experiment.stages]
    assert all(item["reused"] for item in found["stages"])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--sparsity", "1"], ["sparsity", "[0, 1)"]),
        (["sparsity=1"], ["sparsity", "[0, 1)"]),
        (["sparsity=most"], ["sparsity", "most"]),
        (["sparsity=0.5", "--sparsity", "0.5"], ["more than once", "sparsity=0.5", "--sparsity 0.5"]),
        (["--sparsity", "-0.1"], ["sparsity", "[0, 1)"]),
        (["--sparsity", "0.99999"], ["0.99999", str(WEIGHTS)]),
        (["--sparsity", "0.99999", "--find", "magnitude"], ["0.99999", str(WEIGHTS)]),
        (["--find", "luck"], ["luck", "gsm", "magnitude", "iterative"]),
        (["--rewind", "time"], ["time", "weights", "learning-rate"]),
        (["--find", "iterative", "--rounds", "0"], ["--rounds"]),
        (["--rounds", "3"], ["rounds=3", "iterative"]),
        (["--rewind-step", "46"], ["rewind_step 46", "46 optimizer steps"]),
        (["--rewind-step", "2ep"], ["rewind_step 2ep", "46 optimizer steps"]),
        (["--rewind-step", "soon"], ["rewind_step", "160ep", "5000it", "'soon'"]),
        (["--seed", str(2**63)], ["seed", "2**63"]),
        (["stages.0.method=gmp"], ["before stage base (method gmp)", "dense", "--find", "gsm, magnitude, iterative"]),
        (["method=granet"], ["method=granet", "base must stay of method dense", "--find", "gsm, magnitude, iterative"]),
        (["method.name=gsm", "sparsity=0.9"], ["method.name=gsm does not suit a ticket", "--find"]),
        (["stages=[{}, {}, {method: gsm}]"], ["one dense train stage", "train-1, train-2"]),
        (["data.name=digitz"], ["digitz"]),
    ],
)
def test_bad_input_is_refused_before_training(
    tmp_path: Path, recipe_file: Path, arguments: list[str], parts: list[str]
) -> None:
    result = invoke(recipe_file, *arguments, "--root", tmp_path / "runs", "--device", "cpu")
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]
    assert not (tmp_path / "runs").exists()


def test_a_file_of_masks_is_no_model(experiment: TicketResult) -> None:
    for command in ("inspect", "eval"):
        result = CliRunner().invoke(app, [command, str(experiment.stages[-1].folder / "masks.safetensors")])
        assert result.exit_code == 2, result.output
        assert "holds masks, not weights" in result.stderr


def test_later_stages_take_the_threads_of_the_base(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"sparsity": 0.8, "root": tmp_path, "device": "cpu", "quiet": True}
    recipe = load_recipe("digits/lenet300", ["duration=3it"])
    torch.set_num_threads(2)
    first = find_ticket(recipe, **arguments)
    torch.set_num_threads(1)
    second = find_ticket(recipe, rewind_step=1, **arguments)
    assert second.stages[0].folder == first.stages[0].folder
    assert [json.loads((item.folder / "run.json").read_text())["threads"] for item in second.stages] == [2] * 4
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("arguments", [["--sparsity", "0.8"], ["sparsity=0.8"]])
def test_a_dense_recipe_takes_its_sparsity_either_way(tmp_path: Path, arguments: list[str]) -> None:
    result = invoke("digits/lenet300", "duration=2it", *arguments, "--root", tmp_path, "--device", "cpu", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["find"], found["stages"][-1]["kept_weights"]) == ("magnitude", round((1 - 0.8) * WEIGHTS))


def test_a_recipe_without_a_sparsity_needs_one() -> None:
    result = invoke("digits/lenet300")
    assert (result.exit_code, "gives no sparsity" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({"rounds": 0, "find": "iterative"}, "rounds must be at least 1"), ({"rewind_step": -1}, "rewind_step must be")],
)
def test_bad_arguments_of_the_function_are_refused(
    tmp_path: Path, recipe_file: Path, arguments: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        search(recipe_file, tmp_path / "runs", **arguments)


def test_a_folder_of_something_else_is_refused(tmp_path: Path, experiment: TicketResult, recipe_file: Path) -> None:
    base = tmp_path / stage(experiment, "base").folder.name
    base.mkdir()
    (base / "metrics.jsonl").write_text("mine")
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl, .* choose another folder with --root"):
        search(recipe_file, tmp_path)
    assert (base / "metrics.jsonl").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot be made"):
        search(recipe_file, tmp_path / "file")


def test_runs_of_another_precision_are_refused(experiment: TicketResult, recipe_file: Path, root: Path) -> None:
    with pytest.raises(RunFolderError, match="precision 32, not bf16; choose another folder with --root"):
        search(recipe_file, root, precision="bf16")


def test_ctrl_c_says_how_to_go_on(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparsewright.training.find_ticket", interrupted)
    result = invoke(recipe_file)
    assert (result.exit_code, result.stderr) == (
        130,
        "interrupted: the same command continues from the last saved epoch\n",
    )


@pytest.mark.slow
def test_a_killed_command_goes_on_bit_identically(tmp_path: Path, recipe_file: Path) -> None:
    longer = ("duration=1ep", "stages.1.duration=15ep")
    whole = search(recipe_file, tmp_path / "whole", *longer)
    command = [sys.executable, "-m", "sparsewright", "ticket", str(recipe_file), *longer, "--quiet"]
    process = subprocess.Popen(
        [*command, "--root", str(tmp_path / "killed"), "--device", "cpu"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    metrics = tmp_path / "killed" / stage(whole, "gsm").folder.name / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_text().count("\n") >= 2):
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (metrics.parent / "summary.json").exists()
    resumed = search(recipe_file, tmp_path / "killed", *longer)
    assert [item.reused for item in resumed.stages] == [True, True, False, False]
    for one, other in zip(whole.stages, resumed.stages, strict=True):
        assert one.folder.name == other.folder.name
        assert files(one.folder)["model.safetensors"][1] == files(other.folder)["model.safetensors"][1]


def test_the_example_for_own_loops_in_the_docs_works() -> None:
    found = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "tickets.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    steps, images = 40, torch.randn(64, 8)
    labels = (images.sum(dim=1) > 0).long()

    def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for _ in range(steps):
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    model = nn.Sequential(nn.Linear(8, 50), nn.ReLU(), nn.Linear(50, 2))
    names: dict[str, Any] = {"model": model, "train": train, "steps": steps}
    exec(found.group(1), names)
    masks = sw.MaskSet.from_zeros(names["ticket"])
    assert masks.kept() == names["search"].masks.kept() == round((1 - 0.9) * 500)
    for name, mask in masks.items():
        assert torch.equal(mask, names["search"].masks[name])
    assert not torch.equal(names["ticket"][0].bias, names["initial"][0].bias)
