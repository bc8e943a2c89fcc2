"""The smaller network computes what the masked one does: networks of the papers, torchvision and timm, and toys."""

from __future__ import annotations

import copy
import warnings

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from shrink_networks import Grouped, Joined, Plain, check_equal, check_planned, parameters, random_groups, randomised
from torch import Tensor, nn

from sparsewright.groups import PrunedGroups
from sparsewright.models.lenet import LeNet5
from sparsewright.models.resnet_cifar import cifar_resnet
from sparsewright.models.vgg import CifarVGG
from sparsewright.structured import NotRemovedWarning, mask_removed, plan_removal, shrink, widths

IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TOY_IMAGE = IMAGE[:, :, :8, :8]


def test_lenet_loses_filters_and_the_inputs_behind_its_flatten() -> None:
    model = LeNet5()
    smaller = check_equal(model, torch.randn(1, 1, 28, 28), random_groups(model, lambda name: name != "fc2"))
    assert widths(smaller) == {
        "conv1": {"in_channels": 1, "out_channels": 10, "groups": 1},
        "conv2": {"in_channels": 10, "out_channels": 25, "groups": 1},
        "fc1": {"in_features": 25 * 16, "out_features": 250},
        "fc2": {"in_features": 250, "out_features": 10},
    }


def test_vgg19_by_filters() -> None:
    model = randomised(CifarVGG(19))
    smaller = check_equal(model, IMAGE[:, :, :16, :16], random_groups(model, lambda name: name != "classifier"))
    assert parameters(smaller) < 0.26 * parameters(model)


@pytest.mark.parametrize("depth", [20, 32])
def test_cifar_resnet_loses_the_first_filters_of_its_blocks(depth: int) -> None:
    model = randomised(cifar_resnet(depth, 1, 10, 3, 32))
    groups = random_groups(model, lambda name: name.endswith(".conv1"))
    smaller = check_equal(model, IMAGE[:, :, :16, :16], groups)
    assert smaller.get_submodule("stages.1.0.conv1").out_channels == 16
    assert smaller.get_submodule("stages.1.0.bn1").num_features == 16
    assert smaller.get_submodule("stages.1.0.conv2").in_channels == 16


def test_cifar_resnet_keeps_what_a_parameter_free_shortcut_couples() -> None:
    model = randomised(cifar_resnet(20, 1, 10, 3, 32))
    groups = {"stages.0.1.conv2.weight": torch.tensor([1, 5])}
    _, plan = check_planned(model, IMAGE[:, :, :16, :16], groups)
    assert plan.kept["stages.0.1.conv2.weight"].startswith("2 of 2 filters: its channels are padded")


@pytest.mark.parametrize(("name", "inner"), [("resnet18", ".conv1"), ("resnet34", ".conv1"), ("resnet50", ".conv2")])
def test_torchvision_resnet_by_filters(name: str, inner: str) -> None:
    model = randomised(torchvision.models.get_model(name, num_classes=10))
    smaller = check_equal(model, IMAGE, random_groups(model, lambda layer: layer.endswith(inner)))
    assert smaller.get_submodule(f"layer1.0{inner}").out_channels == 32


def small_resnet(blocks: int) -> nn.Module:
    """ResNet-18 with one block in each stage but the second, which has ``blocks``."""
    return torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, blocks, 1, 1], num_classes=10)


def test_torchvision_resnet_by_channels() -> None:
    model = randomised(small_resnet(1))
    groups = random_groups(model, lambda layer: layer.endswith(".conv2"), dimension=1)
    smaller = check_equal(model, IMAGE, groups, "channel")
    assert smaller.get_submodule("layer1.0.conv1").out_channels == 32


def test_residual_sum_goes_where_every_layer_asks_for_it() -> None:
    model = randomised(small_resnet(2))
    summed = ["layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2"]
    groups = {f"{name}.weight": torch.tensor([3, 7, 100]) for name in summed}
    groups["layer2.1.conv2.weight"] = torch.tensor([3, 7, 8])
    smaller, plan = check_planned(model, IMAGE, groups)
    assert [plan.removed[f"{name}.weight"].tolist() for name in summed] == [[3, 7]] * 3
    assert "layer2.1.conv2, where not the same ones are chosen" in plan.kept["layer2.0.conv2.weight"]
    assert smaller.get_submodule("layer3.0.downsample.0").in_channels == 126
    assert smaller.get_submodule("layer2.1.bn2").num_features == 126


def test_mobilenet_loses_depthwise_filters_with_the_layer_before_them() -> None:
    model = randomised(torchvision.models.mobilenet_v2(num_classes=10))
    groups = random_groups(model, lambda name: name.endswith("conv.0.0"))
    empty = {f"features.{number}.conv.1.0.weight": torch.tensor([], dtype=torch.int64) for number in range(2, 18)}
    smaller = check_equal(model, IMAGE, PrunedGroups(groups | empty, granularity="filter"))
    assert widths(smaller)["features.2.conv.1.0"] == {"in_channels": 48, "out_channels": 48, "groups": 48}


