"""Widths, and files of shrunk networks: they load without the class pickled, and export to ONNX."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import safetensors.torch
import torch
from shrink_networks import Grouped, Plain, randomised
from torch import nn

from sparsewright.files import SaveError
from sparsewright.structured import load_shrunk, resize, save_shrunk, shrink, widths

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def smaller() -> nn.Module:
    groups = {"conv1.weight": torch.tensor([0, 5]), "grouped.weight": torch.tensor([1, 2, 6, 11])}
    return shrink(randomised(Grouped()), IMAGE, groups | {"up.weight": torch.tensor([1])}, strict=True).eval()


def test_round_trip_is_exact_and_the_bytes_are_the_same(smaller: nn.Module, tmp_path: Path) -> None:
    save_shrunk(smaller, tmp_path / "a.safetensors")
    save_shrunk(copy.deepcopy(smaller), str(tmp_path / "b.safetensors"))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    loaded = load_shrunk(Grouped, tmp_path / "a.safetensors").eval()
    assert type(loaded) is Grouped
    assert widths(loaded) == widths(smaller)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in smaller.state_dict().items())
    assert torch.equal(loaded(IMAGE), smaller(IMAGE))


def test_a_new_process_loads_it_without_torch_pruning(smaller: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    save_shrunk(smaller, file)
    script = (
        "import sys; sys.modules['torch_pruning'] = None; from shrink_networks import Grouped\n"
        "from sparsewright.structured import load_shrunk\n"
        f"print(load_shrunk(Grouped, {str(file)!r}).fc.in_features)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "4"


def test_onnx_computes_the_same(smaller: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "small.onnx"
    torch.onnx.export(smaller, (IMAGE,), file, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {session.get_inputs()[0].name: IMAGE.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), smaller(IMAGE).detach(), rtol=1e-5, atol=1e-5)


def test_tied_and_double_networks(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 2)).double()
        model[0].weight = model[2].weight
        return model

    example = torch.randn(2, 4).double()
    small = shrink(tied(), example, {"3.weight": torch.tensor([2, 4])}, strict=True)
    save_shrunk(small, tmp_path / "tied.safetensors")
    loaded = load_shrunk(tied, tmp_path / "tied.safetensors")
    assert loaded.get_parameter("0.weight") is loaded.get_parameter("2.weight")
    assert torch.equal(loaded(example), small(example))


class TwoNames(nn.Module):
    """Its first layer has two names; input (batch, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 6)
        self.alias = nn.ModuleList([self.first])
        self.last = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.alias[0](x).relu())


@pytest.mark.parametrize("name", ["first", "alias.0"])
def test_a_layer_with_two_names(name: str, tmp_path: Path) -> None:
    example = torch.randn(2, 3)
    small = shrink(TwoNames(), example, {name: torch.tensor([1, 4])}, strict=True)
    save_shrunk(small, tmp_path / "small.safetensors")
    loaded = load_shrunk(TwoNames, tmp_path / "small.safetensors")
    assert loaded.get_submodule("alias.0") is loaded.get_submodule("first")
    assert torch.equal(loaded(example), small(example))
    resized, sizes = TwoNames(), {"in_features": 3, "out_features": 4}
    with pytest.raises(ValueError, match=r"first and alias\.0 are the same module, with the widths"):
        resize(resized, {"first": sizes, "alias.0": sizes | {"out_features": 5}})
    resize(resized, {"first": sizes, "alias.0": sizes, "last": {"in_features": 4, "out_features": 2}})
    assert resized(example).shape == (2, 2)


def test_networks_with_compiled_parts(smaller: nn.Module, tmp_path: Path) -> None:
    def with_compiled_part() -> nn.Module:
        model = Grouped()
        model.conv1 = torch.compile(model.conv1, backend="eager")  # type: ignore[assignment]
        return model

    save_shrunk(smaller, tmp_path / "small.safetensors")
    assert torch.equal(load_shrunk(with_compiled_part, tmp_path / "small.safetensors").eval()(IMAGE), smaller(IMAGE))
    original = with_compiled_part()
    save_shrunk(original, tmp_path / "whole.safetensors")
    loaded = load_shrunk(Grouped, tmp_path / "whole.safetensors")
    assert torch.equal(loaded.conv1.weight, original.get_parameter("conv1._orig_mod.weight"))


