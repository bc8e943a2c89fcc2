"""The papers' networks: sizes, shapes, seeds, and the doors to torchvision and timm."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

from sparsewright.models import ModelInfo, create_model, list_models

FIXED = [info for info in list_models() if info.input_shape is not None]

# In millions, as the papers (or, for VGG, the CIFAR literature) print them.
PUBLISHED = {
    "resnet20": "0.27",
    "resnet32": "0.46",
    "resnet44": "0.66",
    "resnet56": "0.85",
    "resnet110": "1.7",
    "resnet50-cifar": "23.5",
    "vgg19": "20.04",
    "wrn-28-10": "36.5",
}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def weights(model: nn.Module) -> list[torch.Tensor]:
    return list(model.state_dict().values())


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def small(name: str, **changes: Any) -> nn.Module:
    return create_model(name, **{"num_classes": 10, "seed": 0, **changes})


@pytest.mark.parametrize("info", FIXED, ids=lambda info: info.name)
def test_listed_parameter_counts_are_exact(info: ModelInfo) -> None:
    assert info.input_shape is not None
    channels, size, _ = info.input_shape
    with torch.device("meta"):
        model = create_model(info.name, num_classes=info.num_classes, in_channels=channels, image_size=size)
    assert count(model) == info.parameters


@pytest.mark.parametrize(("name", "millions"), PUBLISHED.items())
def test_parameter_counts_match_the_papers(name: str, millions: str) -> None:
    parameters = next(info.parameters for info in FIXED if info.name == name)
    assert parameters is not None
    decimals = len(millions.partition(".")[2])
    assert f"{parameters / 1e6:.{decimals}f}" == millions


def test_lenet_counts() -> None:
    assert count(small("lenet300", in_channels=1, image_size=28)) == 266_610
    assert count(small("lenet5", in_channels=1, image_size=28)) == 431_080


@pytest.mark.parametrize("name", [info.name for info in FIXED if info.name not in ("resnet110", "wrn-28-10")])
def test_forward_and_backward_reach_every_parameter(name: str) -> None:
    model = small(name, num_classes=7, in_channels=2, image_size=32)
    model(torch.randn(2, 2, 32, 32)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model(torch.randn(3, 2, 32, 32)).shape == (3, 7)


@pytest.mark.parametrize("name", ["lenet300", "mlp:32x2", "resnet20", "wrn-22-2"])
def test_small_images_are_taken(name: str) -> None:
    assert small(name, in_channels=1, image_size=8)(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_option_a_shortcut_keeps_the_signal_and_has_no_parameters() -> None:
    model = small("resnet20")
    block = model.get_submodule("stages.1.0")
    for name in ("bn1", "bn2"):
        nn.init.zeros_(block.get_submodule(name).weight)
    x = torch.rand(1, 16, 8, 8)
    out = block.eval()(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()
    assert not list(block.get_submodule("shortcut").parameters())


def test_resnet50_keeps_the_resolution_in_its_stem() -> None:
    model = small("resnet50-cifar").eval()
    shapes: list[torch.Size] = []
    model.get_submodule("stages.0").register_forward_hook(lambda _, inputs, output: shapes.append(inputs[0].shape))
    model.get_submodule("stages").register_forward_hook(lambda _, inputs, output: shapes.append(output.shape))
    model(torch.randn(1, 3, 32, 32))
    assert shapes == [(1, 64, 32, 32), (1, 2048, 4, 4)]


def test_width_of_resnet32x2_is_doubled() -> None:
    single, double = small("resnet32"), small("resnet32x2")
    for (name, narrow), wide in zip(single.named_parameters(), double.parameters(), strict=True):
        if name.endswith(("bn1.weight", "bn2.weight")):
            assert wide.numel() == 2 * narrow.numel()


@pytest.mark.parametrize("name", ["resnet20", "vgg16", "wrn-22-2"])
def test_convolutions_start_with_kaiming_variance(name: str) -> None:
    for module in small(name).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            area = module.kernel_size[0] * module.kernel_size[1]
            assert module.weight.var().item() == pytest.approx(2 / (area * module.out_channels), rel=0.1)


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("mlp:256x3", [256, 256, 256]),
        ("mlp:300-100", [300, 100]),
        ("mlp:8-4x2", [8, 4, 8, 4]),
        ("mlp:16", [16]),
    ],
)
def test_mlp_grammar(name: str, hidden: list[int]) -> None:
    model = small(name, in_channels=1, image_size=8)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert [linear.in_features for linear in linears] == [64, *hidden]
    assert [linear.out_features for linear in linears] == [*hidden, 10]


@pytest.mark.parametrize("name", ["mlp:3x", "mlp:x3", "mlp:0x3", "mlp:8x0", "mlp:300,100", "mlp:"])
def test_mlp_grammar_errors(name: str) -> None:
    with pytest.raises(ValueError, match="mlp:WIDTHSxDEPTH"):
        small(name)


@pytest.mark.parametrize("name", ["lenet300", "lenet5", "resnet20", "vgg16", "wrn-22-2", "timm:resnet18"])
def test_seed_alone_decides_the_weights(name: str) -> None:
    first = small(name, seed=3)
    torch.rand(5)
    assert same(first, small(name, seed=3))
    assert not same(first, small(name, seed=4))


def test_seed_leaves_the_global_state_alone() -> None:
    before = torch.get_rng_state()
    small("resnet20", seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_seed_the_global_state_decides() -> None:
    torch.manual_seed(5)
    first = small("lenet300", seed=None)
    assert not same(first, small("lenet300", seed=None))
    torch.manual_seed(5)
    assert same(first, small("lenet300", seed=None))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet22", "did you mean 'resnet"),
        ("lenet-5", "did you mean 'lenet5'"),
        ("quux", "choose among lenet300"),
        ("torchvision:resnet19", "torchvision has no classifier 'resnet19'; did you mean 'resnet18'"),
        ("torchvision:resnet18@V9", "choose among IMAGENET1K_V1"),
        ("torchvision:resnet18@", "choose among IMAGENET1K_V1"),
        ("torchvision:fasterrcnn_resnet50_fpn", "no classifier"),
        ("torchvision:", "lacks a name"),
        ("timm:resnet51q2", "did you mean 'resnet51q'"),
        ("timm:resnet50.a9_in1k", "did you mean 'resnet50."),
        ("timm:resnet18@weights", "only 'pretrained'"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        small(name)


@pytest.mark.parametrize("argument", ["num_classes", "in_channels", "image_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_numbers_out_of_range(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=argument):
        small("resnet20", **{argument: value})


@pytest.mark.parametrize(("name", "size"), [("vgg16", 8), ("vgg19", 15), ("lenet5", 15)])
def test_too_small_images(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=f"{name} needs images of at least 16x16"):
        small(name, image_size=size)


def test_options() -> None:
    model = small("wrn-22-2", dropout=0.3)
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.3}
    with pytest.raises(TypeError, match=r"'wrn-22-2' has no option 'drop': it takes dropout"):
        small("wrn-22-2", drop=0.3)
    with pytest.raises(TypeError, match="it takes none"):
        small("resnet20", dropout=0.3)
    with pytest.raises(ValueError, match="dropout must be in"):
        small("wrn-22-2", dropout=1.0)


@pytest.mark.parametrize(
    "name",
    ["torchvision:resnet18", "torchvision:squeezenet1_1", "torchvision:googlenet", "torchvision:vit_b_32"],
)
def test_torchvision_models_train_with_any_classes(name: str) -> None:
    assert small(name, num_classes=7, image_size=64)(torch.randn(2, 3, 64, 64)).shape == (2, 7)


def test_torchvision_takes_three_channels_only() -> None:
    with pytest.raises(ValueError, match="3 channels, not 1"):
        small("torchvision:resnet18", in_channels=1)


@pytest.mark.parametrize(
    ("name", "weights_name", "head"),
    [("resnet18", "IMAGENET1K_V1", "fc"), ("squeezenet1_1", "DEFAULT", "classifier.1"), ("googlenet", "DEFAULT", "fc")],
)
def test_torchvision_weights_are_loaded_and_the_head_replaced(
    name: str, weights_name: str, head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    options = {"init_weights": False} if name == "googlenet" else {}
    source = torchvision.models.get_model(name, **options)
    asked: list[dict[str, Any]] = []

    def download(_: object, **arguments: Any) -> dict[str, Any]:
        asked.append(arguments)
        return source.state_dict()

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", download)
    whole = small(f"torchvision:{name}@{weights_name}", num_classes=1000).state_dict()
    fresh = small(f"torchvision:{name}@{weights_name}", num_classes=7)
    replaced = {f"{head}.weight", f"{head}.bias"}
    assert set(fresh.state_dict()) == set(whole)
    assert all(torch.equal(tensor, source.state_dict()[key]) for key, tensor in whole.items())
    assert {key for key, tensor in fresh.state_dict().items() if tensor.shape != whole[key].shape} == replaced
    assert all(torch.equal(fresh.state_dict()[key], whole[key]) for key in set(whole) - replaced)
    assert fresh(torch.randn(2, 3, 64, 64)).shape == (2, 7)
    assert all(arguments["weights_only"] for arguments in asked)


def test_torchvision_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    def refuse(_: object, **arguments: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", refuse)
    with pytest.raises(OSError, match="weights of torchvision:resnet18@DEFAULT could not be loaded: no route"):
        small("torchvision:resnet18@DEFAULT")


def test_timm_pretrained_weights_from_a_file(tmp_path: Any) -> None:
    from safetensors.torch import save_file

    source = small("timm:resnet18", num_classes=1000, seed=9)
    file = tmp_path / "weights.safetensors"
    save_file(source.state_dict(), file)
    model = small("timm:resnet18@pretrained", num_classes=5, pretrained_cfg_overlay={"file": str(file)})
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)
    assert torch.equal(model.get_parameter("layer1.0.conv1.weight"), source.get_parameter("layer1.0.conv1.weight"))
    with pytest.raises(OSError, match="weights of timm:resnet18@pretrained could not be loaded"):
        small("timm:resnet18@pretrained", pretrained_cfg_overlay={"file": str(tmp_path / "absent.safetensors")})


def test_timm_takes_channels_and_size() -> None:
    model = small("timm:vit_tiny_patch16_224", in_channels=1, image_size=32)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(("package", "extra"), [("torchvision", "train"), ("timm", "timm")])
def test_absent_package_names_the_extra(package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"{package}.models", raising=False)
    with pytest.raises(ImportError, match=rf"pip install 'sparsewright\[{extra}\]'"):
        small(f"{package}:resnet18")