def test_mobilenet_by_channels() -> None:
    model = randomised(torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.5))
    groups = random_groups(model, lambda name: name.endswith("conv.2") and "conv.2.0" not in name, dimension=1)
    smaller = check_equal(model, IMAGE, groups, "channel")
    assert widths(smaller)["features.2.conv.0.0"]["out_channels"] == 24


def test_vision_transformer_loses_hidden_units() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10, depth=3)
    smaller = check_equal(model, IMAGE, random_groups(model, lambda name: name.endswith("fc1")))
    assert smaller.get_submodule("blocks.2.mlp.fc2").in_features == 384


def test_vision_transformer_keeps_its_attention_and_residual_stream() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=10, depth=2)
    groups = random_groups(model, lambda name: name.startswith("blocks.0"))
    _, plan = check_planned(model, IMAGE, groups)
    assert set(plan.kept) == {f"blocks.0.{name}.weight" for name in ("attn.qkv", "attn.proj", "mlp.fc2")}
    assert "channels cannot be removed exactly" in plan.kept["blocks.0.mlp.fc2.weight"]
    assert len(plan.removed["blocks.0.mlp.fc1.weight"]) == 384


def test_concatenation_behind_a_residual_sum() -> None:
    model = randomised(Joined())
    groups = {
        "stem.weight": torch.tensor([1, 2, 4]),
        "left.weight": torch.tensor([1, 2]),
        "right.weight": torch.tensor([1, 3]),
        "extra.weight": torch.tensor([0, 3]),
        "last.weight": torch.tensor([5]),
    }
    smaller, plan = check_planned(model, TOY_IMAGE, groups)
    # Channel 3 of the right branch is channel 6 of the sum, which the stem keeps.
    assert plan.removed["right.weight"].tolist() == [1]
    assert plan.removed["stem.weight"].tolist() == [1, 2, 4]
    assert smaller.get_submodule("norm").num_features == 12 - 3 - 2
    assert (~plan.layers["last"].inputs).nonzero().flatten().tolist() == [0, 3, 5, 6, 7, 9, 10]


def test_branches_of_a_dense_network() -> None:
    model = randomised(torchvision.models.DenseNet(8, (2, 2), 16, num_classes=5))
    check_equal(model, IMAGE, random_groups(model, lambda name: name != "classifier"))


@pytest.mark.parametrize("granularity", ["filter", "channel"])
def test_groups_that_stay_equal(granularity: str) -> None:
    model = randomised(Grouped())
    by_filter = {"conv1.weight": [0, 5], "grouped.weight": [1, 2, 6, 11], "up.weight": [1]}
    by_channel = {"grouped.weight": [0, 2], "up.weight": [1, 3, 7, 8], "fc.weight": [2, 4]}
    chosen = by_filter if granularity == "filter" else by_channel
    groups = {name: torch.tensor(indices) for name, indices in chosen.items()}
    smaller = check_equal(model, TOY_IMAGE, groups, granularity)
    assert widths(smaller)["depthwise"] == {"in_channels": 8, "out_channels": 8, "groups": 8}
    assert widths(smaller)["up"] == {"in_channels": 8, "out_channels": 4, "groups": 2}


