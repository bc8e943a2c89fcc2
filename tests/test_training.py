"""Whole runs: what a run folder holds, that a run can be stopped at any moment, and that failures harm nothing."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import sparsewright as sw
from sparsewright.analysis.flops import layer_flops
from sparsewright.models import create_model
from sparsewright.training import (
    CheckpointError,
    RunFolderError,
    SaveError,
    TrainingError,
    evaluate,
    load_recipe,
    load_run,
    read_metrics,
    train,
)
from sparsewright.training.checkpoint import load_checkpoint, save_checkpoint
from sparsewright.training.folder import default_folder, only_here
from sparsewright.training.loop import RunningResult, Trainer
from sparsewright.training.weights import load_weights, save_weights

pytestmark = [
    # Runs this short leave GSM's passive weights no time to fade.
    pytest.mark.filterwarnings("ignore::sparsewright.training.fading.FadingWarning"),
    # A run that is stopped and resumed is the same whatever its network was at the start.
    pytest.mark.filterwarnings("ignore::sparsewright.training.untrained.UntrainedWarning"),
    # What is tested with AdamW holds for any optimizer; whether the penalty works well with it does not matter here.
    pytest.mark.filterwarnings("ignore:GReg.* adds its penalty to the gradient:UserWarning"),
]

METHODS = [info.name for info in sw.list_methods()]
MASKED = [info.name for info in sw.list_methods() if not info.cls.prunes_at_end]
SHORT = [
    "duration=4ep",
    "method_defaults.update_interval=10",
    # GReg with its own schedule needs tens of thousands of steps.
    "method_defaults.pick_step=4e-3",
    "method_defaults.reg_step=0.2",
    "method_defaults.stabilize_steps=20",
]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The networks are tiny: a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe_of(*overrides: str) -> Any:
    return load_recipe("digits/lenet300", [*SHORT, *overrides])


def run(folder: Path, *overrides: str, **arguments: Any) -> dict[str, Any]:
    return train(recipe_of(*overrides), out=folder, device="cpu", quiet=True, **arguments)


def checksum(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


class Killed(BaseException):
    """Stands for a process that ends in the middle of an epoch."""


@contextmanager
def killed_at_step(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[None]:
    original = Trainer._step
    done = 0

    def dying(self: Trainer, *arguments: Any) -> None:
        nonlocal done
        if done == step:
            raise Killed
        done += 1
        original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", dying)
        try:
            yield
        except Killed:
            return
    pytest.fail(f"the run ended before step {step}")


ONE_STAGE = "stages=[{kind: train}]"
"""Without the dense stage that the recipe puts before some methods."""


@pytest.mark.parametrize("method", MASKED)
def test_a_run_reaches_its_sparsity_and_writes_honest_numbers(tmp_path: Path, method: str) -> None:
    summary = run(tmp_path / "run", f"method={method}", "sparsity=0.9", ONE_STAGE, seed=3)
    folder = tmp_path / "run"
    assert json.loads((folder / "summary.json").read_text()) == summary
    weights = load_file(folder / "model.safetensors")
    layers = [name for name, tensor in weights.items() if tensor.ndim >= 2]
    scoped = sum(weights[name].numel() for name in layers)
    kept = round((1 - 0.9) * scoped)
    assert summary["sparsity"] == pytest.approx(1 - kept / scoped, abs=1e-12)
    assert sum(int(weights[name].count_nonzero()) for name in layers) <= kept
    biases = summary["parameters"] - scoped
    assert summary["kept_parameters"] == kept + biases
    assert summary["nonzero_parameters"] == sum(int(tensor.count_nonzero()) for tensor in weights.values())
    for name in layers:
        entry = summary["layers"][name]
        assert entry["shape"] == list(weights[name].shape)
        assert entry["sparsity"] <= (weights[name] == 0).double().mean().item() + 1e-12
    assert (summary["method"], summary["seed"], summary["target_sparsity"]) == (method, 3, 0.9)
    assert summary["recipe"] == "digits/lenet300"
    assert summary["inference_flops_sparse"] < 0.5 * summary["inference_flops_dense"]
    assert summary["training_flops_sparse"] < summary["training_flops_dense"]
    # Magnitudes of untrained weights tell layers apart by their fan-in only, so that method can cut one off.
    assert summary["test_accuracy"] > (0 if method == "magnitude" else 50)
    assert summary["versions"]["torch"] == torch.__version__

    lines = read_metrics(folder)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert [line["step"] for line in lines] == [23, 46, 69, 92]
    assert lines[-1]["test_accuracy"] == summary["test_accuracy"]
    assert lines[-1]["sparsity"] == pytest.approx(summary["sparsity"])
    assert [line["lr"] for line in lines] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    assert list((folder / "tensorboard").iterdir())


def test_a_dense_run_counts_three_forward_passes_per_image(tmp_path: Path) -> None:
    summary = run(tmp_path / "run")
    forward = 2 * (64 * 300 + 300 * 100 + 100 * 10)
    assert summary["inference_flops_dense"] == summary["inference_flops_sparse"] == forward
    assert summary["training_flops_dense"] == summary["training_flops_sparse"] == 3 * forward * 1437 * 4
    assert (summary["method"], summary["sparsity"], summary["target_sparsity"]) == ("dense", 0, 0)
    assert summary["parameters"] == summary["kept_parameters"] == 50_610


def test_training_flops_count_as_rigl_does(tmp_path: Path) -> None:
    static = run(tmp_path / "static", "method=static", "sparsity=0.9")
    rigl = run(tmp_path / "rigl", "method=rigl", "sparsity=0.9")
    snfs = run(tmp_path / "snfs", "method=snfs", "sparsity=0.9", "method.redistribute=null")
    sparse, dense = static["inference_flops_sparse"], static["inference_flops_dense"]
    images = 1437 * 4
    assert static["training_flops_sparse"] == pytest.approx(3 * sparse * images)
    assert rigl["inference_flops_sparse"] == pytest.approx(sparse)
    # Updates at steps 10 to 60 of 92 (the last moment is 0.75 x 92 = 69); every batch of these has 64 images but
    # those that end an epoch, steps 23, 46, ...
    updates = 6
    assert rigl["training_flops_sparse"] == pytest.approx(3 * sparse * images + updates * 64 * (dense - sparse))
    assert snfs["training_flops_sparse"] == pytest.approx((2 * sparse + dense) * images)


def test_the_best_accuracy_is_of_epochs_after_the_schedule_only(tmp_path: Path) -> None:
    summary = run(tmp_path / "run", "method=gmp", "sparsity=0.9", "method.prune_end=0.6")
    lines = read_metrics(tmp_path / "run")
    final = [line["test_accuracy"] for line in lines if line["sparsity"] == lines[-1]["sparsity"]]
    assert 0 < len(final) < len(lines)
    assert summary["best_accuracy_after_schedule"] == max(final)


def test_an_interrupted_run_tells_no_best_before_the_schedule_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_at_step(monkeypatch, 30):
        run(tmp_path / "run", "method=gmp", "sparsity=0.9")
    assert load_checkpoint(tmp_path / "run" / "last.ckpt")["progress"]["best_accuracy"] is None


@pytest.mark.parametrize("step", [5, 60])
@pytest.mark.parametrize("method", ["dense", *METHODS])
def test_promise_3_a_stopped_run_resumes_bit_identically(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, step: int
) -> None:
    changes = [
        f"method={method}",
        ONE_STAGE,
        "data.crop_padding=1",
        "data.flip=true",
        "optimizer=adamw",
        "optimizer.lr=0.003",
    ]
    changes += [] if method == "dense" else ["sparsity=0.9"]
    whole = run(tmp_path / "whole", *changes)
    with killed_at_step(monkeypatch, step):
        run(tmp_path / "stopped", *changes)
    torch.manual_seed(99)
    resumed = run(tmp_path / "stopped", *changes, resume=True)
    assert checksum(tmp_path / "stopped") == checksum(tmp_path / "whole")
    for key in whole.keys() - {"train_seconds"}:
        assert resumed[key] == whole[key], key
    trained = [line["epoch"] for line in read_metrics(tmp_path / "stopped") if line["kind"] == "train"]
    assert trained == [1, 2, 3, 4]


def test_seeds_differ_and_a_seed_repeats(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tmp_path / name, "method=set", "sparsity=0.8", "duration=2ep", seed=seed)
    assert checksum(tmp_path / "a") == checksum(tmp_path / "b") != checksum(tmp_path / "c")


def test_training_leaves_the_callers_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    random.seed(1)
    expected = torch.rand(1), random.random()
    torch.manual_seed(1)
    random.seed(1)
    run(tmp_path / "run", "duration=2it")
    assert (torch.rand(1), random.random()) == expected


STAGES = (
    "stages=[{kind: train, duration: 2ep}, {kind: prune, sparsity: 0.8}, "
    "{kind: train, duration: 30it, optimizer: {lr: 0.01}}, {kind: evaluate}]"
)


def test_stages_start_from_the_one_before_and_hold_its_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = run(tmp_path / "whole", STAGES)
    lines = read_metrics(tmp_path / "whole")
    assert [line["stage"] for line in lines] == ["train-1", "train-1", "prune", "train-2", "train-2", "evaluate"]
    assert [round(line["sparsity"], 3) for line in lines] == [0, 0, 0.8, 0.8, 0.8, 0.8]
    assert (lines[-1]["step"], lines[-1]["test_loss"]) == (46 + 30, lines[-2]["test_loss"])
    assert lines[2]["test_loss"] != lines[1]["test_loss"]
    assert (summary["method"], summary["target_sparsity"]) == ("magnitude", 0.8)
    assert summary["sparsity"] == pytest.approx(0.8, abs=1e-4)
    with killed_at_step(monkeypatch, 46 + 25):
        run(tmp_path / "stopped", STAGES)
    run(tmp_path / "stopped", STAGES, resume=True)
    assert checksum(tmp_path / "stopped") == checksum(tmp_path / "whole")


def test_a_folder_with_a_run_is_refused_without_resume(tmp_path: Path) -> None:
    first = run(tmp_path / "run", "duration=3it")
    with pytest.raises(RunFolderError, match=r"finished run; add --resume .* --out"):
        run(tmp_path / "run", "duration=3it")
    before = checksum(tmp_path / "run")
    assert run(tmp_path / "run", "duration=3it", resume=True) == first
    assert checksum(tmp_path / "run") == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_another_run_is_refused(tmp_path: Path, resume: bool) -> None:
    run(tmp_path / "run", "duration=3it")
    with pytest.raises(RunFolderError, match=r"another recipe \(duration is 3it there and 4it here\)"):
        run(tmp_path / "run", "duration=4it", resume=resume)
    with pytest.raises(RunFolderError, match="seed 0, not 1"):
        run(tmp_path / "run", "duration=3it", seed=1, resume=resume)
    with pytest.raises(RunFolderError, match="precision 32, not bf16"):
        run(tmp_path / "run", "duration=3it", precision="bf16", resume=resume)


def test_the_default_folder_is_named_by_recipe_settings_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = recipe_of("duration=3it")
    train(recipe, quiet=True, device="cpu")
    assert default_folder(recipe, 0) == Path(f"runs/digits-lenet300-{recipe.digest()}")
    assert (default_folder(recipe, 0) / "summary.json").is_file()
    assert default_folder(recipe, 1) != default_folder(recipe, 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["model.safetensors", "metrics.jsonl", "tensorboard/events", "run.json"])
def test_a_folder_with_files_of_no_run_is_refused_and_left_alone(tmp_path: Path, name: str, resume: bool) -> None:
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(RunFolderError, match=rf"mine holds {name.split('/')[0]}, which a new run would overwrite"):
        run(tmp_path / "mine", "duration=3it", resume=resume)
    assert contents(tmp_path / "mine") == {name: b"mine"}


def test_a_failed_start_takes_away_only_what_it_wrote(tmp_path: Path) -> None:
    for existing in ("empty", "full"):
        (tmp_path / existing).mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    for folder in ("empty", "full", "new"):
        with pytest.raises(TrainingError):
            run(tmp_path / folder, "optimizer.lr=1e30")
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "full"}
    assert contents(tmp_path) == {"full/notes.txt": b"mine"}


def test_a_start_that_was_killed_at_once_can_be_started_again(tmp_path: Path) -> None:
    run(tmp_path / "first", "duration=3it")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_bytes((tmp_path / "first" / "run.json").read_bytes())
    run(tmp_path / "run", "duration=3it")
    assert checksum(tmp_path / "run") == checksum(tmp_path / "first")


def test_a_resume_that_fails_takes_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with killed_at_step(monkeypatch, 5):
        run(tmp_path / "run")
    before = set(contents(tmp_path / "run"))

    def failing(*_: object) -> None:
        raise RuntimeError("no memory left")

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", failing)
        with pytest.raises(RuntimeError, match="no memory left"):
            run(tmp_path / "run", resume=True)
    assert set(contents(tmp_path / "run")) >= before
    assert run(tmp_path / "run", resume=True)["epochs"] == 4


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    with killed_at_step(monkeypatch, 40):
        run(tmp_path / "run")
    path = tmp_path / "run" / "last.ckpt"
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "garbage": b"no checkpoint", "empty": b""}[damage])
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged or cut short"):
        run(tmp_path / "run", resume=True)


def test_a_checkpoint_is_never_unpickled_as_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "sprung"),))

    torch.save({"trap": Trap()}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "last.ckpt")
    assert not (tmp_path / "sprung").exists()


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file can grow beyond ``size`` bytes, as on a full disk."""
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, former)


