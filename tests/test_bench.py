"""A trained run as a small file, compiled and measured: ``export``, ``eval``, ``inspect`` and ``bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

import sparsewright as sw
from sparsewright.bench import ENGINES, EngineError, bench_network
from sparsewright.cli import app
from sparsewright.training import load_recipe, load_run, train
from sparsewright.training.folder import BENCH

SPARSITY = 0.9


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "granet"
    train(
        load_recipe("digits/lenet300", ["method=granet", f"sparsity={SPARSITY}", "duration=3ep"]),
        out=folder,
        device="cpu",
    )
    return folder


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def as_json(*arguments: object) -> Any:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def assert_refused(result: Result, *parts: object) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    for part in parts:
        assert str(part) in line


def test_a_sparse_file_holds_the_run_in_a_fraction_of_the_bytes(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "small.sparse"
    shown = as_json("export", run, "--format", "sparse", "--out", file)
    assert shown["bytes"] == file.stat().st_size < 0.2 * shown["dense_bytes"]
    tensors = sw.load_sparse(file)
    expected = load_run(run).model.state_dict()
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    half = as_json("export", run, "--format", "sparse", "--values", "float16", "--out", tmp_path / "half.sparse")
    assert half["bytes"] < shown["bytes"]


def test_sparse_files_go_back_to_dense_ones(run: Path, tmp_path: Path) -> None:
    file, dense = tmp_path / "small.sparse", tmp_path / "dense.safetensors"
    as_json("export", run / "model.safetensors", "--format", "sparse", "--out", file)
    as_json("export", file, "--format", "safetensors", "--out", dense)
    assert dense.read_bytes() == (run / "model.safetensors").read_bytes()


def test_weights_of_other_programs_become_sparse_files(tmp_path: Path) -> None:
    weight = torch.randn(50, 40) * (torch.rand(50, 40) < 0.1)
    save_file({"a.weight": weight}, tmp_path / "other.safetensors")
    plain = as_json("export", tmp_path / "other.safetensors", "--format", "sparse")
    assert plain["file"] == str(tmp_path / "other.sparse")
    assert torch.equal(sw.load_sparse(tmp_path / "other.sparse")["a.weight"], weight)
    signed = as_json("export", tmp_path / "other.safetensors", "--format", "sparse", "--signed-zeros", "--force")
    assert signed["bytes"] > plain["bytes"]
    restored = sw.load_sparse(tmp_path / "other.sparse")["a.weight"]
    assert torch.equal(restored.view(torch.int32), weight.view(torch.int32))


def test_a_sparse_file_in_a_run_folder_is_evaluated_like_the_run(run: Path) -> None:
    as_json("export", run, "--format", "sparse", "--force")
    of_file, of_run = (as_json("eval", target, "--device", "cpu") for target in (run / "model.sparse", run))
    assert of_file["accuracy"] > 50
    for key in ("accuracy", "loss", "sparsity"):
        assert of_file[key] == of_run[key]
    assert as_json("inspect", run / "model.sparse")["layers"] == as_json("inspect", run)["layers"]
    renamed = (run / "model.sparse").rename(run / "renamed.safetensors")
    assert as_json("eval", renamed, "--device", "cpu")["accuracy"] == of_run["accuracy"]
    renamed.unlink()


def test_bad_exports_are_refused(run: Path, tmp_path: Path) -> None:
    assert_refused(invoke("export", run, "--format", "onnx", "--values", "float16"), "--values", "--format sparse")
    assert_refused(invoke("export", run, "--format", "safetensors"), "is what is exported", "--out")
    as_json("export", run, "--format", "sparse", "--out", tmp_path / "small.sparse")
    itself = invoke("export", tmp_path / "small.sparse", "--format", "sparse", "--force")
    assert_refused(itself, "small.sparse is what is exported")
    for command in ("eval", "inspect", "export --format sparse"):
        mistyped = invoke(*command.split(), run / "modle.safetensors")
        assert_refused(mistyped, "there is no", "modle.safetensors")
        assert "not finished" not in mistyped.stderr
    assert_refused(invoke("export", tmp_path / "none", "--format", "sparse"), "there is no", "none")
    (tmp_path / "text.txt").write_text("hello")
    assert_refused(invoke("export", tmp_path / "text.txt", "--format", "sparse"), "text.txt", ".safetensors or .sparse")
    (tmp_path / "a.sparse").write_text("hello")
    assert_refused(
        invoke("export", tmp_path / "a.sparse", "--format", "safetensors", "--out", tmp_path / "b.safetensors"),
        "a.sparse is damaged",
    )
    assert not (tmp_path / "b.safetensors").exists()
    assert_refused(invoke("export", run, "--format", "sparse", "--out", tmp_path / "x.bin"), "must end in .sparse")


def test_the_compiled_run_answers_as_the_run(run: Path) -> None:
    loaded = load_run(run)
    images = torch.randn(1, *loaded.input_shape)
    fast = sw.compile_sparse(loaded.model, images, threads=1)
    with torch.no_grad():
        for _ in range(5):
            images = torch.randn(1, *loaded.input_shape)
            assert torch.allclose(fast(images), loaded.model(images), rtol=1e-4, atol=1e-5)


def test_bench_measures_all_engines_on_the_same_weights(run: Path, tmp_path: Path) -> None:
    shown = as_json(
        "bench",
        run,
        "--batch",
        "1,3",
        "--threads",
        "1",
        "--engines",
        "eager,onnxruntime,sparsewright",
        "--seconds",
        0.1,
    )
    rows = shown["rows"]
    assert [(row["engine"], row["batch"]) for row in rows] == [
        (engine, batch) for batch in (1, 3) for engine in ("eager", "onnxruntime", "sparsewright")
    ]
    for row in rows:
        assert row["failure"] == ""
        latency = row["latency"]
        assert 0 < latency["lower_quartile_ms"] <= latency["median_ms"] <= latency["upper_quartile_ms"]
        assert row["difference"] < 1e-4
    assert all(row["speedup"] == 1.0 for row in rows if row["engine"] == "eager")
    assert shown["sizes"]["sparse_float16"] < shown["sizes"]["sparse"] < shown["sizes"]["dense"]
    assert [(made["batch"], made["threads"]) for made in shown["compilations"]] == [(1, 1), (3, 1)]


def test_bench_prints_a_table_and_the_layers_and_writes_pictures_and_the_report(run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "bench.png"
    options = ("--engines", "eager,sparsewright", "--seconds", 0.1, "--threads", 1)
    result = invoke("bench", run, *options, "--layers", "--out", picture, "--report")
    assert result.exit_code == 0, result.output
    assert "median ms" in result.stdout
    assert "sparse file, bytes" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    record = json.loads((run / BENCH).read_text())
    assert record["recipe"] == "digits/lenet300"
    page = (run / "report.html").read_text()
    assert "Time per batch" in page
    assert "Sizes of the weights as files" in page
    assert_refused(invoke("bench", run, *options, "--out", picture), "bench.png exists", "--force")
    (run / BENCH).write_text("{}")
    assert_refused(invoke("report", run, "--out", tmp_path / "page.html"), "bench.json is damaged")
    (run / BENCH).unlink()


def test_bad_options_of_bench_are_named(run: Path, tmp_path: Path) -> None:
    assert_refused(invoke("bench", run, "--engines", "magic"), "there is no engine 'magic'", "onnxruntime")
    assert_refused(invoke("bench", run, "--batch", "1,x"), "--batch is a list of whole numbers")
    assert_refused(invoke("bench", run, "--threads", "0"), "--threads is a list of whole numbers from 1 on")
    assert_refused(invoke("bench", run, "--out", tmp_path / "x.gif"), "must end in .png or .json")
    assert_refused(invoke("bench", run / "model.safetensors", "--report"), "--report is for a run folder")
    assert_refused(invoke("bench", tmp_path), "there is no")


class Failing(torch.nn.Module):
    def forward(self, value: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("this network does not work")


def test_an_engine_that_fails_is_named_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3)).eval()
    broken = {**ENGINES, "onnxruntime": type(ENGINES["eager"])("Broken", None, lambda subject: Failing())}
    monkeypatch.setattr("sparsewright.bench.measuring.ENGINES", broken)
    result = bench_network(model, torch.randn(4), engines=["eager", "onnxruntime"], seconds=0.05)
    good, bad = result.rows
    assert good.latency is not None
    assert bad.latency is None
    assert bad.failure == "RuntimeError: this network does not work"
    with pytest.raises(EngineError, match="this network does not work"):
        bench_network(Failing().eval(), torch.randn(4), engines=["eager"], seconds=0.05)
    with pytest.raises(ValueError, match="there is no engine 'x'"):
        bench_network(model, torch.randn(4), engines=["x"])


def test_safetensors_of_a_run_have_the_names_of_its_file(run: Path, tmp_path: Path) -> None:
    as_json("export", run, "--format", "safetensors", "--out", tmp_path / "copy.safetensors")
    assert list(load_file(tmp_path / "copy.safetensors")) == list(load_file(run / "model.safetensors"))
