"""HDF5 files: exact round trips, the layout of GSM's original code, damage, and the two commands on a real run."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from sparsewright.cli import app
from sparsewright.export import HDF5Error, load_hdf5, read_hdf5_metadata, save_hdf5
from sparsewright.training import SaveError

ROOT = Path(__file__).resolve().parents[1]
IN_NUMPY = [
    torch.float16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint16,
    torch.uint32,
    torch.uint64,
]
WIDENED = [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_one_sentence(result: Result, code: int, *parts: object) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert str(part) in lines[0]


def sparse(*shape: int, sparsity: float) -> Tensor:
    return torch.randn(shape).masked_fill(torch.rand(shape) < sparsity, 0)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 40, 3), nn.BatchNorm2d(40), nn.ReLU(), nn.Flatten(), nn.Linear(40 * 36, 10))


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


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(IN_NUMPY + WIDENED),
    shape=st.lists(st.integers(0, 40), max_size=4),
    transposed=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_tensor_comes_back_exactly(dtype: torch.dtype, shape: list[int], transposed: bool, seed: int) -> None:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).mul(50)
    values = (values if dtype.is_signed else values.abs()).to(dtype)
    tensor = values.mT if transposed and values.ndim >= 2 else values
    with TemporaryDirectory() as folder:
        save_hdf5(Path(folder) / "w.hdf5", {"layer.weight": tensor})
        loaded = load_hdf5(Path(folder) / "w.hdf5")
    assert list(loaded) == ["layer.weight"]
    result = loaded["layer.weight"]
    expected = tensor.float() if dtype in WIDENED else tensor
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    assert result.numpy().tobytes() == expected.numpy().tobytes()


@pytest.mark.parametrize("shape", [(3, 300_000), (700, 700), (2, 3, 500, 200)])
def test_tensors_of_several_chunks_come_back_exactly(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tensor = sparse(*shape, sparsity=0.9)
    save_hdf5(tmp_path / "w.hdf5", {"weight": tensor})
    with h5py.File(tmp_path / "w.hdf5") as file:
        dataset = file["weight"]
        assert 1 < dataset.id.get_num_chunks() < 10
        assert np.array_equal(dataset[()], tensor.numpy())
    assert torch.equal(load_hdf5(tmp_path / "w.hdf5")["weight"], tensor)


def test_a_model_with_buffers_comes_back_in_its_order(tmp_path: Path) -> None:
    model, other = network(), network()
    model(torch.randn(4, 1, 8, 8))
    save_hdf5(tmp_path / "model.hdf5", model.state_dict())
    loaded = load_hdf5(str(tmp_path / "model.hdf5"))
    assert list(loaded) == list(model.state_dict())
    assert loaded["1.num_batches_tracked"].shape == ()
    assert loaded["1.num_batches_tracked"].dtype == torch.int64
    other.load_state_dict(loaded)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(model.eval()(images), other.eval()(images))


def test_bfloat16_weights_load_into_their_model_without_loss(tmp_path: Path) -> None:
    model, other = nn.Linear(60, 50).bfloat16(), nn.Linear(60, 50).bfloat16()
    save_hdf5(tmp_path / "model.hdf5", model.state_dict())
    with h5py.File(tmp_path / "model.hdf5") as file:
        assert file["weight"].dtype == np.float32
    other.load_state_dict(load_hdf5(tmp_path / "model.hdf5"))
    assert torch.equal(model.weight, other.weight)


def test_readers_of_the_original_layout_take_our_files(tmp_path: Path) -> None:
    tensors = {"module.stage1/conv.weight": sparse(30, 20, 3, 3, sparsity=0.9), "module.fc.bias": torch.randn(10)}
    save_hdf5(tmp_path / "w.hdf5", tensors, {"recipe": "own"})
    with h5py.File(tmp_path / "w.hdf5", "r") as file:
        assert all(isinstance(file[key], h5py.Dataset) for key in file)
        assert "stage1+conv.weight" in file
        read = {key.replace("+", "/"): file[key][()] for key in file}
    assert read.keys() == {"stage1/conv.weight", "fc.bias"}
    for name, array in read.items():
        assert array.dtype == np.float32
        assert np.array_equal(array, tensors[f"module.{name}"].numpy())


def test_files_of_the_original_layout_are_read(tmp_path: Path) -> None:
    arrays = {name: np.random.default_rng(0).normal(size=(6, 5)).astype("f4") for name in ("a+b", "module.c.w", "d")}
    with h5py.File(tmp_path / "w.hdf5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
        file.create_dataset("step", data=7)
        file.create_dataset("big_endian", data=arrays["d"].astype(">f4"))
    loaded = load_hdf5(tmp_path / "w.hdf5")
    assert loaded.keys() == {"a/b", "c.w", "d", "step", "big_endian"}
    assert loaded["step"] == 7
    for name, stored in (("a/b", "a+b"), ("c.w", "module.c.w"), ("d", "d"), ("big_endian", "d")):
        assert np.array_equal(loaded[name].numpy(), arrays[stored])
    assert read_hdf5_metadata(tmp_path / "w.hdf5") is None


def test_names_that_would_become_equal_keep_their_prefix(tmp_path: Path) -> None:
    tensors = {"module.a": torch.zeros(2), "a": torch.ones(2)}
    save_hdf5(tmp_path / "w.hdf5", tensors)
    loaded = load_hdf5(tmp_path / "w.hdf5")
    assert loaded.keys() == tensors.keys()
    assert torch.equal(loaded["a"], tensors["a"])


def test_zeros_cost_next_to_nothing(tmp_path: Path) -> None:
    dense = 300 * 784 * 4
    sizes = []
    for sparsity in (0, 0.9, 0.99, 1):
        path = tmp_path / f"{sparsity}.hdf5"
        save_hdf5(path, {"weight": sparse(300, 784, sparsity=sparsity)})
        sizes.append(path.stat().st_size / dense)
    assert sizes == sorted(sizes, reverse=True)
    # Values of the dense weights alone would be 1, 0.1, 0.01 and 0 of the bytes.
    assert all(size < limit for size, limit in zip(sizes, (0.9, 0.15, 0.03, 0.005), strict=True))


def test_small_networks_do_not_grow(tmp_path: Path) -> None:
    tensors = {f"{layer}.weight": torch.randn(16, 16, 3, 3) for layer in range(50)}
    save_hdf5(tmp_path / "w.hdf5", tensors)
    assert (tmp_path / "w.hdf5").stat().st_size < sum(tensor.nbytes for tensor in tensors.values())


def test_the_same_weights_give_the_same_bytes(tmp_path: Path) -> None:
    tensors = {"weight": sparse(300, 100, sparsity=0.9), "bias": torch.randn(300)}
    save_hdf5(tmp_path / "first.hdf5", tensors, {"b": 1, "a": [2, "ä"]})
    # HDF5 has time stamps in whole seconds.
    time.sleep(1.1)
    save_hdf5(tmp_path / "second.hdf5", tensors, {"a": [2, "ä"], "b": 1})
    assert (tmp_path / "first.hdf5").read_bytes() == (tmp_path / "second.hdf5").read_bytes()


@pytest.mark.parametrize(
    "metadata", [{}, {"recipe": "ä/b", "sparsity": 0.9, "layers": [1, None]}, {"text": "x" * 10**5}]
)
def test_metadata_comes_back(tmp_path: Path, metadata: dict[str, Any]) -> None:
    save_hdf5(tmp_path / "w.hdf5", {"weight": torch.zeros(3)}, metadata)
    assert read_hdf5_metadata(tmp_path / "w.hdf5") == metadata
    save_hdf5(tmp_path / "w.hdf5", {"weight": torch.zeros(3)})
    assert read_hdf5_metadata(tmp_path / "w.hdf5") is None


def test_a_full_disk_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "w.hdf5"
    save_hdf5(path, {"weight": torch.zeros(10)})
    before = path.read_bytes()
    with largest_file(10_000), pytest.raises(SaveError, match=r"cannot save .*w\.hdf5: .*unchanged"):
        save_hdf5(path, {"weight": torch.randn(100, 100)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("tensors", "error", "match"),
    [
        ({}, ValueError, "no tensors"),
        ({"a+b": torch.zeros(1)}, ValueError, r"'a\+b'"),
        ({"": torch.zeros(1)}, ValueError, "''"),
        ({"fc.weight": torch.eye(3).to_sparse()}, TypeError, r"fc\.weight.*sparse_coo"),
        ({"fc.weight": torch.zeros(3, device="meta")}, TypeError, r"fc\.weight"),
        ({"fc.weight": [1.0]}, TypeError, r"fc\.weight must be a tensor, got list"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(
    tmp_path: Path, tensors: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        save_hdf5(tmp_path / "w.hdf5", tensors)
    assert list(tmp_path.iterdir()) == []


def test_metadata_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="JSON"):
        save_hdf5(tmp_path / "w.hdf5", {"weight": torch.zeros(1)}, {"weight": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == []


def text_file(path: Path) -> None:
    path.write_text("no HDF5")


def truncated(path: Path) -> None:
    save_hdf5(path, {"weight": torch.randn(50, 50)})
    path.write_bytes(path.read_bytes()[:-100])


def without_datasets(path: Path) -> None:
    h5py.File(path, "w").close()


def with_text(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["layer_names"] = "conv1"


def with_records(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["table"] = np.zeros(3, [("epoch", "i4"), ("loss", "f4")])


def with_group(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["model_weights/conv1/kernel"] = np.zeros(3)


def with_type(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["single"] = np.dtype("f4")


def with_link(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["weight"] = h5py.ExternalLink("/etc/other.hdf5", "weight")


def with_values_elsewhere(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("weight", shape=4, dtype="u1", external=[(__file__, 0, 4)])


def with_anothers_attribute(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["weight"] = np.zeros(3)
        file.attrs["sparsewright"] = "mine"


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (text_file, "damaged or not an HDF5 file"),
        (truncated, "damaged or not an HDF5 file"),
        (without_datasets, "holds no datasets"),
        (with_text, "dataset layer_names does not hold numbers"),
        (with_records, "dataset table does not hold numbers"),
        (with_group, "model_weights is a group"),
        (with_type, "single is not a dataset"),
        (with_link, "weight is a link"),
        (with_values_elsewhere, "weight has its values in another file"),
        (with_anothers_attribute, "attribute sparsewright"),
    ],
)
def test_inspect_says_what_is_wrong_with_a_file(tmp_path: Path, make: Callable[[Path], None], part: str) -> None:
    path = tmp_path / "w.hdf5"
    make(path)
    assert_one_sentence(invoke("inspect", path), 2, path, part)


def test_inspect_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    for name in ("none.hdf5", "none.h5", "none.HDF5"):
        assert_one_sentence(invoke("inspect", tmp_path / name), 2, f"there is no file {tmp_path / name}")


def test_damage_anywhere_is_found_or_leaves_the_compressed_weights(tmp_path: Path) -> None:
    path, weight = tmp_path / "w.hdf5", sparse(60, 50, sparsity=0.9)
    save_hdf5(path, {"weight": weight, "bias": torch.randn(4)}, {"recipe": "own"})
    content = path.read_bytes()
    found = 0
    places = range(0, len(content), 11)
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            assert torch.equal(load_hdf5(path)["weight"], weight)
            read_hdf5_metadata(path)
        except HDF5Error:
            found += 1
    assert found > 0.9 * len(places)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    settings = ["method=granet", "sparsity=0.95", "duration=1ep", "method.update_interval=5"]
    result = invoke("train", "digits/lenet300", *settings, "--out", out, "--device", "cpu", "--quiet")
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def exported(tiny_run: Path) -> Path:
    """The run's HDF5 file where the command puts it by default."""
    result = invoke("export", tiny_run, "--format", "hdf5")
    assert result.exit_code == 0, result.output
    path = tiny_run / "model.hdf5"
    written, dense = path.stat().st_size, 4 * 50_610
    assert re.search(rf"bytes +{written:,} of {dense:,} dense \({100 * written / dense:.2f} %\)", result.stdout)
    assert str(path) in result.stdout
    assert written < 0.25 * dense
    return path