def test_a_full_disk_leaves_the_former_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    content = {"model": {}, "optimizer": None, "sparsifier": None, "progress": {}, "random": []}
    save_checkpoint(path, content)
    before = path.read_bytes()
    with largest_file(100_000), pytest.raises(SaveError, match=r"cannot save .*last\.ckpt: .*unchanged"):
        save_checkpoint(path, {**content, "model": {"weight": torch.zeros(100_000)}})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_ctrl_c_while_a_checkpoint_is_written_is_no_failure_to_save(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    content = {"model": {}, "optimizer": None, "sparsifier": None, "progress": {}, "random": []}
    save_checkpoint(path, content)
    before = path.read_bytes()
    original = torch.save

    class Interrupted(io.BytesIO):
        def write(self, *arguments: Any) -> int:
            if self.tell() > 100:
                raise KeyboardInterrupt
            return super().write(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", lambda content, stream: original(content, Interrupted()))
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(path, content)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_to_save_after_ctrl_c_is_told(tmp_path: Path) -> None:
    content = {"model": {"weight": torch.zeros(100_000)}}
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with largest_file(100_000), pytest.raises(SaveError, match="cannot save"):
            save_checkpoint(tmp_path / "last.ckpt", content)


def test_a_run_that_met_a_full_disk_goes_on_from_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", "method=granet", "sparsity=0.9")
    original, saves = torch.save, 0

    def full(content: Any, stream: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == 3:
            stream.write(b"x" * 1000)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(content, stream)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(SaveError, match="No space left on device"):
            run(tmp_path / "run", "method=granet", "sparsity=0.9")
    assert load_checkpoint(tmp_path / "run" / "last.ckpt")["progress"]["total_epochs"] == 2
    assert not list((tmp_path / "run").glob(".*.tmp"))
    run(tmp_path / "run", "method=granet", "sparsity=0.9", resume=True)
    assert checksum(tmp_path / "run") == checksum(tmp_path / "whole")


def test_a_schedule_that_does_not_fit_is_told_in_the_methods_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"method granet: .*update_interval") as caught:
        run(tmp_path / "run", "method=granet", "sparsity=0.9", "duration=3it")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_divergence_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"diverged.*optimizer\.lr"):
        run(tmp_path / "run", "optimizer.lr=1e30")


def test_divergence_that_only_the_test_images_show_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"diverged: the test loss after epoch 1 .*optimizer\.lr"):
        run(tmp_path / "run", "optimizer.lr=1e30", "duration=1it")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"precision": "16"}, "precision must be one of 32, bf16"),
        ({"devices": 0}, "devices must be a whole number of at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 2**63}, r"seed must be below 2\*\*63"),
    ],
)
def test_bad_arguments_are_refused(tmp_path: Path, arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        run(tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


def test_absent_data_are_refused(tmp_path: Path) -> None:
    recipe = load_recipe("mnist/lenet300")
    with pytest.raises(FileNotFoundError):
        train(recipe, out=tmp_path / "run", data_dir=tmp_path / "none", download=False, device="cpu", quiet=True)


def test_load_run_and_evaluate_give_the_numbers_of_training(tmp_path: Path) -> None:
    summary = run(tmp_path / "run", "method=granet", "sparsity=0.9", "data.validation=200")
    loaded = load_run(tmp_path / "run")
    assert loaded.summary == summary
    assert loaded.input_shape == (1, 8, 8)
    validated = evaluate(tmp_path / "run", device="cpu", split="validation")
    assert (validated["accuracy"], validated["images"]) == (summary["test_accuracy"], 200)
    assert validated["loss"] == pytest.approx(summary["test_loss"])
    tested = evaluate(tmp_path / "run" / "model.safetensors", device="cpu")
    assert tested["images"] == 360
    assert tested["sparsity"] >= summary["sparsity"]
    assert sw.MaskSet.from_zeros(loaded.model).kept() <= round(0.1 * 50_200)
    assert set(layer_flops(loaded.model, torch.zeros(1, 1, 8, 8))) == set(summary["layers"])


def test_loading_an_unfinished_run_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with killed_at_step(monkeypatch, 30):
        run(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="not finished, go on with --resume"):
        load_run(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="there is no"):
        load_run(tmp_path / "nowhere")


def test_bf16_trains_and_saves_float32(tmp_path: Path) -> None:
    summary = run(tmp_path / "run", "method=rigl-itop", "sparsity=0.9", precision="bf16")
    assert summary["test_accuracy"] > 50
    assert {tensor.dtype for tensor in load_file(tmp_path / "run" / "model.safetensors").values()} == {torch.float32}


def test_a_bf16_run_is_evaluated_in_bf16(tmp_path: Path) -> None:
    summary = run(tmp_path / "run", "method=set", "sparsity=0.9", precision="bf16")
    again = evaluate(tmp_path / "run", device="cpu")
    assert (again["precision"], again["loss"]) == ("bf16", summary["test_loss"])
    assert evaluate(tmp_path / "run", device="cpu", precision="32")["loss"] != summary["test_loss"]
    (tmp_path / "run" / "run.json").unlink()
    assert evaluate(tmp_path / "run", device="cpu")["precision"] == "32"


@pytest.mark.parametrize(
    "name",
    ["torchvision:squeezenet1_1@DEFAULT", "torchvision:googlenet@DEFAULT", "timm:resnet10t@pretrained"],
)
def test_a_run_from_pretrained_weights_is_loaded_without_fetching_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import timm.models._builder

    def fetched(*_: object, **__: object) -> None:
        raise AssertionError("fetched pretrained weights")

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", fetched)
    monkeypatch.setattr(timm.models._builder, "load_pretrained", fetched)
    facts = {"num_classes": 7, "in_channels": 3, "image_size": 32}
    trained = create_model(name, **facts, seed=1, load_weights=False)
    save_weights(tmp_path / "model.safetensors", trained, facts)
    recipe = load_recipe("cifar10/resnet20", [f"model={name}"])
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.resolved()))
    loaded = load_run(tmp_path).model
    for key, tensor in trained.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    if "googlenet" in name:
        assert loaded.transform_input is True, "what the pretrained network does to its input"


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_model_refuses_a_seed_out_of_range(seed: int) -> None:
    with pytest.raises(ValueError, match="seed must be"):
        create_model("lenet300", num_classes=10, seed=seed)