def test_one_branch_with_the_input_of_the_network() -> None:
    class WithInput(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 5, 3, padding=1)
            self.conv2 = nn.Conv2d(8, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv2(torch.cat([x, F.relu(self.conv1(x))], dim=1))

    model = WithInput()
    groups = {"conv1.weight": torch.tensor([0, 3])}
    _, plan = check_planned(model, TOY_IMAGE, groups, complete=True)
    assert plan.layers["conv2"].inputs.nonzero().flatten().tolist() == [3, 6]


def test_sequences_and_volumes() -> None:
    line = nn.Sequential(nn.Conv1d(3, 6, 3), nn.InstanceNorm1d(6, affine=True), nn.PReLU(6), nn.Conv1d(6, 2, 3))
    check_equal(randomised(line), torch.randn(2, 3, 9), {"0.weight": torch.tensor([1, 4])})
    volume = nn.Sequential(nn.Conv3d(2, 6, 3), nn.BatchNorm3d(6, affine=False), nn.Tanh(), nn.Conv3d(6, 2, 1))
    check_equal(randomised(volume), torch.randn(2, 2, 4, 4, 4), {"0.weight": torch.tensor([1, 4])})


def test_model_and_random_state_stay_as_they_are() -> None:
    model = randomised(Plain()).double()
    model.conv2.requires_grad_(False)
    model.conv1.eval()
    calls: list[str] = []
    model.conv1.register_forward_hook(lambda *_: calls.append("forward"))
    before = copy.deepcopy(model.state_dict())
    identities = [id(parameter) for parameter in model.parameters()]
    state = torch.get_rng_state()
    smaller = shrink(model, TOY_IMAGE.double(), {"conv2.weight": torch.tensor([1])})
    assert calls == []
    assert torch.equal(torch.get_rng_state(), state)
    assert [id(parameter) for parameter in model.parameters()] == identities
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert smaller.get_parameter("conv2.weight").shape[0] == 7
    assert not smaller.get_parameter("conv2.weight").requires_grad
    assert smaller.get_parameter("conv1.weight").requires_grad
    assert smaller.get_parameter("fc1.weight").dtype == torch.float64
    assert [module.training for module in smaller.modules()] == [module.training for module in model.modules()]
    assert not smaller.get_submodule("conv1")._forward_hooks
    assert not {id(parameter) for parameter in smaller.parameters()} & set(identities)


def test_masked_model_has_zeros_where_the_smaller_one_has_nothing() -> None:
    model = randomised(Plain())
    mask_removed(model, TOY_IMAGE, {"conv1.weight": torch.tensor([2])})
    assert not model.conv1.weight[2].any()
    assert not model.conv1.bias[2]
    assert not model.bn1.weight[2]
    assert not model.bn1.bias[2]
    assert not model.bn1.running_mean[2]
    assert model.bn1.running_var[2] > 0
    assert not model.conv2.weight[:, 2].any()
    assert model.conv2.weight.count_nonzero() == model.conv2.weight.numel() * 5 / 6


class Wrapper(nn.Module):
    """A network inside a module of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Plain()

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


@pytest.mark.parametrize("name", ["conv1.weight", "conv1", "module.conv1.weight", "module.conv1"])
def test_a_network_inside_another_module(name: str) -> None:
    asked = torch.tensor([2])
    smaller, plan = check_planned(randomised(Wrapper()), TOY_IMAGE, {name: asked, "fc2": asked})
    assert {given: indices.tolist() for given, indices in plan.removed.items()} == {name: [2], "fc2": []}
    assert plan.kept == {"fc2": "1 of 1 filters: is an output of the network"}
    assert smaller.get_submodule("module.conv1").out_channels == 5


@pytest.mark.parametrize("name", ["conv1.weight", "conv1", "conv1._orig_mod.weight"])
def test_a_network_with_compiled_parts(name: str) -> None:
    model = randomised(Plain()).eval()
    model.conv1 = torch.compile(model.conv1, backend="eager")  # type: ignore[assignment]
    groups = {name: torch.tensor([2])}
    smaller = shrink(model, TOY_IMAGE, groups, strict=True)
    assert type(smaller.get_submodule("conv1")) is nn.Conv2d
    assert smaller.get_submodule("conv1").out_channels == 5
    mask_removed(model, TOY_IMAGE, groups)
    torch.testing.assert_close(smaller(TOY_IMAGE), model(TOY_IMAGE))
    assert not model.get_parameter("conv1._orig_mod.weight")[2].any()


def test_wrapped_and_half_precision_models() -> None:
    model = randomised(Plain()).to(torch.bfloat16)
    groups = {"conv1.weight": torch.tensor([2])}
    averaged = torch.optim.swa_utils.AveragedModel(model)
    smaller = shrink(averaged, TOY_IMAGE.bfloat16(), groups)
    assert isinstance(smaller, Plain)
    assert smaller.conv1.weight.shape[0] == 5
    assert smaller.conv1.weight.dtype == torch.bfloat16
    compiled = torch.compile(model, backend="eager")
    assert isinstance(shrink(compiled, TOY_IMAGE.bfloat16(), groups), Plain)


def test_plans_are_described_in_a_line_and_come_out_the_same_each_time() -> None:
    model = randomised(Joined())
    groups = random_groups(model, lambda name: name in ("extra", "last", "fc"))
    plan, again = plan_removal(model, TOY_IMAGE, groups), plan_removal(copy.deepcopy(model), TOY_IMAGE, groups)
    assert repr(plan) == "RemovalPlan(names=3, indices_removed=5, names_with_some_kept=1, layers=4)"
    assert plan.kept == again.kept
    assert all(torch.equal(indices, again.removed[name]) for name, indices in plan.removed.items())


def test_nothing_to_remove_gives_an_equal_copy() -> None:
    model = randomised(Plain())
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotRemovedWarning)
        smaller = shrink(model, TOY_IMAGE, PrunedGroups({"conv1.weight": torch.tensor([], dtype=torch.int64)}))
    assert smaller is not model
    assert widths(smaller) == widths(model)
    assert plan_removal(model, TOY_IMAGE, {}).layers == {}


def test_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 6)
            self.second = nn.Linear(3, 6)
            self.last = nn.Linear(6, 2)

        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            return {"out": self.last(F.relu(self.first(a) + self.second(b)))}

    model = Two()
    inputs = torch.randn(2, 4), torch.randn(2, 3)
    smaller = shrink(model, inputs, {f"{name}.weight": torch.tensor([1, 3]) for name in ("first", "second")})
    mask_removed(model, inputs, {f"{name}.weight": torch.tensor([1, 3]) for name in ("first", "second")})
    assert smaller.get_submodule("last").in_features == 4
    torch.testing.assert_close(smaller(*inputs)["out"], model(*inputs)["out"])
