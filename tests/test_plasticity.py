"""The pruning-plasticity study: its rules, its branches against the base, what is trained again, and the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from toys import OddNet, backward, odd_batch
from typer.testing import CliRunner
from waiting import interrupted_when, interrupts, wait_for

import sparsewright as sw
from sparsewright.analysis.plasticity import RULES, pruned_masks, regrown_masks
from sparsewright.cli import app
from sparsewright.plasticity import BranchResult, PlasticityResult, Spread, study_plasticity, whole_study
from sparsewright.plasticity.branch import BranchJob, run_branch
from sparsewright.plasticity.layout import branch_file
from sparsewright.plasticity.moments import Moment, moment_epochs
from sparsewright.plasticity.plan import Branch, PlasticityPlan, plan_study
from sparsewright.plasticity.pruning import loss_gradients, prune
from sparsewright.plasticity.result import summarise
from sparsewright.plasticity.workers import run_all
from sparsewright.report.plasticity_page import write_plasticity_page
from sparsewright.training import load_recipe, train
from sparsewright.training.duration import Duration
from sparsewright.training.folder import RunFolderError
from sparsewright.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
SMALL = ("duration=4ep", "model.name=mlp:16")
UNSTRUCTURED = [name for name, rule in RULES.items() if rule.scope != "structured"]


def recipe(*overrides: str) -> Recipe:
    return load_recipe("digits/lenet300", [*SMALL, *overrides])


def study(out: Path, *overrides: str, **options) -> PlasticityResult:
    chosen = {"at": ["2ep"], "rates": [0.9], "rules": ["prune_global", "prune_and_grow_global"], "horizon": "1ep"}
    usual = {"device": "cpu", "threads": 1, "download": False, "quiet": True}
    return study_plasticity(recipe(*overrides), out=out, **usual | chosen | options)


def measured(result: PlasticityResult) -> list[BranchResult]:
    """The branches without how long they took."""
    return [replace(branch, seconds=0.0) for branch in result.branches]


def modified(folder: Path) -> dict[str, int]:
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("branches/*/*.json")}


# The rules.


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), rate=st.floats(0.05, 0.9))
def test_pruning_keeps_the_exact_count_and_the_largest_weights(seed: int, rate: float) -> None:
    model = OddNet(seed)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in ("prune_uniform", "prune_global"):
        masks = pruned_masks(model, RULES[name], rate)
        assert masks.kept() == round((1 - rate) * masks.total())
        groups = [[layer] for layer in masks] if name == "prune_uniform" else [list(masks)]
        for group in groups:
            kept = torch.cat([before[layer][masks[layer]].abs() for layer in group])
            removed = torch.cat([before[layer][~masks[layer]].abs() for layer in group])
            # At least one weight of each layer stays, however small, so a global order is of all but the tiny layers.
            if name == "prune_uniform" or all(int(masks[layer].sum()) > 1 for layer in group):
                assert not len(removed) or removed.max() <= kept.min()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("rate", [0.3, 0.5, 0.98])
def test_structured_pruning_takes_whole_filters_and_leaves_the_last_layer(rate: float) -> None:
    masks = pruned_masks(OddNet(), RULES["prune_structured"], rate)
    filters = {name: mask.flatten(1) for name, mask in masks.items()}
    assert all(torch.equal(mask.all(dim=1), mask.any(dim=1)) for mask in filters.values())
    assert masks["fc.weight"].all()
    removed = int((~filters["conv1.weight"].any(dim=1)).sum())
    assert removed == min(-(-rate * 5 // 1), 4)


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), density=st.floats(0.2, 1.0), rate=st.floats(0.0, 1.0))
def test_regrowth_gives_back_as_many_where_the_gradient_is_largest(seed: int, density: float, rate: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    before = torch.rand(7, 9, generator=generator) < density
    pruned = before & (torch.rand(7, 9, generator=generator) >= rate)
    gradient = torch.randn(7, 9, generator=generator)
    grown = regrown_masks({"w": before}, {"w": pruned}, {"w": gradient})["w"]
    assert int(grown.sum()) == int(before.sum())
    assert bool((grown | ~pruned).all())
    new, still = gradient[grown & ~pruned].abs(), gradient[~grown].abs()
    assert not len(new) or not len(still) or new.min() >= still.max()


def test_what_grows_back_starts_at_zero_without_momentum() -> None:
    model = OddNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    backward(model, 0)
    optimizer.step()
    optimizer.zero_grad()
    masks = pruned_masks(model, RULES["prune_uniform"], 0.5)
    momenta = {name: optimizer.state[parameter]["momentum_buffer"].clone() for name, parameter in named(model).items()}
    images, labels = odd_batch(1)
    holder = prune(
        model, optimizer, RULES["prune_and_grow_uniform"], 0.5, lambda: loss_gradients(model, images, labels, 0.0)
    )
    assert holder.sparsity() == 0
    for name, mask in masks.items():
        assert not named(model)[name][~mask].any()
        assert not optimizer.state[named(model)[name]]["momentum_buffer"][~mask].any()
        assert torch.equal(optimizer.state[named(model)[name]]["momentum_buffer"][mask], momenta[name][mask])
    backward(model, 1)
    optimizer.step()
    moved = sum(int(named(model)[name][~mask].count_nonzero()) for name, mask in masks.items())
    assert moved > 0


def test_without_regrowth_pruned_weights_stay_zero() -> None:
    model = OddNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(3):
        backward(model, step)
        optimizer.step()
        optimizer.zero_grad()
        if step == 0:
            holder = prune(model, optimizer, RULES["prune_global"], 0.5, dict)
            masks = {name: mask.clone() for name, mask in holder.masks.items()}
    assert all(not named(model)[name][~mask].any() for name, mask in masks.items())
    assert sw.MaskSet(masks).kept() == round(0.5 * sw.MaskSet(masks).total())


def test_filters_that_grow_back_can_learn_again() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 3, 4))
    nn.init.constant_(model[1].bias, 0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images, labels = odd_batch(0)
    statistics = named_buffers(model)
    prune(model, optimizer, RULES["prune_and_grow_structured"], 0.5, lambda: loss_gradients(model, images, labels, 0.1))
    gone = ~model[0].weight.detach().flatten(1).any(dim=1)
    assert int(gone.sum()) == 2
    assert all(torch.equal(statistics[name], tensor) for name, tensor in named_buffers(model).items())
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    assert model[0].weight.detach().flatten(1).any(dim=1).all()


def named(model: nn.Module) -> dict[str, nn.Parameter]:
    return dict(model.named_parameters())


def named_buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


# Moments.


@given(epochs=st.integers(2, 200), percent=st.integers(1, 99))
def test_a_share_falls_on_the_nearest_end_of_an_epoch_before_the_last(epochs: int, percent: int) -> None:
    (epoch,) = moment_epochs([f"{percent}%"], epochs)
    assert 1 <= epoch < epochs
    assert abs(epoch - epochs * percent / 100) <= 0.5 or epoch in (1, epochs - 1)


def test_moments_are_sorted_and_a_last_part_of_an_epoch_leaves_the_one_before() -> None:
    assert moment_epochs(["75%", "1ep", "50%"], 20) == [1, 10, 15]
    assert moment_epochs(["2ep"], 2.5) == [2]


@given(epochs=st.floats(1.01, 200))
def test_the_usual_moments_suit_a_run_of_any_length(epochs: float) -> None:
    found = moment_epochs(None, epochs)
    assert found == sorted(set(found))
    assert all(1 <= epoch < epochs for epoch in found)
    assert epochs < 10 or found == moment_epochs(["20%", "45%", "55%", "90%"], epochs)


@pytest.mark.parametrize(
    ("at", "epochs", "part"),
    [
        ([], 4, "at least one moment"),
        (["100%"], 4, "before the last"),
        (["0%"], 4, "0%"),
        (["4ep"], 4, "1ep to 3ep"),
        (["1.5ep"], 4, "'1.5ep'"),
        (["100it"], 4, "'100it'"),
        (["half"], 4, "'half'"),
        (["50%", "2ep"], 4, "both fall on the end of epoch 2"),
        (["1ep", "1ep"], 4, "the moment 1ep is given twice"),
        (["50%"], 1, "the run has 1 epoch,"),
    ],
)
def test_moments_that_are_none_are_refused(at: list[str], epochs: float, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        moment_epochs(at, epochs)


def test_a_moment_at_a_drop_keeps_the_rate_before_it(tmp_path: Path) -> None:
    plan = plan_study(
        recipe("schedule.milestones=[0.5]"),
        at=["1ep", "2ep", "3ep"],
        rules=["prune_global"],
        rates=[0.5],
        horizon="1ep",
        seeds=[0],
        data_dir=tmp_path,
        download=False,
    )
    assert [moment.learning_rate for moment in plan.moments] == pytest.approx([0.1, 0.1, 0.01])
    assert [moment.step for moment in plan.moments] == [23, 46, 69]


# The study.


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> PlasticityResult:
    """All rules at two rates and moments, with a learning rate that does not change."""
    return study(
        tmp_path_factory.mktemp("study") / "one",
        "schedule=constant",
        at=["1ep", "3ep"],
        rates=[0.5, 0.9],
        rules=list(RULES),
    )


def test_the_twin_is_what_the_base_becomes(finished: PlasticityResult) -> None:
    base = finished.folder / "seed-0" / "base"
    lines = [json.loads(line) for line in (base / "metrics.jsonl").read_text().splitlines()]
    accuracy = {line["epoch"]: line["test_accuracy"] for line in lines}
    twins = [branch for branch in finished.branches if branch.rule is None]
    assert [twin.accuracy_before for twin in twins] == [accuracy[1], accuracy[3]]
    assert [twin.accuracy_after for twin in twins] == [accuracy[2], accuracy[4]]


def test_every_branch_says_what_it_held_at_zero(finished: PlasticityResult) -> None:
    for cell in finished.cells:
        if RULES[cell.rule].regrows:
            assert cell.sparsity == 0
        elif RULES[cell.rule].scope == "structured":
            assert 0 < cell.sparsity <= cell.rate
        else:
            assert cell.sparsity == pytest.approx(cell.rate, abs=1e-3)


def test_regrowth_begins_where_pruning_alone_does(finished: PlasticityResult) -> None:
    for moment in finished.moments:
        for rate in finished.rates:
            for name in UNSTRUCTURED:
                same = finished.cell(moment.epoch, RULES[name].without_regrowth.name, rate)
                assert finished.cell(moment.epoch, name, rate).drop == same.drop


def test_changes_are_against_the_twin_and_gains_against_the_base(finished: PlasticityResult) -> None:
    for cell in finished.cells:
        moment = next(moment for moment in finished.moments if moment.epoch == cell.epoch)
        assert cell.accuracy is not None
        assert cell.change is not None
        assert cell.gain is not None
        assert moment.twin_accuracy is not None
        assert cell.change.mean == cell.accuracy.mean - moment.twin_accuracy.mean
        assert cell.gain.mean == cell.accuracy.mean - moment.accuracy.mean
        assert cell.change.deviation is None


def test_the_record_holds_the_result(finished: PlasticityResult) -> None:
    record = json.loads((finished.folder / "plasticity.json").read_text())
    assert record == json.loads(json.dumps(finished.as_dict()))
    assert len(record["cells"]) == 2 * 6 * 2
    assert len(record["branches"]) == 2 * (1 + 6 * 2)


def test_means_over_seeds_are_of_paired_differences(tmp_path: Path) -> None:
    result = study(tmp_path, seeds=[0, 3])
    after = {(branch.rule, branch.seed): branch.accuracy_after for branch in result.branches}
    first, second = (after["prune_global", seed] - after[None, seed] for seed in (0, 3))
    change = result.cell(2, "prune_global", 0.9).change
    assert change is not None
    assert change.mean == pytest.approx((first + second) / 2)
    assert change.deviation == pytest.approx(abs(first - second) / 2**0.5)


def test_called_again_it_trains_only_what_is_missing(tmp_path: Path) -> None:
    first = study(tmp_path, at=["2ep"])
    times = modified(tmp_path)
    lost = branch_file(tmp_path, Branch(0, Moment(2, 46, 0.1), 23, "prune_global", 0.9))
    lost.unlink()
    (lost.parent / ".twin.json.x.tmp").write_text("cut short")
    more = study(tmp_path, at=["1ep", "2ep"], rates=[0.5, 0.9])
    after = modified(tmp_path)
    kept = set(times) - {str(lost.relative_to(tmp_path))}
    assert {name: after[name] for name in kept} == {name: times[name] for name in kept}
    assert len(after) == 2 * (1 + 2 * 2)
    assert not list(tmp_path.rglob("*.tmp"))
    assert set(measured(first)) <= set(measured(more))


def test_a_moment_added_later_is_the_same_as_one_from_the_start(tmp_path: Path) -> None:
    study(tmp_path / "later", at=["3ep"])
    later = study(tmp_path / "later", at=["1ep", "2ep", "3ep"])
    assert (tmp_path / "later" / "seed-0" / "base-to-step-46").is_dir()
    assert measured(later) == measured(study(tmp_path / "at-once", at=["1ep", "2ep", "3ep"]))


def test_a_lost_checkpoint_of_a_second_base_is_named(tmp_path: Path) -> None:
    study(tmp_path, at=["3ep"])
    study(tmp_path, at=["1ep"])
    (tmp_path / "seed-0" / "base-to-step-23" / "checkpoints" / "step-23.ckpt").unlink()
    with pytest.raises(RunFolderError, match=r"lost its checkpoint of step 23; delete .*base-to-step-23"):
        study(tmp_path, at=["1ep"])


def test_the_record_and_the_page_hold_what_earlier_calls_asked_for(tmp_path: Path) -> None:
    """Calls that have no moment, rate, seed or horizon in common."""
    first = study(tmp_path, rules=["prune_global"], at=["1ep"], rates=[0.5], seeds=[0, 2])
    second = study(tmp_path, rules=["prune_uniform"], at=["2ep"], rates=[0.9], seeds=[1], horizon="5it")
    assert [(cell.rule, cell.epoch, list(cell.changes)) for cell in second.cells] == [("prune_uniform", 2, [1])]
    record = json.loads((tmp_path / "plasticity.json").read_text())
    assert (record["seeds"], record["rates"], record["horizons"]) == ([0, 1, 2], [0.5, 0.9], {"5it": 5, "1ep": 23})
    for result in (first, second):
        asked = json.loads(json.dumps(result.as_dict()))
        for part in ("moments", "cells", "branches"):
            assert all(entry in record[part] for entry in asked[part])
        for rule, rate in ((cell.rule, cell.rate) for cell in result.cells):
            assert whole_study(second).mean_changes(rule, rate) == result.mean_changes(rule, rate)
    assert len(record["branches"]) == len(first.branches) + len(second.branches)

    page = write_plasticity_page(whole_study(second), tmp_path / "plasticity.html").read_text()
    for result in (first, second):
        change = result.cells[0].change
        assert change is not None
        assert f"{change.mean:+.2f}" in page
    assert page.count("All branches, trained on for 5it") >= 1


def test_a_mean_over_moments_is_taken_seed_by_seed() -> None:
    plan = PlasticityPlan(recipe(), 92, 23, (), (), (), Duration(1, "ep"), 23, ())
    losses = {(1, 0): 1.0, (2, 0): 3.0, (1, 1): 4.0, (2, 1): 8.0}
    branches = [
        BranchResult(seed, epoch, 23 * epoch, 0.1, 23, rule, rate, 0.9, 90.0, 80.0, 95.0 - lost, 1.0)
        for (epoch, seed), loss in losses.items()
        for rule, rate, lost in ((None, None, 0.0), ("prune_global", 0.9, loss))
    ]
    assert summarise(plan, branches, Path()).mean_changes("prune_global", 0.9) == {0.1: Spread(-4.0, 8**0.5)}


def test_a_folder_of_other_runs_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    train(recipe("duration=1ep"), out=run, device="cpu", quiet=True, logger="none")
    for folder in (tmp_path / "runs", run):
        with pytest.raises(RunFolderError, match=rf"{folder} is no folder of a study: {run} is a run"):
            study(folder)
    with pytest.raises(RunFolderError, match=r"run\.json is a file and not a folder; choose another folder"):
        study(run / "run.json")


def test_a_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    study(tmp_path, rules=["prune_global"])
    with pytest.raises(RunFolderError, match=r"optimizer\.lr is 0\.1 there .* another folder for the study with --out"):
        study(tmp_path, "optimizer.lr=0.05")
    with pytest.raises(RunFolderError, match=r"optimizer\.lr is 0\.1 there"):
        study(tmp_path, "optimizer.lr=0.05", seeds=[1])


def test_a_damaged_branch_is_named(finished: PlasticityResult, tmp_path: Path) -> None:
    study(tmp_path)
    file = next(tmp_path.rglob("twin-*.json"))
    file.write_text("{")
    with pytest.raises(ValueError, match=f"{file.name} is damaged"):
        study(tmp_path)


def test_a_branch_that_diverges_is_a_result(finished: PlasticityResult, tmp_path: Path) -> None:
    settled = recipe("schedule=constant")
    checkpoint = finished.folder / "seed-0" / "base" / "checkpoints" / "step-23.ckpt"
    moment = Moment(1, 23, 1e9)
    job = BranchJob(settled, Branch(0, moment, 23), checkpoint, tmp_path / "a.json", tmp_path, "cpu", "32", 1)
    twin = run_branch(replace(job, branch=Branch(0, replace(moment, learning_rate=0.1), 23)))
    lost = run_branch(replace(job, branch=Branch(0, moment, 23, "prune_global", 0.9)))
    assert lost.accuracy_after is None
    in_one_step = Branch(0, replace(moment, learning_rate=1e30), 1, "prune_global", 0.9)
    assert run_branch(replace(job, branch=in_one_step, file=tmp_path / "b.json")).accuracy_after is None
    plan = plan_study(
        settled,
        at=["1ep"],
        rules=["prune_global"],
        rates=[0.9],
        horizon="1ep",
        seeds=[0],
        data_dir=tmp_path,
        download=False,
    )
    result = summarise(plan, [twin, lost], tmp_path)
    cell = result.cell(1, "prune_global", 0.9)
    assert (cell.accuracy, cell.change, cell.gain, cell.diverged) == (None, None, None, 1)
    assert result.mean_changes("prune_global", 0.9) == {0.1: None}


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"rules": ["prune_globl"]}, "did you mean 'prune_global'"),
        ({"rules": []}, "at least one rule"),
        ({"rules": ["prune_global", "prune_global"]}, "given twice"),
        ({"rates": [1.0]}, "above 0 and below 1"),
        ({"rates": [0]}, "above 0 and below 1"),
        ({"rates": ["0.5"]}, "above 0 and below 1"),
        ({"rates": [0.5, 0.5]}, "rate 0.5 is given twice"),
        ({"rates": [0.9999]}, "min_kept_per_layer"),
        ({"horizon": "0ep"}, "less than one optimizer step"),
        ({"horizon": "long"}, "horizon"),
        ({"seeds": [-1]}, "seed"),
        ({"jobs": 0}, "jobs"),
        ({"threads": 0}, "threads"),
        ({"device": "tpu"}, "device"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_trained(tmp_path: Path, options: dict, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        study(tmp_path / "study", **options)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("options", [{"at": "50%"}, {"rules": "prune_global"}])
def test_a_text_is_not_taken_for_a_list_of_its_letters(tmp_path: Path, options: dict) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(options))} must be a list of texts, got the text"):
        study(tmp_path / "study", **options)


def test_a_process_that_is_ended_from_outside_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    # One that needs no import in the new processes.
    monkeypatch.setattr("sparsewright.plasticity.workers._follow_parent", os.getpid)
    with pytest.raises(RuntimeError, match="ended from outside, which is how a system without memory left does it"):
        list(run_all(os._exit, [1, 1], 2))


def test_only_dense_recipes_of_one_stage_are_taken(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one dense train stage; it has train \(train, granet\)"):
        study(tmp_path, "method=granet", "sparsity=0.9")


def test_a_network_without_removable_filters_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    single = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    monkeypatch.setattr("sparsewright.plasticity.plan.create_recipe_model", lambda *_, **__: single)
    with pytest.raises(ValueError, match=r"reaches no layer: 1\.weight is an output"):
        study(tmp_path, rules=["prune_structured"], rates=[0.5])


# The command.


def invoke(*arguments: object):
    return CliRunner().invoke(app, ["plasticity", "digits/lenet300", *SMALL, *map(str, arguments)])


def test_the_command_prints_tables_and_writes_the_page(tmp_path: Path) -> None:
    options = (
        "--at",
        "2ep",
        "--rates",
        "50%,0.9",
        "--rules",
        "prune_and_grow_global, prune_global",
        "--horizon",
        "5it",
    )
    first = invoke(*options, "--seed", "0,1", "--out", tmp_path, "--device", "cpu")
    assert first.exit_code == 0, first.output
    assert "5/5" not in first.stdout
    assert "10/10" in first.stdout
    lines = first.stdout.splitlines()
    assert next(line for line in lines if line.startswith("prune_global  ")).count("±") == 2
    assert str(tmp_path / "plasticity.html") in first.stdout
    assert "prune_and_grow_global" in (tmp_path / "plasticity.html").read_text()
    again = invoke(*options, "--seed", "0,1", "--out", tmp_path, "--device", "cpu", "--json")
    assert json.loads(again.stdout) == json.loads((tmp_path / "plasticity.json").read_text())


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--rates", "0.5,x"), "--rates"),
        (("--rates", "0.5,,0.9"), "--rates is a list with commas between its entries, and one is missing"),
        (("--rules", "prune_global,"), "--rules"),
        (("--seed", "0,a"), "--seed"),
        (("--at", "100%"), "before the last"),
        (("--jobs", "0"), "--jobs"),
        (("--rates", "150%"), "above 0 and below 1, got 1.5"),
        (("seed=0,1",), "--seed 0,1"),
        (("optimizer.lr=0.1,0.2",), "one value of optimizer.lr, and sweep takes several"),
        (("--at", "1ep", "--horizon", "2"), "horizon"),
        (("method=rigl", "sparsity=0.5"), "one dense train stage"),
    ],
)
def test_bad_options_end_in_one_sentence(tmp_path: Path, options: tuple[str, ...], part: str) -> None:
    result = invoke(*options, "--out", tmp_path / "study")
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert part in line
    assert not (tmp_path / "study").exists()


@interrupts
def test_an_interrupted_study_says_how_far_it_is(tmp_path: Path) -> None:
    first = invoke("--at", "2ep", "--rates", "0.5", "--rules", "prune_global", "--out", tmp_path, "--horizon", "5it")
    assert first.exit_code == 0, first.output
    more = ("--at", "2ep,3ep", "--rates", "0.5,0.9", "--rules", "prune_global", "--out", tmp_path, "--horizon", "5it")
    branches = tmp_path / "seed-0" / "branches"
    with interrupted_when(lambda: (branches / "step-69" / "twin-5it.json").is_file()):
        result = invoke(*more)
    assert result.exit_code == 130, result.output
    done = len(list(branches.rglob("*.json")))
    assert 4 <= done < 6
    assert f"{done} of 6 branches are done; the same command trains the others" in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found through /proc")
def test_a_study_killed_at_work_in_two_processes_leaves_none_and_loses_no_branch(tmp_path: Path) -> None:
    options = {"at": ["1ep", "2ep"], "rates": [0.5, 0.9], "rules": ["prune_global"], "horizon": "20ep"}
    written = ["--at", "1ep,2ep", "--rates", "0.5,0.9", "--rules", "prune_global", "--horizon", "20ep"]
    command = [sys.executable, "-m", "sparsewright", "plasticity", "digits/lenet300", *SMALL, *written]
    places = ["--out", str(tmp_path), "--device", "cpu", "--jobs", "2", "--threads", "1"]
    with subprocess.Popen([*command, *places], env=ENVIRONMENT, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: len(modified(tmp_path)) >= 2 or process.poll() is not None, "two branches")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        finally:
            process.send_signal(signal.SIGKILL)
    assert len(children) >= 2
    wait_for(lambda: not any(Path(f"/proc/{child}").is_dir() for child in children), "the end of the processes")
    times = modified(tmp_path)
    assert 2 <= len(times) < 6
    first = min(times)
    by_process = json.loads((tmp_path / first).read_text())
    (tmp_path / first).unlink()
    study(tmp_path, **options)
    after = modified(tmp_path)
    assert len(after) == 6
    assert {name for name in times if after[name] == times[name]} == set(times) - {first}
    assert json.loads((tmp_path / first).read_text()) | {"seconds": 0} == by_process | {"seconds": 0}
