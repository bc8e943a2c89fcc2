"""Promise 6: every number that a run prints is the last epoch's, at the sparsity that its saved weights have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sparsewright.training import evaluate, load_recipe, load_run, read_metrics, stages, train
from sparsewright.training.loop import Result

OVERRIDES = ["duration=4ep", "method=granet", "method.update_interval=10", "sparsity=0.95"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("honest") / "run"
    train(load_recipe("digits/lenet300", OVERRIDES), out=folder, device="cpu", quiet=True)
    return folder


@pytest.fixture(scope="module")
def summary(run: Path) -> dict[str, Any]:
    return json.loads((run / "summary.json").read_text())


def test_promise_6_the_accuracy_is_the_last_epochs_and_the_saved_weights_have_it(
    run: Path, summary: dict[str, Any]
) -> None:
    assert summary["test_accuracy"] == read_metrics(run)[-1]["test_accuracy"]
    again = evaluate(run, device="cpu")
    assert again["accuracy"] == summary["test_accuracy"]
    assert again["loss"] == pytest.approx(summary["test_loss"], rel=1e-6)


def test_promise_6_the_sparsity_is_counted_on_the_saved_weights(run: Path, summary: dict[str, Any]) -> None:
    saved = load_file(run / "model.safetensors")
    matrices = [weight for weight in saved.values() if weight.dim() >= 2]
    total = sum(weight.numel() for weight in matrices)
    zeros = sum(int((weight == 0).sum()) for weight in matrices)
    budget = round((1 - 0.95) * total)
    assert summary["sparsity"] == (total - budget) / total
    assert zeros >= total - budget


def test_promise_6_kept_and_nonzero_counts_are_given_separately(summary: dict[str, Any]) -> None:
    assert summary["nonzero_parameters"] <= summary["kept_parameters"] < summary["parameters"]


# Four epochs of 23 steps, ending at steps 23, 46, 69 and 92, with updates at every tenth step.
@pytest.mark.parametrize(
    ("method", "last_update"),
    [
        (["method=rigl", "method.update_end=40"], 40),
        (["method=rigl", "method.update_end=0.75"], 60),
        (["method=rigl-itop"], 90),
        (["method=set", "method.update_end=20"], 20),
        (["method=snfs", "method.update_end=50"], 50),
        (["method=granet", "method.prune_end=20", "method.update_end=60"], 60),
        (["method=granet", "method.prune_end=20"], 90),
        (["method=granet-uniform", "method.prune_end=20", "method.update_end=40"], 40),
        (["method=gmp", "method.prune_end=40"], 40),
        (["method=gmp-uniform", "method.prune_end=20"], 20),
        (["method=static"], 0),
        (["stages=[{duration: 2ep}, {kind: prune}, {duration: 2ep}]"], 46),
    ],
)
def test_promise_6_a_best_is_only_of_epochs_after_the_last_change_of_the_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: list[str], last_update: int
) -> None:
    falling = iter(range(90, 0, -10))
    monkeypatch.setattr(stages, "evaluate_model", lambda *_: Result(1.0, float(next(falling)), 360))
    overrides = ["duration=4ep", "method_defaults.update_interval=10", "sparsity=0.9", *method]
    recipe = load_recipe("digits/lenet300", overrides)
    summary = train(recipe, out=tmp_path / "run", device="cpu", quiet=True)
    trained = [line for line in read_metrics(tmp_path / "run") if line["kind"] == "train"]
    # Accuracy is measured at the end of an epoch, so an epoch counts if the last change of the masks lies before that.
    first = next(line for line in trained if line["step"] >= last_update and line["sparsity"] > 0)
    assert summary["best_accuracy_after_schedule"] == first["test_accuracy"]


def test_promise_6_flops_of_training_and_inference_stand_beside(run: Path, summary: dict[str, Any]) -> None:
    layers = {name: entry["sparsity"] for name, entry in summary["layers"].items()}
    weights = {name: parameter.numel() for name, parameter in load_run(run).model.named_parameters()}
    dense = sum(2 * weights[name] for name in layers)
    sparse = sum(2 * weights[name] * (1 - sparsity) for name, sparsity in layers.items())
    assert summary["inference_flops_dense"] == dense
    assert summary["inference_flops_sparse"] == pytest.approx(sparse)
    assert sparse < summary["training_flops_sparse"] < summary["training_flops_dense"] == 3 * dense * 1437 * 4