def test_label_smoothing_and_clipping_change_training(tmp_path: Path) -> None:
    sums = set()
    for name, change in (("a", "label_smoothing=0"), ("b", "label_smoothing=0.1"), ("c", "gradient_clip=0.01")):
        run(tmp_path / name, change, "duration=5it")
        sums.add(checksum(tmp_path / name))
    assert len(sums) == 3


def test_shared_tensors_are_stored_once_and_come_back(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4))
        model[1].weight = model[0].weight
        return model

    torch.manual_seed(1)
    source, target = tied(), tied()
    for name in ("a.safetensors", "b.safetensors"):
        save_weights(tmp_path / name, source, {"one": 1, "two": 2, "three": 3})
    assert "1.weight" not in load_file(tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    load_weights(tmp_path / "a.safetensors", target)
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)
    assert target[0].weight is target[1].weight


def test_without_a_terminal_there_is_one_line_per_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(recipe_of("method=set", "sparsity=0.8"), out=tmp_path / "run", device="cpu")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(word in lines[0] for word in ("digits/lenet300", "1/4", "loss", "accuracy", "sparsity 0.8", "images/s"))


def test_metrics_tolerate_a_damaged_last_line_only(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert read_metrics(tmp_path) == [{"epoch": 1}, {"epoch": 2}]
    for damaged in ('{"epo', "2", ""):
        path.write_text(f'{{"epoch": 1}}\n{damaged}\n{{"epoch": 3}}\n')
        with pytest.raises(ValueError, match=r"line 2 of .*metrics\.jsonl is damaged"):
            read_metrics(tmp_path)
    with pytest.raises(FileNotFoundError, match="no run folder"):
        read_metrics(tmp_path / "nowhere")


def batch_result(device: str) -> tuple[RunningResult, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    logits = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]], device=device)
    labels = torch.tensor([0, 1, 1], device=device)
    return RunningResult(torch.device(device)), (torch.tensor(0.5, device=device), logits, labels)


