"""The public contract, sentence by sentence: scope."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel
from toys import (
    OddNet,
    weights_of,
)

import sparsewright as sw


class Zoo(nn.Module):
    """One of each kind of parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1d = nn.Conv1d(2, 3, 3)
        self.conv = nn.Conv2d(3, 4, 3)
        self.up = nn.ConvTranspose2d(4, 2, 2)
        self.embed = nn.Embedding(7, 5)
        self.norm = nn.LayerNorm((4, 4))
        self.attention = nn.MultiheadAttention(4, 2)
        self.bilinear = nn.Bilinear(2, 3, 4)
        self.linear = nn.Linear(5, 6)
        self.frozen = nn.Linear(4, 4)
        self.frozen.weight.requires_grad_(False)
        self.free = nn.Parameter(torch.randn(3, 3))


def scope_of(model: nn.Module, **options: Any) -> list[str]:
    return list(sw.Static(model, SGD(model.parameters(), lr=0.1), sparsity=0.5, **options).masks)


def test_default_scope_is_every_linear_and_conv_weight() -> None:
    wanted = ["conv1d.weight", "conv.weight", "up.weight", "attention.out_proj.weight", "linear.weight"]
    assert scope_of(Zoo()) == wanted


def test_scope_report_says_what_is_left_out_and_why() -> None:
    model = Zoo()
    sparsifier = sw.Static(model, SGD(model.parameters(), lr=0.1), sparsity=0.5, exclude="up.*")
    report = sparsifier.scope_report()
    assert set(report) == {name for name, _ in model.named_parameters()} - set(sparsifier.masks)
    assert "frozen" in report["frozen.weight"]
    assert "dimension" in report["linear.bias"]
    assert "Embedding" in report["embed.weight"]
    assert "up.*" in report["up.weight"]


def test_include_and_exclude_are_glob_patterns() -> None:
    assert scope_of(Zoo(), include="conv*.weight") == ["conv1d.weight", "conv.weight"]
    assert scope_of(Zoo(), include=["embed.*", "free"]) == ["free", "embed.weight"]
    assert scope_of(Zoo(), exclude=["conv*", "attention.*"]) == ["up.weight", "linear.weight"]
    assert scope_of(Zoo(), include="*.weight", exclude="*norm*")[-1] == "frozen.weight"
    assert scope_of(Zoo(), include="frozen.weight") == ["frozen.weight"]


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_an_error(option: str) -> None:
    with pytest.raises(ValueError, match=r"linaer\.weight.*linear\.weight"):
        scope_of(Zoo(), **{option: ["conv.weight", "linaer.weight"]})


def test_an_include_pattern_that_finds_nothing_sparsifiable_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"linear\.b\*"):
        scope_of(Zoo(), include=["conv.weight", "linear.b*"])
    with pytest.raises(ValueError, match="nothing to sparsify"):
        scope_of(Zoo(), exclude="*")
    with pytest.raises(TypeError, match="include"):
        scope_of(Zoo(), include=[3])


@pytest.mark.parametrize(
    "wrap", [AveragedModel, torch.compile, nn.DataParallel], ids=["averaged", "compiled", "parallel"]
)
def test_wrapper_prefixes_are_stripped(wrap: Any) -> None:
    inner = OddNet()
    wrapped = wrap(inner)
    assert all(name.startswith(("module.", "_orig_mod.")) for name, _ in wrapped.named_parameters())
    names = [name for name, parameter in OddNet().named_parameters() if parameter.dim() > 1]
    assert scope_of(wrapped) == names
    assert scope_of(wrapped, include="conv*.weight") == ["conv1.weight", "conv2.weight"]
    twice = torch.compile(AveragedModel(OddNet()))
    assert scope_of(twice) == names
    assert list(sw.MaskSet.from_zeros(wrapped)) == names


def test_a_compiled_part_of_a_model_keeps_its_name() -> None:
    model = OddNet()
    model.conv2 = torch.compile(model.conv2, backend="eager")
    assert scope_of(model) == [name for name, parameter in OddNet().named_parameters() if parameter.dim() > 1]
    assert scope_of(model, include="conv2.weight") == ["conv2.weight"]


def test_forward_module_prefix_is_stripped() -> None:
    outer = nn.Module()
    outer.add_module("_forward_module", OddNet())
    assert scope_of(outer)[0] == "conv1.weight"


def tied() -> nn.Module:
    model = nn.Module()
    model.add_module("embed", nn.Embedding(9, 5))
    model.add_module("first", nn.Linear(5, 5))
    model.add_module("second", nn.Linear(5, 5))
    model.add_module("head", nn.Linear(5, 9))
    model.get_submodule("second").weight = model.get_submodule("first").weight
    model.get_submodule("head").weight = model.get_submodule("embed").weight
    return model


def test_a_shared_parameter_counts_once_and_only_if_all_its_uses_are_in_scope() -> None:
    assert scope_of(tied()) == ["first.weight"]
    model = tied()
    report = sw.Static(model, SGD(model.parameters(), lr=0.1), sparsity=0.5).scope_report()
    assert "Embedding" in report["embed.weight"]
    assert scope_of(tied(), include="*.weight") == ["embed.weight", "first.weight"]
    assert scope_of(tied(), include=["embed.weight", "head.weight"]) == ["embed.weight"]
    with pytest.raises(ValueError, match=r"head\.weight"):
        scope_of(tied(), include="head.weight")
    with pytest.raises(ValueError, match=r"first\.weight"):
        scope_of(tied(), exclude="second.*")


def test_a_weight_that_the_optimizer_does_not_hold_is_an_error() -> None:
    model = OddNet()
    optimizer = SGD([model.conv1.weight, model.fc.weight], lr=0.1)
    before = weights_of(model)
    with pytest.raises(ValueError, match=r"conv2\.weight"):
        sw.Static(model, optimizer, sparsity=0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    held = sw.Static(model, optimizer, sparsity=0.5, include=["conv1.*", "fc.*"])
    assert list(held.masks) == ["conv1.weight", "fc.weight"]
    with pytest.raises(ValueError, match=r"conv1\.weight"):
        sw.Static(OddNet(), SGD(OddNet().parameters(), lr=0.1), sparsity=0.5)


def test_uninitialised_parameters_are_an_error() -> None:
    model = nn.Sequential(nn.LazyLinear(4))
    with pytest.raises(ValueError, match="initialised"):
        sw.Static(model, SGD(model.parameters(), lr=0.1), sparsity=0.5)


def test_dtensor_is_refused_by_name() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        model[1].weight = nn.Parameter(distribute_tensor(model[1].weight.detach(), mesh))
        with pytest.raises(ValueError, match=r"1\.weight.*DTensor"):
            sw.Static(model, SGD(model.parameters(), lr=0.1), sparsity=0.5)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("option", ["sparsity", "distribution"])
def test_n_to_m_patterns_are_refused_by_name(option: str) -> None:
    model = OddNet()
    arguments = {"sparsity": 0.5, "total_steps": 10, "update_interval": 2, option: "2:4"}
    with pytest.raises(ValueError, match=r"2:4.*N:M"):
        sw.RigL(model, SGD(model.parameters(), lr=0.1), **arguments)
