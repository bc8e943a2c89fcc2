"""ONNX files: what they compute, what they hold, and that they are written whole or not at all."""

from __future__ import annotations

import copy
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from sparsewright.cli import app
from sparsewright.export.onnx import INPUT_NAME, OUTPUT_NAME, ONNXError, save_onnx
from sparsewright.files import SaveError
from sparsewright.training import load_recipe, load_run, train

STRUCTURED = ["stages=[{kind: prune}, {kind: shrink}]", "sparsity=0.5"]


def outputs(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(np.asarray(session.run([OUTPUT_NAME], {INPUT_NAME: images.numpy()})[0]))


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def shrunk_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shrunk") / "run"
    recipe = load_recipe("digits/lenet300/l1-2.85x", STRUCTURED)
    train(recipe, out=folder, device="cpu", quiet=True)
    return folder


def test_a_file_computes_what_the_network_does_for_any_number_of_images(tmp_path: Path) -> None:
    convolution = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
    model = nn.Sequential(convolution, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 10))
    images = torch.randn(64, 1, 8, 8)
    # Statistics of the batch norm that are not those of a fresh network, and a module that stays in evaluation mode.
    model(images * 3 + 1)
    convolution.eval()
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    save_onnx(tmp_path / "model.onnx", model, torch.zeros(1, 1, 8, 8))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    model.eval()
    for batch in (1, 5, 64):
        with torch.no_grad():
            expected = model(images[:batch])
        torch.testing.assert_close(outputs(tmp_path / "model.onnx", images[:batch]), expected, atol=1e-5, rtol=1e-5)


def test_a_path_may_be_text(tmp_path: Path) -> None:
    save_onnx(str(tmp_path / "model.onnx"), nn.Linear(3, 2), torch.zeros(1, 3))
    assert outputs(tmp_path / "model.onnx", torch.zeros(4, 3)).shape == (4, 2)


def test_a_shrunk_network_is_written_with_its_smaller_layers(tmp_path: Path, shrunk_run: Path) -> None:
    run = load_run(shrunk_run)
    save_onnx(tmp_path / "model.onnx", run.model, torch.zeros(1, *run.input_shape))
    sizes = sorted(int(np.prod(tensor.dims)) for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer)
    assert {150 * 64, 50 * 150, 10 * 50} <= set(sizes)
    assert max(sizes) == 150 * 64
    images = torch.rand(3, *run.input_shape)
    with torch.no_grad():
        torch.testing.assert_close(outputs(tmp_path / "model.onnx", images), run.model(images), atol=1e-5, rtol=1e-5)


class Undecided(nn.Module):
    """Its path depends on the values, which no graph can hold."""

    def forward(self, x: Tensor) -> Tensor:
        return x if bool((x > 0).all()) else -x


def test_a_network_that_cannot_be_traced_is_named_and_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"former")
    with pytest.raises(ONNXError, match="Undecided cannot be written as ONNX"):
        save_onnx(path, Undecided(), torch.randn(2, 3))
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"former")

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SaveError, match="No space left"):
        save_onnx(path, nn.Linear(3, 2), torch.randn(2, 3))
    assert path.read_bytes() == b"former"
    assert list(tmp_path.iterdir()) == [path]


def test_the_export_command(tmp_path: Path, shrunk_run: Path) -> None:
    path = tmp_path / "small.onnx"
    done = invoke("export", shrunk_run, "--format", "onnx", "--out", path, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    shown = json.loads(done.stdout)
    assert (shown["format"], shown["bytes"]) == ("onnx", path.stat().st_size)
    images = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(outputs(path, images), load_run(shrunk_run).model(images), atol=1e-5, rtol=1e-5)

    for out, words in ((path, "--force"), (tmp_path / "small.bin", "must end in .onnx"), (tmp_path, "is a folder")):
        refused = invoke("export", shrunk_run, "--format", "onnx", "--out", out)
        assert (refused.exit_code, refused.stdout) == (2, "")
        assert words in refused.stderr
    replaced = invoke("export", shrunk_run, "--format", "onnx", "--out", path, "--force")
    assert replaced.exit_code == 0
    assert "images: float32, samples x 1 x 8 x 8" in replaced.stdout


def test_inspect_shows_what_was_taken_out(shrunk_run: Path) -> None:
    content = json.loads(invoke("inspect", shrunk_run, "--latency", "--batch", 2, "--json").stdout)
    assert [layer["shape"] for layer in content["layers"]] == [[150, 64], [50, 150], [10, 50]]
    assert (content["size"]["parameters"], content["size"]["parameters_dense"]) == (17_810, 50_610)
    assert content["size"]["theoretical_speedup"] == pytest.approx(100_400 / 35_200)
    times = content["latency"]
    assert (times["device"], times["threads"], times["same_sizes"]) == ("cpu", torch.get_num_threads(), False)
    (row,) = times["batches"]
    assert row["batch"] == 2
    assert row["original"].keys() == {"median_ms", "lower_quartile_ms", "upper_quartile_ms", "rounds"}
    assert row["ratio"] == pytest.approx(row["original"]["median_ms"] / row["saved"]["median_ms"])
    printed = invoke("inspect", shrunk_run).stdout
    assert "17,810 of 50,610 (35.19 %)" in printed
    assert "2.85x" in printed
    assert "batch" not in printed


def test_latency_of_a_run_that_was_not_shrunk(tmp_path: Path) -> None:
    recipe = load_recipe("digits/lenet300", ["method=magnitude", "sparsity=0.9", "stages=[{kind: prune}]"])
    train(recipe, out=tmp_path / "run", device="cpu", quiet=True)
    printed = invoke("inspect", tmp_path / "run", "--latency", "--batch", 1, "--batch", 3).stdout
    assert "speed-up in theory" not in printed
    rows = [line.split() for line in printed.partition("time per batch on cpu")[2].splitlines()]
    assert [row[0] for row in rows if row and row[0].isdigit()] == ["1", "3"]
    assert "both networks have the same layer sizes" in printed
    assert "ratio" not in printed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--batch", 2], "--batch and --device have no effect"),
        (["--device", "cpu"], "--batch and --device have no effect"),
        (["--rank", "--latency"], "--rank"),
    ],
)
def test_options_without_effect_are_refused(shrunk_run: Path, options: list[object], words: str) -> None:
    refused = invoke("inspect", shrunk_run, *options)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert words in refused.stderr


def test_without_onnx_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shrunk_run: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    refused = invoke("export", shrunk_run, "--format", "onnx", "--out", tmp_path / "small.onnx")
    assert (refused.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert 'pip install "sparsewright[onnx]"' in refused.stderr


def test_the_code_in_the_docs_reads_the_exported_file(
    tmp_path: Path, shrunk_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke("export", shrunk_run, "--format", "onnx", "--out", tmp_path / "small.onnx").exit_code == 0
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).resolve().parent.parent / "docs" / "export.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text.partition("## ONNX")[2], flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(block, names)
    with torch.no_grad():
        expected = load_run(shrunk_run).model(torch.zeros(4, 1, 8, 8))
    torch.testing.assert_close(torch.from_numpy(names["logits"]), expected, atol=1e-5, rtol=1e-5)
