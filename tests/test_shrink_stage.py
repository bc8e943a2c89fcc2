"""Recipes that make the network really smaller: what the run holds, that it can be stopped, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sparsewright as sw
from sparsewright.analysis import layer_flops
from sparsewright.cli.run_sizes import compare_sizes
from sparsewright.cli.tables import summary_pairs
from sparsewright.export import save_hdf5
from sparsewright.models import create_model
from sparsewright.structured import NotRemovedWarning
from sparsewright.training import RecipeError, Start, evaluate, load_recipe, load_run, read_metrics, stages, train
from sparsewright.training.loop import Trainer
from sparsewright.training.published import evaluate_published
from sparsewright.training.untrained import UntrainedWarning
from sparsewright.training.weights import first_names, read_metadata

GREG = "digits/lenet300/greg1-2.85x"
L1 = "digits/lenet300/l1-2.85x"
SHORT = [
    "duration=2ep",
    "stages.3.duration=2ep",
    "data.crop_padding=1",
    "method_defaults.pick_step=4e-3",
    "method_defaults.reg_step=0.2",
    "method_defaults.stabilize_steps=20",
]
BASE_STEPS, GREG_STEPS = 46, 31


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(folder: Path, *overrides: str, recipe: str = GREG, **arguments: Any) -> dict[str, Any]:
    settings = load_recipe(recipe, [*SHORT, *overrides])
    return train(settings, out=folder, device="cpu", quiet=True, **arguments)


def checksum(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(folder)


@pytest.mark.parametrize("method", ["greg-1", "greg-2"])
def test_a_run_ends_with_a_smaller_network_and_honest_numbers(tmp_path: Path, method: str) -> None:
    summary = run(tmp_path / "run", f"method={method}")
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert {name: list(tensor.shape) for name, tensor in weights.items() if tensor.ndim == 2} == {
        "fc1.weight": [150, 64],
        "fc2.weight": [50, 150],
        "fc3.weight": [10, 50],
    }
    assert summary["parameters"] == sum(tensor.numel() for tensor in weights.values()) == 17_810
    assert (summary["parameters_dense"], summary["method"], summary["target_sparsity"]) == (50_610, method, 0.5)
    small, dense = 2 * (64 * 150 + 150 * 50 + 50 * 10), 2 * (64 * 300 + 300 * 100 + 100 * 10)
    assert (summary["inference_flops_sparse"], summary["inference_flops_dense"]) == (small, dense)
    assert summary["theoretical_speedup"] == pytest.approx(dense / small)
    assert (summary["shrunk"], summary["not_removed"], summary["sparsity"]) == (True, {}, 0.0)
    assert not (tmp_path / "run" / "masks.safetensors").exists()
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary

    lines = read_metrics(tmp_path / "run")
    assert [line["kind"] for line in lines] == ["train"] * 4 + ["prune", "shrink"] + ["train"] * 2
    before, pruned, shrunk = (lines[index] for index in (3, 4, 5))
    assert summary["test_accuracy_before_pruning"] == before["test_accuracy"]
    # The removed neurons were exactly zero, so that taking them out changes nothing but the order of sums.
    assert shrunk["test_loss"] == pytest.approx(pruned["test_loss"], rel=1e-5)
    # A fine-tuning step of the small network costs as much less as its forward pass.
    steps = 2 * 1437 * 3
    assert summary["training_flops_dense"] - summary["training_flops_sparse"] == pytest.approx(steps * (dense - small))


def test_the_small_network_loads_evaluates_and_needs_no_run(tmp_path: Path) -> None:
    summary = run(tmp_path / "run")
    loaded = load_run(tmp_path / "run")
    assert (loaded.shrunk, parameters(loaded.model), parameters(loaded.dense_network())) == (True, 17_810, 50_610)
    assert evaluate(tmp_path / "run", device="cpu")["accuracy"] == summary["test_accuracy"]

    def factory() -> torch.nn.Module:
        return create_model("lenet300", num_classes=10, in_channels=1, image_size=8)

    alone = sw.load_shrunk(factory, tmp_path / "run" / "model.safetensors").eval()
    images = torch.rand(5, 1, 8, 8)
    assert torch.equal(alone(images), loaded.model(images))


@pytest.mark.parametrize("kind", ["safetensors", "hdf5"])
def test_another_run_goes_on_from_the_small_network(tmp_path: Path, kind: str) -> None:
    run(tmp_path / "run")
    source = tmp_path / "run"
    if kind == "hdf5":
        loaded = load_run(source)
        source = tmp_path / "model.hdf5"
        save_hdf5(source, first_names(loaded.model), read_metadata(tmp_path / "run" / "model.safetensors"))
    recipe = load_recipe("digits/lenet300", ["duration=1it"])
    summary = train(recipe, out=tmp_path / "next", start=Start(weights=source), device="cpu", quiet=True)
    assert (summary["shrunk"], summary["parameters"]) == (True, 17_810)
    assert parameters(load_run(tmp_path / "next").model) == 17_810


@pytest.mark.parametrize(
    ("overrides", "asked"),
    [
        (["method=gmp", "sparsity=0.9"], 0.9),
        (["method=magnitude", "method.granularity=filter", "sparsity=0.5", "stages=[{kind: prune}]"], 0.5),
    ],
)
def test_a_small_network_that_is_masked_again(
    tmp_path: Path, whole: tuple[Path, dict[str, Any]], overrides: list[str], asked: float
) -> None:
    """Zeros make the network cheaper for sparse kernels only: the speed-up is that of the layers."""
    folder, small = whole
    out = tmp_path / "run"
    recipe = load_recipe("digits/lenet300", ["duration=2ep", *overrides])
    summary = train(recipe, out=out, start=Start(weights=folder), device="cpu", quiet=True)
    assert (
        summary["theoretical_speedup"]
        == small["theoretical_speedup"]
        == compare_sizes(load_run(out)).theoretical_speedup
    )
    assert summary["inference_flops_sparse"] < small["inference_flops_sparse"]
    assert summary["sparsity"] == pytest.approx(asked, abs=0.04)
    pairs = summary_pairs(summary)
    assert pairs["sparsity"].startswith(f"{100 * summary['sparsity']:.2f} %")
    assert pairs["speed-up in theory"].startswith("2.85x, with the zeros")
    assert "sparsity" not in summary_pairs(small)


def test_weights_of_a_shrunk_network_are_told_from_a_checkpoint(whole: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(ValueError, match=r"shrunk network.* sparsewright eval RUN") as caught:
        evaluate_published("lenet300", "digits", weights=whole[0] / "model.safetensors", device="cpu")
    assert "--partial" not in str(caught.value)


def test_greg_on_random_weights_is_a_warning(tmp_path: Path, whole: tuple[Path, dict[str, Any]]) -> None:
    recipe = load_recipe(
        "digits/lenet300",
        [
            *("method=greg-1", "sparsity=0.5", "duration=2ep", "stages=[{kind: train}]"),
            *("method.reg_step=0.2", "method.stabilize_steps=1"),
        ],
    )
    with pytest.warns(UntrainedWarning, match=r"greg-1 is made for a trained network.*dense.*--weights"):
        train(recipe, out=tmp_path / "random", device="cpu", quiet=True)
    # Warnings are errors: none here, and none in the runs with a base.
    train(recipe, out=tmp_path / "trained", start=Start(weights=whole[0]), device="cpu", quiet=True)


class Killed(BaseException):
    """Stands for a process that ends."""


def kill_at_step(patch: pytest.MonkeyPatch, step: int) -> None:
    original, done = Trainer._step, iter(range(10_000))

    def dying(self: Trainer, *arguments: Any) -> None:
        if next(done) == step:
            raise Killed
        original(self, *arguments)

    patch.setattr(Trainer, "_step", dying)


def kill_before_shrinking(patch: pytest.MonkeyPatch) -> None:
    def dying(*arguments: Any, **options: Any) -> None:
        raise Killed

    patch.setattr(stages, "shrink_network", dying)


def kill_after_shrinking(patch: pytest.MonkeyPatch) -> None:
    original = stages._shrink

    def dying(*arguments: Any) -> None:
        original(*arguments)
        raise Killed

    patch.setattr(stages, "_shrink", dying)


MOMENTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "in the base": lambda patch: kill_at_step(patch, 30),
    "in GReg": lambda patch: kill_at_step(patch, BASE_STEPS + 28),
    "before shrinking": kill_before_shrinking,
    "after shrinking": kill_after_shrinking,
    "at the start of fine-tuning": lambda patch: kill_at_step(patch, BASE_STEPS + GREG_STEPS),
    "in fine-tuning": lambda patch: kill_at_step(patch, BASE_STEPS + GREG_STEPS + 30),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_promise_3_a_run_that_shrinks_resumes_bit_identically(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: tuple[Path, dict[str, Any]], moment: str
) -> None:
    folder, expected = whole
    with monkeypatch.context() as patch:
        MOMENTS[moment](patch)
        with pytest.raises(Killed):
            run(tmp_path / "run")
    torch.manual_seed(99)
    resumed = run(tmp_path / "run", resume=True)
    assert checksum(tmp_path / "run") == checksum(folder)
    for key in expected.keys() - {"train_seconds"}:
        assert resumed[key] == expected[key], key
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [line["step"] for line in read_metrics(folder)]


@pytest.mark.slow
def test_two_processes_shrink_alike(tmp_path: Path) -> None:
    """Each rank is checked by DDP, which compares the shapes of all parameters when the small network is set up."""
    recipe = load_recipe(L1, ["duration=1it", "stages.3.duration=3it"])
    summary = train(recipe, out=tmp_path / "run", device="cpu", devices=2, quiet=True)
    assert summary["parameters"] == 17_810


def test_duration_auto_lasts_as_long_as_the_schedule(tmp_path: Path) -> None:
    lines_of = {}
    for name, limit in (("to the limit", 1000), ("apart early", 1.0)):
        run(tmp_path / name, f"method_defaults.magnitude_ratio_limit={limit}")
        lines_of[name] = [line for line in read_metrics(tmp_path / name) if line["stage"] == "greg"]
    # Six penalties of 0.2 pass the limit of 1, the first at the first step and one every second step, and are held.
    steps = {name: lines[-1]["step"] - BASE_STEPS for name, lines in lines_of.items()}
    assert steps["to the limit"] == sw.GReg1.steps_needed(
        {"reg_step": 0.2, "reg_interval": 2, "stabilize_steps": 20, "granularity": "filter"}
    )
    # Means of kept neurons are always larger than those of removed ones, so the very first update is the last.
    assert steps["apart early"] == 21
    assert {line["lr"] for line in lines_of["to the limit"] if line["kind"] == "train"} == {0.01}


def test_a_longer_duration_than_the_schedule_is_kept(tmp_path: Path) -> None:
    run(tmp_path / "run", "stages.1.duration=40it")
    greg = [line for line in read_metrics(tmp_path / "run") if line["stage"] == "greg"]
    assert greg[-1]["step"] == BASE_STEPS + 40


def test_a_stage_too_short_for_its_method_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stage greg, method greg-1: duration 5it has 5 .* 31 .* auto"):
        run(tmp_path / "run", "stages.1.duration=5it")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ('sparsity={"conv*": 0.5}', r"stage greg, method greg-1: .*'conv\*' matches no layer"),
        ("sparsity=[0, 0.5, 0]", r"stage greg, method greg-1: a list of 3"),
        ("method.reg_step=0", r"stage greg, method greg-1: reg_step"),
    ],
)
def test_what_does_not_suit_the_network_is_refused_before_anything_is_trained(
    tmp_path: Path, override: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        run(tmp_path / "run", override)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_taken_out_is_reported_and_kept(tmp_path: Path) -> None:
    """The second convolution of a block is added to the shortcut: half of its filters cannot go alone."""
    recipe = load_recipe(
        L1,
        [
            "model=resnet20",
            'sparsity={"stages.0.0.conv1": 0.5, "stages.0.0.conv2": 0.5}',
            "stages=[{kind: prune}, {kind: shrink}]",
        ],
    )
    with pytest.warns(NotRemovedWarning, match=r"stages\.0\.0\.conv2\.weight"):
        summary = train(recipe, out=tmp_path / "run", device="cpu", quiet=True)
    assert list(summary["not_removed"]) == ["stages.0.0.conv2.weight"]
    assert "8 of 8 filters" in summary["not_removed"]["stages.0.0.conv2.weight"]
    assert summary["layers"]["stages.0.0.conv1.weight"]["shape"] == [8, 16, 3, 3]
    assert summary["layers"]["stages.0.0.conv2.weight"]["shape"] == [16, 8, 3, 3]
    assert summary["target_sparsity"] == {"stages.0.0.conv1": 0.5, "stages.0.0.conv2": 0.5}
    model = load_run(tmp_path / "run").model
    assert sum(layer_flops(model, torch.zeros(1, 1, 8, 8)).values()) == summary["inference_flops_sparse"]


def test_channels_are_taken_out_too(tmp_path: Path) -> None:
    summary = run(tmp_path / "run", "method_defaults.granularity=channel", 'sparsity={"fc[23]": 0.5}')
    assert [entry["shape"] for entry in summary["layers"].values()] == [[150, 64], [50, 150], [10, 50]]


def test_damaged_widths_are_named(tmp_path: Path) -> None:
    run(tmp_path / "run")
    path = tmp_path / "run" / "model.safetensors"
    with safe_open(path, framework="pt") as content:
        metadata = json.loads(content.metadata()["sparsewright"])
    metadata["widths"]["fc1"]["out_features"] = "many"
    save_file(load_file(path), path, metadata={"sparsewright": json.dumps(metadata)})
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit the recipe's model"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("stages_", "words"),
    [
        ("[{kind: evaluate}, {kind: shrink}, {kind: prune}]", ["shrink", "it is the first"]),
        ("[{kind: prune}, {method: dense, name: tune}, {kind: shrink}]", ["tune comes in between"]),
        ("[{kind: prune}, {kind: shrink}, {kind: shrink}]", ["shrink-1 comes in between"]),
        ("[{kind: prune, method: {name: magnitude, granularity: weight}}, {kind: shrink}]", ["single weights"]),
        ("[{kind: prune, method: static}, {kind: shrink}]", ["static", "single weights"]),
        ("[{kind: prune}, {kind: shrink, duration: 2ep}]", ["duration", "shrink"]),
        ("[{method: dense, duration: auto}, {kind: prune}]", ["auto", "greg-1", "dense"]),
        ("[{kind: shrink}, {method: dense}]", ["shrink", "it is the first"]),
        ("[{method: greg-1, duration: auto, schedule: cosine}]", ["auto", "constant", "cosine"]),
        ("[{method: granet, sparsity: [0, 0.5, 0]}]", ["granet", "one number", "greg-1"]),
    ],
)
def test_stages_that_do_not_fit_each_other_are_refused(stages_: str, words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(L1, [f"stages={stages_}"])
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("key", ["method_defaults.granularity", "stages.1.method.granularity"])
def test_a_granularity_that_does_not_exist_is_named(key: str) -> None:
    method = ["stages.1.method=greg-1"] if key.startswith("stages") else []
    with pytest.raises(RecipeError, match=r"granularity must be one of 'weight', 'filter', 'channel', got 'filters'"):
        load_recipe(GREG, [*method, f"{key}=filters"])


def test_an_evaluation_may_come_between() -> None:
    recipe = load_recipe(L1, ["stages=[{kind: prune}, {kind: evaluate}, {kind: shrink}]"])
    assert [stage.kind for stage in recipe.resolved_stages()] == ["prune", "evaluate", "shrink"]