class HostTraffic(TorchDispatchMode):
    """Notes what a GPU would wait for: tensors made of Python values, and values read from tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in ("aten::lift_fresh", "aten::_local_scalar_dense"):
            self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


def test_counting_a_batch_does_not_wait_for_the_device() -> None:
    running, batch = batch_result("cpu")
    with HostTraffic() as traffic:
        running.add(*batch)
        running.add(*batch)
    assert traffic.seen == []
    result = running.local()
    assert (result.loss, result.images) == (0.5, 6)
    assert result.accuracy == pytest.approx(200 / 3)


@pytest.mark.gpu
def test_counting_a_batch_does_not_wait_for_cuda() -> None:
    running, batch = batch_result("cuda")
    running.add(*batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        running.add(*batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (running.local().loss, running.local().images) == (0.5, 6)


SCRIPT = """
import sys
from pathlib import Path
from sparsewright.training import load_recipe, train

if __name__ == "__main__":
    folder, devices, *overrides = sys.argv[1:]
    train(load_recipe("digits/lenet300", overrides), out=Path(folder), device="cpu", devices=int(devices),
          resume=True, quiet=True)
"""


def command(tmp_path: Path, folder: Path, devices: int, *overrides: str) -> list[str]:
    script = tmp_path / "train_script.py"
    script.write_text(SCRIPT)
    return [sys.executable, str(script), str(folder), str(devices), *overrides]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


@pytest.mark.slow
def test_a_process_killed_in_the_middle_resumes_bit_identically(tmp_path: Path) -> None:
    changes = ["duration=50ep", "method=set", "sparsity=0.9", "data.crop_padding=1"]
    train(load_recipe("digits/lenet300", changes), out=tmp_path / "whole", device="cpu", quiet=True)
    folder = tmp_path / "killed"
    start = command(tmp_path, folder, 1, *changes)
    process = subprocess.Popen(start, env=environment(), stderr=subprocess.PIPE)
    metrics = folder / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_text().count("\n") >= 4):
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (folder / "model.safetensors").exists()
    # Another number of threads in the environment must not matter: the run remembers its own.
    subprocess.run(start, env={**environment(), "OMP_NUM_THREADS": "2"}, check=True)
    assert checksum(folder) == checksum(tmp_path / "whole")
    assert [line["epoch"] for line in read_metrics(folder)] == list(range(1, 51))


TWO = ("method=set", "sparsity=0.9", "duration=2ep")


@pytest.fixture(scope="module")
def spawned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in two gloo processes that the trainer started."""
    folder = tmp_path_factory.mktemp("spawned") / "run"
    run(folder, *TWO, devices=2)
    return folder


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path, spawned: Path) -> None:
    run(tmp_path / "one", *TWO)
    one, two = read_metrics(tmp_path / "one"), read_metrics(spawned)
    assert [line["step"] for line in one] == [line["step"] for line in two]
    assert two[0]["train_loss"] == pytest.approx(one[0]["train_loss"], rel=0.02)
    assert two[-1]["sparsity"] == one[-1]["sparsity"]
    summary = json.loads((spawned / "summary.json").read_text())
    assert summary["training_flops_dense"] == 3 * summary["inference_flops_dense"] * 1437 * 2
    assert load_run(spawned).summary == summary
    assert evaluate(spawned, device="cpu")["accuracy"] == pytest.approx(summary["test_accuracy"])