def test_folders_of_runs(smaller: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is a folder without model\.safetensors"):
        load_shrunk(Grouped, tmp_path)
    save_shrunk(smaller, tmp_path / "model.safetensors")
    assert widths(load_shrunk(Grouped, tmp_path)) == widths(smaller)


def test_files_that_do_not_fit(smaller: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    save_shrunk(smaller, file)
    with pytest.raises(ValueError, match=r"small\.safetensors does not fit Plain: Plain has no module 'depthwise'"):
        load_shrunk(Plain, file)
    with pytest.raises(ValueError, match=r"conv1\.bias is .*float32 in the file and .*float64 in the network"):
        load_shrunk(lambda: Grouped().double(), file)
    with pytest.raises(TypeError, match=r"model_factory must make a torch\.nn\.Module, got dict"):
        load_shrunk(dict, file)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="model_factory must be a function"):
        load_shrunk("Grouped", file)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"a function that makes the network, got Grouped; write for instance lambda"):
        load_shrunk(Grouped(), file)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_shrunk(Grouped, tmp_path / "other.safetensors")


def test_files_that_lack_something(smaller: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    save_shrunk(smaller, file)
    with safetensors.safe_open(file, "pt") as content:
        metadata = content.metadata()
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    less = tmp_path / "less.safetensors"
    bias = tensors.pop("fc.bias")
    safetensors.torch.save_file(tensors, less, metadata)
    with pytest.raises(ValueError, match=r"less\.safetensors does not fit Grouped: it lacks fc\.bias"):
        load_shrunk(Grouped, less)
    safetensors.torch.save_file(tensors | {"fc.bias": bias, "more": bias.clone()}, less, metadata)
    with pytest.raises(ValueError, match="does not fit Grouped, which has no more"):
        load_shrunk(Grouped, less)
    safetensors.torch.save_file(tensors, less)
    with pytest.raises(ValueError, match="holds no widths of layers"):
        load_shrunk(Grouped, less)
    safetensors.torch.save_file(tensors, less, {"sparsewright": "[1, 2"})
    with pytest.raises(ValueError, match="is damaged or not a safetensors file"):
        load_shrunk(Grouped, less)


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99])
def test_cut_files(smaller: nn.Module, tmp_path: Path, part: float) -> None:
    file = tmp_path / "small.safetensors"
    save_shrunk(smaller, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=r"small\.safetensors is damaged or not a safetensors file"):
        load_shrunk(Grouped, file)


def test_saving_is_whole_or_not_at_all(smaller: nn.Module, tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    with pytest.raises(SaveError, match="cannot save"):
        save_shrunk(smaller, folder)
    with pytest.raises(SaveError, match="cannot save"):
        save_shrunk(smaller, tmp_path / "missing" / "small.safetensors")
    assert list(tmp_path.iterdir()) == [folder]


def test_resize_gives_a_network_its_widths(smaller: nn.Module) -> None:
    model = Grouped()
    untouched = model.fc.bias
    model.conv1.requires_grad_(False)
    resize(model, widths(smaller))
    assert widths(model) == widths(smaller)
    assert model.fc.bias is untouched
    assert not model.conv1.weight.requires_grad
    assert list(model.state_dict()) == list(smaller.state_dict())
    model.load_state_dict(smaller.state_dict())
    assert torch.equal(model.eval()(IMAGE), smaller(IMAGE))


def test_resize_refuses_what_does_not_fit() -> None:
    model = Plain()
    before = widths(model)
    bad = {
        "has no module 'conv3'": {"conv3": {}},
        "conv1 is a Conv2d, which has the widths in_channels, out_channels, groups; got out_channels": {
            "conv1": {"out_channels": 3}
        },
        "out_features of fc1 must be an int of at least 1, got 0": {"fc1": {"in_features": 4, "out_features": 0}},
        "the channels of conv1 must be multiples of its groups": {
            "conv1": {"in_channels": 3, "out_channels": 6, "groups": 2}
        },
        " is a Plain, which has no widths": {"": {"width": 1}},
    }
    for message, sizes in bad.items():
        with pytest.raises(ValueError, match=message):
            resize(model, {"fc1": {"in_features": 8, "out_features": 3}} | sizes)
    with pytest.raises(TypeError, match="widths must map module names"):
        resize(model, [1])  # type: ignore[arg-type]
    assert widths(model) == before
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[0].weight = tied[1].weight
    with pytest.raises(ValueError, match="0 cannot be resized: 0 and 1 share a parameter"):
        resize(tied, {"0": {"in_features": 3, "out_features": 4}})
