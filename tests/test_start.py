"""Runs that start from given weights, masks and steps, or stop early, and the files of masks that runs leave."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

import sparsewright as sw
from sparsewright.cli import app
from sparsewright.export import save_hdf5
from sparsewright.models import create_model
from sparsewright.training import (
    RecipeError,
    RunFolderError,
    Start,
    load_masks,
    load_recipe,
    load_run,
    read_metrics,
    save_masks,
    train,
)
from sparsewright.training.folder import default_folder, read_settings
from sparsewright.training.loop import Trainer
from sparsewright.training.start import record_start

STEPS_PER_EPOCH = 23
# Without momentum an optimizer has no state to lose, so that a run can be taken up anywhere.
BASE = ("duration=4ep", "data.crop_padding=1", "optimizer.momentum=0", "optimizer.nesterov=false")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(folder: Path, *overrides: str, changes: tuple[str, ...] = BASE, **arguments: Any) -> dict[str, Any]:
    recipe = load_recipe("digits/lenet300", [*changes, *overrides])
    return train(recipe, out=folder, device="cpu", quiet=True, **arguments)


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def checksum(folder: Path, name: str = "model.safetensors") -> str:
    return hashlib.sha256((folder / name).read_bytes()).hexdigest()


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Tensor]]]:
    """An uninterrupted run and its weights before each step and at the end."""
    folder = tmp_path_factory.mktemp("dense") / "run"
    original = Trainer._step
    history: list[dict[str, Tensor]] = []

    def watched(self: Trainer, *arguments: Any) -> None:
        history.append({name: tensor.detach().clone() for name, tensor in self.model.module.state_dict().items()})
        original(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", watched)
        run(folder)
    return folder, [*history, weights(folder)]


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sparse") / "run"
    run(folder, "method=set", "sparsity=0.9", "method_defaults.update_interval=10")
    return folder


@pytest.mark.parametrize("step", [0, 1, STEPS_PER_EPOCH, 30, 4 * STEPS_PER_EPOCH])
def test_a_stopped_run_has_the_weights_of_that_step(
    tmp_path: Path, dense: tuple[Path, list[dict[str, Tensor]]], step: int
) -> None:
    summary = run(tmp_path / "run", stop=step)
    assert_equal(weights(tmp_path / "run"), dense[1][step])
    assert summary["steps"] == step
    assert summary["test_accuracy"] is not None


def test_stop_0_gives_the_initial_weights_of_the_seed(tmp_path: Path) -> None:
    run(tmp_path / "run", stop=0, seed=3)
    expected = create_model("lenet300", num_classes=10, in_channels=1, image_size=8, seed=3)
    assert_equal(weights(tmp_path / "run"), dict(expected.state_dict()))
    assert [line["kind"] for line in read_metrics(tmp_path / "run")] == ["evaluate"]


@pytest.mark.parametrize("step", [1, STEPS_PER_EPOCH, 50])
def test_a_run_from_the_weights_and_step_of_another_ends_like_it(
    tmp_path: Path, dense: tuple[Path, list[dict[str, Tensor]]], step: int
) -> None:
    """The same data and learning rates from that step on, also from the middle of an epoch."""
    run(tmp_path / "early", stop=step)
    summary = run(tmp_path / "late", start=Start(weights=tmp_path / "early", step=step))
    assert_equal(weights(tmp_path / "late"), weights(dense[0]))
    assert summary["steps"] == 4 * STEPS_PER_EPOCH - step
    assert [line["lr"] for line in read_metrics(tmp_path / "late")] == [
        line["lr"] for line in read_metrics(dense[0])[step // STEPS_PER_EPOCH :]
    ]


def test_a_started_and_stopped_run_covers_the_steps_between(
    tmp_path: Path, dense: tuple[Path, list[dict[str, Tensor]]]
) -> None:
    run(tmp_path / "early", stop=10)
    summary = run(tmp_path / "middle", start=Start(weights=tmp_path / "early", step=10), stop=60)
    assert_equal(weights(tmp_path / "middle"), dense[1][60])
    assert summary["steps"] == 50


def test_given_weights_replace_those_of_the_seed(tmp_path: Path, dense: tuple[Path, Any]) -> None:
    run(tmp_path / "copy", start=Start(weights=dense[0]), stop=0, seed=5)
    assert checksum(tmp_path / "copy") == checksum(dense[0])


def test_weights_of_hdf5_and_of_plain_safetensors_are_taken(tmp_path: Path, dense: tuple[Path, Any]) -> None:
    pytest.importorskip("h5py")
    tensors = weights(dense[0])
    save_hdf5(tmp_path / "weights.hdf5", tensors)
    save_file(tensors, tmp_path / "weights.safetensors")
    for number, name in enumerate(("weights.hdf5", "weights.safetensors")):
        run(tmp_path / str(number), start=Start(weights=tmp_path / name), stop=0)
        assert checksum(tmp_path / str(number)) == checksum(dense[0])


def test_given_masks_hold_from_the_first_step_on(tmp_path: Path, sparse: Path) -> None:
    masks = load_masks(sparse / "masks.safetensors")
    run(tmp_path / "before", start=Start(masks=sparse), stop=0)
    initial = create_model("lenet300", num_classes=10, in_channels=1, image_size=8, seed=0)
    masks.apply(initial)
    assert_equal(weights(tmp_path / "before"), dict(initial.state_dict()))
    adam = ("duration=4ep", "optimizer=adam", "optimizer.lr=0.01")
    summary = run(tmp_path / "run", changes=adam, start=Start(masks=sparse))
    kept = round((1 - 0.9) * 50_200)
    assert masks.kept() == kept
    assert (summary["method"], summary["kept_parameters"]) == ("static", kept + 410)
    assert summary["sparsity"] == summary["target_sparsity"] == masks.sparsity()
    for name, mask in masks.items():
        assert int(weights(tmp_path / "run")[name][~mask].count_nonzero()) == 0
    assert checksum(tmp_path / "run", "masks.safetensors") == checksum(sparse, "masks.safetensors")
    assert summary["test_accuracy"] > 80
    assert summary["best_accuracy_after_schedule"] == max(
        line["test_accuracy"] for line in read_metrics(tmp_path / "run")
    )


def test_masks_come_from_the_zeros_of_weights_too(tmp_path: Path, sparse: Path) -> None:
    summary = run(tmp_path / "run", start=Start(masks=sparse / "model.safetensors"), stop=5)
    zeros = sw.MaskSet.from_zeros(load_run(sparse).model)
    found = load_masks(tmp_path / "run" / "masks.safetensors")
    assert_equal(dict(found), dict(zeros))
    assert summary["sparsity"] == zeros.sparsity()


@pytest.mark.filterwarnings("ignore::sparsewright.training.fading.FadingWarning")
@pytest.mark.parametrize("method", ["set", "gmp", "gsm", "magnitude"])
def test_a_run_that_ends_with_masks_writes_them(tmp_path: Path, method: str) -> None:
    changes = ("duration=2ep", "method_defaults.update_interval=10", f"method={method}", "sparsity=0.8")
    summary = run(tmp_path / "run", changes=changes)
    masks = load_masks(tmp_path / "run" / "masks.safetensors")
    assert masks.kept() == round((1 - 0.8) * 50_200)
    assert masks.sparsity() == summary["sparsity"]
    nonzero = sw.MaskSet.from_zeros(load_run(tmp_path / "run").model)
    assert all(bool((masks[name] | ~nonzero[name]).all()) for name in nonzero)


def test_a_dense_run_writes_no_masks(dense: tuple[Path, Any]) -> None:
    assert not (dense[0] / "masks.safetensors").exists()


SHAPES = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=5)


@settings(deadline=None, max_examples=30)
@given(SHAPES, st.integers(0, 2**31))
def test_masks_come_back_in_their_order_and_give_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    folder = tmp_path_factory.mktemp("masks")
    masks = sw.MaskSet(
        {f"layer{9 - index}": torch.rand(shape, generator=generator) < 0.5 for index, shape in enumerate(shapes)}
    )
    for name in ("one", "two"):
        save_masks(folder / name, masks)
    found = load_masks(folder / "one")
    assert list(found) == list(masks)
    assert_equal(dict(found), dict(masks))
    assert checksum(folder, "one") == checksum(folder, "two")


def test_a_damaged_file_of_masks_is_refused(tmp_path: Path, sparse: Path) -> None:
    content = (sparse / "masks.safetensors").read_bytes()
    (tmp_path / "short").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"short is damaged"):
        load_masks(tmp_path / "short")
    tensors = load_file(sparse / "masks.safetensors")
    tensors["fc1.weight"] = tensors["fc1.weight"][:-1]
    shapes = json.dumps({"masks": [["fc1.weight", [300, 64]]]})
    save_file(tensors, tmp_path / "odd", metadata={"sparsewright": shapes})
    with pytest.raises(ValueError, match=r"odd is damaged: .*fc1\.weight"):
        load_masks(tmp_path / "odd")
    with pytest.raises(ValueError, match=r"model\.safetensors holds no masks"):
        load_masks(sparse / "model.safetensors")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_masks(tmp_path / "nowhere")


class Killed(BaseException):
    """Stands for a process that ends in the middle of an epoch."""


def killed_run(monkeypatch: pytest.MonkeyPatch, folder: Path, **arguments: Any) -> None:
    original, done = Trainer._step, 0

    def dying(self: Trainer, *parts: Any) -> None:
        nonlocal done
        if done == 30:
            raise Killed
        done += 1
        original(self, *parts)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", dying)
        with pytest.raises(Killed):
            run(folder, **arguments)


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sparse: Path) -> tuple[Path, Start]:
    """A run that was killed after its first checkpoint, and what it had been started from."""
    shutil.copytree(sparse, tmp_path / "origin")
    start = Start(weights=tmp_path / "origin", masks=tmp_path / "origin", step=7)
    killed_run(monkeypatch, tmp_path / "stopped", start=start)
    return tmp_path / "stopped", start


def test_a_started_run_resumes_bit_identically_without_its_files(
    tmp_path: Path, interrupted: tuple[Path, Start]
) -> None:
    folder, start = interrupted
    run(tmp_path / "whole", start=start)
    shutil.rmtree(tmp_path / "origin")
    run(folder, start=start, resume=True)
    assert checksum(folder) == checksum(tmp_path / "whole")
    assert run(folder, start=start, resume=True)["steps"] == 4 * STEPS_PER_EPOCH - 7


def test_a_resumed_run_knows_its_files_at_another_place(tmp_path: Path, interrupted: tuple[Path, Start]) -> None:
    folder, start = interrupted
    (tmp_path / "origin").rename(tmp_path / "moved")
    moved = Start(tmp_path / "moved", tmp_path / "moved", 7)
    assert run(folder, start=moved, resume=True)["sparsity"] == pytest.approx(0.9)
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        run(folder, start=Start(tmp_path / "elsewhere", start.masks, 7), resume=True)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"weights": None}, r"holds a run with weights .*origin \(sha256 \w+\), not no start from weights"),
        ({"masks": None}, r"holds a run with masks .*, not no start from masks"),
        ({"masks": "model.safetensors"}, r"holds a run with masks .*origin/model\.safetensors \(sha256"),
        ({"step": 8}, "holds a run with step 7, not 8"),
        ({"stop": 60}, "holds a run with stop None, not 60"),
    ],
)
def test_a_resume_with_another_start_is_refused(
    interrupted: tuple[Path, Start], change: dict[str, Any], expected: str
) -> None:
    folder, start = interrupted
    given = {"weights": start.weights, "masks": start.masks, "step": start.step, **change}
    stop = given.pop("stop", None)
    if given["masks"] == "model.safetensors":
        assert start.masks is not None
        given["masks"] = start.masks / "model.safetensors"
    with pytest.raises(RunFolderError, match=expected):
        run(folder, start=Start(**given), stop=stop, resume=True)


def test_a_run_folder_of_before_there_were_starts_is_read(tmp_path: Path) -> None:
    summary = run(tmp_path / "run", "duration=3it")
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert content.pop("start") == {
        "weights": None,
        "weights_sha256": None,
        "masks": None,
        "masks_sha256": None,
        "step": 0,
        "stop": None,
    }
    before = read_settings(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(json.dumps(content))
    assert read_settings(tmp_path / "run") == before
    assert run(tmp_path / "run", "duration=3it", resume=True) == summary


def test_the_default_folder_depends_on_the_start(tmp_path: Path, sparse: Path) -> None:
    recipe = load_recipe("digits/lenet300")
    shutil.copytree(sparse, tmp_path / "copy")
    starts = [
        record_start(Start(), None),
        record_start(Start(), 5),
        record_start(Start(step=5), None),
        record_start(Start(weights=sparse), None),
        record_start(Start(masks=sparse), None),
    ]
    folders = [default_folder(recipe, 0, start) for start in starts]
    assert len(set(folders)) == len(folders)
    assert folders[0] == default_folder(recipe, 0) == Path(f"runs/digits-lenet300-{recipe.digest(0)}")
    assert default_folder(recipe, 0, record_start(Start(weights=tmp_path / "copy"), None)) == folders[3]


TWO_STAGES = "stages=[{name: base}, {name: more}]"
PRUNED_FIRST = "stages=[{kind: prune, sparsity: 0.5}, {kind: train}]"


@pytest.mark.parametrize(
    ("overrides", "start", "stop", "error", "expected"),
    [
        (["method=set", "sparsity=0.9"], Start(masks=Path("m")), None, RecipeError, "stage train makes masks of its"),
        ([PRUNED_FIRST], Start(step=1), None, RecipeError, "step 1 only where its first stage is dense .* prune"),
        ([TWO_STAGES], Start(), 5, RecipeError, "stop needs a recipe of one dense train stage; it has base"),
        (["method=set", "sparsity=0.9"], Start(), 5, RecipeError, r"stop needs .* it has train \(train, set\)"),
        ([], Start(step=92), None, ValueError, "step 92 must be below the 92 optimizer steps"),
        ([], Start(), 93, ValueError, "stop 93 must be at most the 92 optimizer steps"),
        ([], Start(step=-1), None, ValueError, "step must be at least 0"),
        ([], Start(step=9), 8, ValueError, "stop must be at least 9"),
    ],
)
def test_starts_that_make_no_sense_are_refused(
    tmp_path: Path, overrides: list[str], start: Start, stop: int | None, error: type[Exception], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        run(tmp_path / "run", *overrides, start=start, stop=stop)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory: pytest.TempPathFactory, sparse: Path) -> Path:
    """Files of weights and masks that cannot be used."""
    folder = tmp_path_factory.mktemp("bad")
    tensors = weights(sparse)
    save_file({k: v for k, v in tensors.items() if k != "fc2.weight"}, folder / "lacking.safetensors")
    save_file({**tensors, "fc9.weight": torch.ones(2)}, folder / "more.safetensors")
    save_file({**tensors, "fc3.weight": torch.ones(10, 99)}, folder / "shape.safetensors")
    save_file({k: v + 1 for k, v in tensors.items()}, folder / "dense.safetensors")
    (folder / "damaged.safetensors").write_bytes((sparse / "model.safetensors").read_bytes()[:1000])
    masks = load_masks(sparse / "masks.safetensors")
    save_masks(folder / "nothing.masks", sw.MaskSet({k: torch.zeros_like(v) for k, v in masks.items()}))
    save_masks(folder / "shape.masks", sw.MaskSet({**masks, "fc3.weight": torch.ones(10, 99, dtype=torch.bool)}))
    save_masks(folder / "more.masks", sw.MaskSet({**masks, "fc9.weight": torch.ones(2, 2, dtype=torch.bool)}))
    shutil.copy(sparse / "recipe.yaml", folder)
    return folder


@pytest.mark.parametrize(
    ("option", "file", "parts"),
    [
        ("--weights", "nowhere", ["nowhere"]),
        ("--weights", "", ["model.safetensors", "not finished"]),
        ("--masks", "", ["masks.safetensors", "not finished"]),
        ("--weights", "damaged.safetensors", ["damaged.safetensors is damaged"]),
        ("--weights", "recipe.yaml", ["recipe.yaml is damaged or not a safetensors file"]),
        ("--weights", "lacking.safetensors", ["lacking.safetensors", "fc2.weight"]),
        ("--weights", "more.safetensors", ["more.safetensors", "fc9.weight"]),
        ("--weights", "shape.safetensors", ["shape.safetensors", "fc3.weight", "(10, 99)", "(10, 100)"]),
        ("--weights", "more.masks", ["more.masks holds masks, not weights"]),
        ("--masks", "shape.masks", ["shape.masks", "fc3.weight", "(10, 99)", "(10, 100)"]),
        ("--masks", "more.masks", ["more.masks", "fc9.weight"]),
        ("--masks", "nothing.masks", ["nothing.masks keep no weight at all"]),
        ("--masks", "dense.safetensors", ["dense.safetensors has no exact zero"]),
        ("--masks", "shape.safetensors", ["shape.safetensors", "fc3.weight", "(10, 99)", "(10, 100)"]),
    ],
)
def test_files_that_cannot_be_used_are_told_before_training(
    tmp_path: Path, bad_files: Path, option: str, file: str, parts: list[str]
) -> None:
    arguments = ["train", "digits/lenet300", option, str(bad_files / file), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*arguments, "--device", "cpu", "--quiet"])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1
    for part in parts:
        assert part in result.stderr
    assert not (tmp_path / "run").exists()


def test_masks_of_a_dense_run_are_refused_with_a_hint(tmp_path: Path, dense: tuple[Path, Any]) -> None:
    have_masks = r"give the folder of a run that made its network sparse, the masks\.safetensors in one, or a file of"
    with pytest.raises(FileNotFoundError, match=f"ended without masks, .*{have_masks}"):
        run(tmp_path / "run", start=Start(masks=dense[0]))
    with pytest.raises(ValueError, match=f"no exact zero in any layer, .*{have_masks}"):
        run(tmp_path / "run", start=Start(masks=dense[0] / "model.safetensors"))


def test_the_zeros_of_a_sparse_start_are_counted_before_there_are_masks(tmp_path: Path, sparse: Path) -> None:
    """Of the pruning rounds of a ticket, for instance."""
    zeros = sw.MaskSet.from_zeros(load_run(sparse).model).sparsity()
    stages = "stages=[{kind: evaluate}, {kind: train}, {kind: prune, sparsity: 0.95}]"
    run(tmp_path / "run", stages, changes=("duration=2it",), start=Start(weights=sparse))
    first, trained, pruned = (line["sparsity"] for line in read_metrics(tmp_path / "run"))
    assert first == zeros > 0.89
    assert trained < 0.89
    assert pruned == pytest.approx(0.95, abs=1e-4)


@pytest.mark.parametrize("name", ["notes.txt", "weights.pt"])
def test_a_file_of_another_kind_is_named_with_what_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Remember the milk.")
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / name)])
    assert result.exit_code == 2, result.output
    for part in (f"{name} is damaged or not a safetensors file", "a run folder", "model.safetensors", ".hdf5"):
        assert part in result.stderr
    assert "recipe.yaml" not in result.stderr


def test_the_command_trains_from_weights_with_masks(tmp_path: Path, sparse: Path) -> None:
    arguments = ["train", "digits/lenet300", "duration=1ep", "--weights", str(sparse), "--masks", str(sparse)]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "run"), "--device", "cpu", "--quiet"])
    assert result.exit_code == 0, result.output
    assert "90.00 %" in result.stdout
    assert checksum(tmp_path / "run", "masks.safetensors") == checksum(sparse, "masks.safetensors")
    assert read_settings(tmp_path / "run").start.weights == str(sparse)


def test_a_new_run_does_not_overwrite_masks_of_others(tmp_path: Path, sparse: Path) -> None:
    shutil.copy(sparse / "masks.safetensors", tmp_path)
    with pytest.raises(RunFolderError, match=r"holds masks\.safetensors, which a new run would overwrite"):
        run(tmp_path, stop=0)