@pytest.mark.slow
def test_torchrun_gives_the_same_weights_as_spawned_ranks(tmp_path: Path, spawned: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = command(tmp_path, tmp_path / "torchrun", 1, *SHORT, *TWO)[1:]
    subprocess.run([*torchrun, *arguments], env=environment(), check=True)
    assert checksum(tmp_path / "torchrun") == checksum(spawned)


@pytest.mark.slow
def test_an_error_in_spawned_ranks_arrives_as_itself(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^stage train, method granet: no topology update is due"):
        run(tmp_path / "run", "method=granet", "sparsity=0.9", "duration=3it", devices=2)


def test_a_folder_takes_one_process_at_a_time(tmp_path: Path) -> None:
    with only_here(tmp_path / "run"), pytest.raises(RunFolderError, match=r"another process is training in .*run"):
        run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    summary = run(tmp_path / "run", "duration=1ep")
    with only_here(tmp_path / "run"):
        assert run(tmp_path / "run", "duration=1ep", resume=True) == summary


def test_gsm_trains_dense_even_from_a_sparse_start(tmp_path: Path) -> None:
    stages = "stages=[{}, {kind: prune, method: magnitude, sparsity: 0.8}, {method: gsm, sparsity: 0.9}]"
    summary = run(tmp_path / "run", "duration=1ep", stages)
    assert summary["training_flops_sparse"] == summary["training_flops_dense"]
    assert summary["sparsity"] == pytest.approx(0.9, abs=1e-4)


def test_gsm_reports_its_accuracy_before_and_after_the_prune(tmp_path: Path) -> None:
    summary = run(tmp_path / "run", "duration=1ep", "stages=[{name: base}, {name: search, method: gsm, sparsity: 0.9}]")
    lines = read_metrics(tmp_path / "run")
    assert [(line["stage"], line["kind"]) for line in lines] == [
        ("base", "train"),
        ("search", "train"),
        ("search", "prune"),
    ]
    assert [line["sparsity"] for line in lines] == [0.0, 0.0, pytest.approx(0.9, abs=1e-4)]
    assert summary["test_accuracy_before_pruning"] == lines[1]["test_accuracy"]
    assert summary["test_accuracy"] == lines[2]["test_accuracy"]
    assert summary["best_accuracy_after_schedule"] is None


def test_rpg_without_a_layer_that_has_a_rank_loss_gets_a_warning(tmp_path: Path) -> None:
    settings = ["method=rpg", "sparsity=0.9", "duration=60it"]
    with pytest.warns(UserWarning, match="stage train has no rank loss"):
        run(tmp_path / "without", *settings, "method_defaults.rank_linear_layers=false")
    run(tmp_path / "with", *settings)


def test_gsm_that_diverges_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="training diverged"):
        run(tmp_path / "run", "method=gsm", "sparsity=0.5", "optimizer.lr=1e20")