def test_the_exported_file_holds_the_runs_weights(tiny_run: Path, exported: Path) -> None:
    expected = load_file(tiny_run / "model.safetensors")
    loaded = load_hdf5(exported)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    assert read_hdf5_metadata(exported) == {
        "recipe": "digits/lenet300",
        "method": "granet",
        "sparsity": json.loads((tiny_run / "summary.json").read_text())["sparsity"],
        "num_classes": 10,
        "in_channels": 1,
        "image_size": 8,
    }


def test_export_of_a_weights_file_as_json(tiny_run: Path, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.h5"
    arguments = ("--format", "hdf5", "--out", out, "--json")
    result = invoke("export", tiny_run / "model.safetensors", *arguments)
    assert json.loads(result.stdout) == {
        "target": str(tiny_run / "model.safetensors"),
        "file": str(out),
        "format": "hdf5",
        "bytes": out.stat().st_size,
        "dense_bytes": 4 * 50_610,
    }
    assert out.read_bytes() == exported.read_bytes()


def test_an_existing_file_is_replaced_only_with_force(tiny_run: Path, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.hdf5"
    out.write_text("mine")
    assert_one_sentence(invoke("export", tiny_run, "--format", "hdf5", "--out", out), 2, out, "--force")
    assert out.read_text() == "mine"
    assert invoke("export", tiny_run, "--format", "hdf5", "--out", out, "--force").exit_code == 0
    assert out.read_bytes() == exported.read_bytes()
    assert_one_sentence(invoke("export", tiny_run, "--format", "hdf5"), 2, exported, "--force")


@pytest.mark.parametrize(
    ("out", "parts"),
    [
        ("none/model.hdf5", ["there is no folder", "none"]),
        ("model.safetensors", ["model.safetensors", ".hdf5 or .h5"]),
        (".", ["is a folder"]),
    ],
)
def test_a_file_that_cannot_be_written_to_is_bad_input(
    tiny_run: Path, tmp_path: Path, out: str, parts: list[str]
) -> None:
    result = invoke("export", tiny_run, "--format", "hdf5", "--out", tmp_path / out, "--force")
    assert_one_sentence(result, 2, *parts)
    assert list(tmp_path.iterdir()) == []


def test_export_on_a_full_disk_fails_and_leaves_nothing(tiny_run: Path, tmp_path: Path) -> None:
    with largest_file(10_000):
        result = invoke("export", tiny_run, "--format", "hdf5", "--out", tmp_path / "w.hdf5")
    assert_one_sentence(result, 1, "cannot save", tmp_path / "w.hdf5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["no/such/run", "--format", "hdf5"], ["no/such/run"]),
        (["no/such/run"], ["--format", "hdf5"]),
        (["no/such/run", "--format", "onnx"], ["no/such/run"]),
        (["no/such/run", "--format", "keras"], ["keras", "hdf5", "onnx"]),
    ],
)
def test_bad_arguments_of_export(arguments: list[str], parts: list[str]) -> None:
    assert_one_sentence(invoke("export", *arguments), 2, *parts)


def test_help_of_export_has_examples() -> None:
    _, _, examples = invoke("export", "--help").stdout.partition("Examples:")
    assert examples.count("\n    sparsewright export") >= 2


def test_inspect_counts_every_dataset(exported: Path) -> None:
    weights = {name: tensor for name, tensor in load_hdf5(exported).items() if tensor.ndim >= 2}
    content = json.loads(invoke("inspect", exported, "--json").stdout)
    assert [row["name"] for row in content["datasets"]][:2] == ["fc1.weight", "fc1.bias"]
    assert content["datasets"][0] == {
        "name": "fc1.weight",
        "shape": [300, 64],
        "weights": 300 * 64,
        "nonzero": int(weights["fc1.weight"].count_nonzero()),
        "sparsity": pytest.approx((weights["fc1.weight"] == 0).double().mean().item()),
    }
    totals = content["totals"]
    assert totals["layers"]["weights"] == 50_200
    assert totals["layers"]["nonzero"] == sum(int(tensor.count_nonzero()) for tensor in weights.values())
    assert totals["all"]["weights"] == 50_610
    assert content["metadata"]["method"] == "granet"


def test_inspect_shows_a_table_without_flops(exported: Path) -> None:
    lines = invoke("inspect", exported).stdout.splitlines()
    assert [line.split() for line in lines[:2]] == [["recipe", "digits/lenet300"], ["method", "granet"]]
    assert lines[3].split() == ["dataset", "shape", "weights", "non-zero", "sparsity"]
    assert lines[-2].split()[:5] == ["2", "or", "more", "dimensions", "50,200"]
    assert lines[-1].split()[:2] == ["all", "50,610"]


def test_inspect_of_anothers_file_with_buffers_of_every_type(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        for dtype in ("f4", "f2", "f8", "i8", "u1", "u2", "u4", "u8", "?", "c8"):
            file[f"of_{np.dtype(dtype).name}"] = np.array([0, 1, 1], dtype)
        file["empty"] = np.zeros((0, 3))
    result = invoke("inspect", path)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("dataset")
    assert lines[-1].split() == ["all", "30", "20", "33.33", "%"]
    assert "2 or more dimensions" not in result.stdout


def test_without_h5py_the_extra_is_named(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    sentence = 'this needs h5py, which is not installed; install it with: pip install "sparsewright[hdf5]"'
    assert_one_sentence(invoke("export", tiny_run, "--format", "hdf5", "--out", tmp_path / "w.hdf5"), 2, sentence)
    assert_one_sentence(invoke("inspect", tmp_path / "w.hdf5"), 2, sentence)
    with pytest.raises(ModuleNotFoundError, match=re.escape(sentence)):
        load_hdf5(tmp_path / "w.hdf5")


def test_loading_needs_no_trainer(exported: Path) -> None:
    code = (
        "import sys, sparsewright.export as export\n"
        "assert 'h5py' not in sys.modules\n"
        f"assert len(export.load_hdf5({str(exported)!r})) == 6\n"
        "assert not {'sparsewright.training', 'lightning_fabric'} & sys.modules.keys()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_code_in_the_docs_reads_the_exported_file(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exported.parent)
    names: dict[str, Any] = {}
    text, _, _ = (ROOT / "docs" / "export.md").read_text(encoding="utf-8").partition("## ONNX")
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(block, names)
    state = names["model"].state_dict()
    assert state.keys() == names["weights"].keys()
    assert all(np.array_equal(tensor.numpy(), names["weights"][name]) for name, tensor in state.items())
