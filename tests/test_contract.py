"""The public contract, sentence by sentence: building, looking, saving and ending."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from toys import (
    DENSE_START,
    DYNAMIC,
    METHODS,
    OddNet,
    assert_masks_hold,
    budget,
    odd,
    options_of,
    stack,
    train,
    weights_of,
)

import sparsewright as sw

CLASSES = [sw.GMP, sw.GraNet, sw.RigL, sw.SET, sw.SNFS, sw.Static, sw.Magnitude]


# Building.


@pytest.mark.parametrize("cls", CLASSES)
def test_arguments_after_the_optimizer_are_keyword_only(cls: type) -> None:
    parameters = list(inspect.signature(cls).parameters.values())
    assert [item.name for item in parameters[:2]] == ["model", "optimizer"]
    assert all(item.kind in (item.KEYWORD_ONLY, item.VAR_KEYWORD) for item in parameters[2:])
    model = OddNet()
    with pytest.raises(TypeError):
        cls(model, SGD(model.parameters(), lr=0.1), 0.9, 100)


@pytest.mark.parametrize("method", METHODS)
def test_creation_zeroes_weights_at_once_and_leaves_optimizer_state(method: str) -> None:
    model = OddNet()
    optimizer = Adam(model.parameters(), lr=0.01)
    train(model, optimizer, range(3))
    before, state = weights_of(model), copy.deepcopy(optimizer.state_dict())
    sparsifier = sw.create(method, model, optimizer, sparsity=0.7, total_steps=20, **options_of(method))
    for name, parameter in model.named_parameters():
        mask = sparsifier.masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter, torch.where(mask, before[name], 0.0)), name
    after = optimizer.state_dict()
    assert after["param_groups"] == state["param_groups"]
    for index, entry in state["state"].items():
        assert all(torch.equal(value, after["state"][index][key]) for key, value in entry.items())
    dense = method in DENSE_START
    assert sparsifier.masks.kept() == (sparsifier.masks.total() if dense else budget(0.7, sparsifier.masks.total()))


def test_parameters_keep_names_and_identity() -> None:
    model = OddNet()
    before = dict(model.named_parameters())
    keys = list(model.state_dict())
    optimizer = SGD(model.parameters(), lr=0.1)
    sparsifier = sw.GraNet(model, optimizer, sparsity=0.5, total_steps=8, update_interval=2)
    step = optimizer.step
    train(model, optimizer, range(4))
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert list(model.state_dict()) == keys
    assert step.__func__ is optimizer.step.__func__, "the step of the optimizer must not be replaced"
    OddNet().load_state_dict(model.state_dict(), strict=True)
    sparsifier.detach()


def test_seed_decides_the_draws_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    model = stack({"layer": (20, 20)})
    torch.manual_seed(11)
    optimizer = SGD(model.parameters(), lr=0.1)
    sparsifier = sw.SET(model, optimizer, sparsity=0.5, total_steps=8, update_interval=2)
    for _ in range(4):
        model.get_parameter("layer.weight").grad = torch.ones(20, 20)
        optimizer.step()
    assert torch.equal(torch.rand(3), expected)
    sparsifier.detach()


# Looking.


def test_masks_are_live_bool_tensors() -> None:
    model, optimizer, sparsifier = odd("static")
    assert isinstance(sparsifier.masks, sw.MaskSet)
    for name, mask in sparsifier.masks.items():
        assert mask.dtype == torch.bool
        assert mask.device == model.get_parameter(name).device
        assert mask.shape == model.get_parameter(name).shape
    with pytest.raises(TypeError):
        sparsifier.masks["conv2.weight"] = torch.ones_like(sparsifier.masks["conv2.weight"])
    before = sparsifier.sparsity()
    mask = sparsifier.masks["conv2.weight"]
    mask[:4] = True
    mask[4:] = False
    with torch.no_grad():
        model.conv2.weight[:4] = 0.5
    assert sparsifier.sparsity() != before
    train(model, optimizer, range(1))
    assert model.conv2.weight[:4].count_nonzero() == model.conv2.weight[:4].numel()
    assert not model.conv2.weight[4:].any()
    assert sparsifier.masks["conv2.weight"] is mask


@pytest.mark.parametrize("method", DYNAMIC)
def test_masks_stay_the_same_tensors_through_updates(method: str) -> None:
    model, optimizer, sparsifier = odd(method)
    live = dict(sparsifier.masks)
    version = sparsifier.topology_version
    train(model, optimizer, range(20))
    assert all(sparsifier.masks[name] is mask for name, mask in live.items())
    assert sparsifier.topology_version > version


def test_sparsity_counts_masks() -> None:
    model, _, sparsifier = odd("static", 0.6)
    kept = {name: int(mask.sum()) for name, mask in sparsifier.masks.items()}
    total = sum(mask.numel() for mask in sparsifier.masks.values())
    assert sparsifier.sparsity() == (total - sum(kept.values())) / total
    for name, value in sparsifier.layer_sparsity().items():
        assert value == pytest.approx(1 - kept[name] / model.get_parameter(name).numel())
    with torch.no_grad():
        model.conv2.weight.zero_()
    assert sparsifier.sparsity() == (total - sum(kept.values())) / total


def test_maskset_takes_the_zeros_of_a_checkpoint() -> None:
    model = OddNet()
    with torch.no_grad():
        model.conv2.weight[0] = 0.0
        model.conv2.weight[1, 0] = -0.0
        model.fc.bias.zero_()
    masks = sw.MaskSet.from_zeros(model)
    assert list(masks) == [name for name, parameter in model.named_parameters() if parameter.dim() > 1]
    assert masks.total() - masks.kept() == model.conv2.weight[0].numel() + model.conv2.weight[1, 0].numel()
    assert not masks["conv2.weight"][0].any()


def test_a_mask_that_is_not_there_is_explained() -> None:
    masks = sw.MaskSet({"conv1.weight": torch.ones(2, 2, dtype=torch.bool)})
    with pytest.raises(
        KeyError, match=r"no mask of 'conv.weight'; did you mean 'conv1.weight'\? \(masks: conv1.weight\)"
    ):
        masks["conv.weight"]
    with pytest.raises(KeyError, match=r"no mask of 'fc.weight'; the set is empty, as it is until finalize\(\)"):
        sw.MaskSet()["fc.weight"]
    assert "fc.weight" not in masks
    assert masks.get("fc.weight") is None
    assert repr(sw.MaskSet()) == "MaskSet(no masks)"


def test_maskset_apply_zeroes_any_model_with_the_same_names() -> None:
    _, _, sparsifier = odd("static")
    other = OddNet(seed=5)
    before = weights_of(other)
    sparsifier.masks.apply(other)
    for name, parameter in other.named_parameters():
        mask = sparsifier.masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        assert torch.equal(parameter, torch.where(mask, before[name], 0.0))
    strange = OddNet(seed=5)
    strange.narrow = nn.Linear(7, 4)
    before = weights_of(strange)
    with pytest.raises(ValueError, match=r"narrow\.weight"):
        sparsifier.masks.apply(strange)
    del strange.narrow
    with pytest.raises(ValueError, match=r"narrow\.weight"):
        sparsifier.masks.apply(strange)
    assert all(torch.equal(parameter, before[name]) for name, parameter in strange.named_parameters())


def test_maskset_state_dict_round_trip(tmp_path: Any) -> None:
    _, _, sparsifier = odd("static")
    torch.save(sparsifier.masks.state_dict(), tmp_path / "masks.pt")
    back = sw.MaskSet.from_state_dict(torch.load(tmp_path / "masks.pt", weights_only=True))
    assert list(back) == list(sparsifier.masks)
    assert all(torch.equal(back[name], mask) for name, mask in sparsifier.masks.items())
    broken = sparsifier.masks.state_dict()
    broken["fc.weight"]["bits"] = broken["fc.weight"]["bits"][:-1]
    with pytest.raises(ValueError, match=r"fc\.weight"):
        sw.MaskSet.from_state_dict(broken)
    with pytest.raises(TypeError, match="layer"):
        sw.MaskSet({"layer": torch.ones(3)})


# Saving.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrong", ["method", "settings", "shapes", "layers", "missing", "mask shape"])
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(method: str, wrong: str) -> None:
    model, optimizer, sparsifier = odd(method)
    train(model, optimizer, range(5))
    if wrong == "method":
        state = odd("static" if method != "static" else "magnitude")[2].state_dict()
    elif wrong == "settings":
        state = odd(method, sparsity=0.71)[2].state_dict()
    elif wrong in ("shapes", "layers"):
        other = OddNet()
        if wrong == "shapes":
            other.fc = nn.Linear(3, 5)
        else:
            other.add_module("more", nn.Linear(3, 3))
        arguments = {"sparsity": 0.7, "total_steps": 20, **options_of(method)}
        state = sw.create(method, other, SGD(other.parameters(), lr=0.05, momentum=0.9), **arguments).state_dict()
    else:
        state = copy.deepcopy(sparsifier.state_dict())
        if wrong == "missing":
            del state["masks"]
        else:
            state["masks"]["fc.weight"]["shape"] = [4, 2]
    before = copy.deepcopy((sparsifier.state_dict(), model.state_dict(), optimizer.state_dict()))
    with pytest.raises(ValueError, match=r"state|mask"):
        sparsifier.load_state_dict(state)
    after = (sparsifier.state_dict(), model.state_dict(), optimizer.state_dict())
    assert str(after) == str(before)
    for name, mask in sparsifier.masks.items():
        assert torch.equal(mask, sw.MaskSet.from_state_dict(before[0]["masks"])[name])


# Ending.


@pytest.mark.parametrize("method", METHODS)
def test_finalize_at_the_end(method: str) -> None:
    model, optimizer, sparsifier = odd(method)
    train(model, optimizer, range(20))
    assert sparsifier.finished
    with torch.no_grad():
        model.conv2.weight.add_(1.0)
    sparsifier.finalize()
    masks = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    assert_masks_hold(model, [], masks)
    assert model.conv2.weight.count_nonzero() == masks["conv2.weight"].sum()
    train(model, optimizer, range(20, 24))
    assert sparsifier.step_count == 20, "the hooks are gone"
    assert any(model.get_parameter(name)[~mask].any() for name, mask in masks.items())
    sparsifier.finalize()
    sw.Static(model, optimizer, sparsity=0.5).detach()


@pytest.mark.parametrize("method", DYNAMIC)
def test_finalize_before_the_end_warns_and_keeps_the_current_masks(method: str) -> None:
    model, optimizer, sparsifier = odd(method)
    train(model, optimizer, range(5))
    assert not sparsifier.finished
    masks = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    with pytest.warns(UserWarning, match="step 5"):
        sparsifier.finalize()
    assert all(torch.equal(mask, masks[name]) for name, mask in sparsifier.masks.items())
    assert_masks_hold(model, [], masks)


@pytest.mark.parametrize("method", METHODS)
def test_detach_only_removes_the_hooks(method: str) -> None:
    model, optimizer, sparsifier = odd(method)
    train(model, optimizer, range(5))
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict(), sparsifier.state_dict()))
    sparsifier.detach()
    assert str((model.state_dict(), optimizer.state_dict(), sparsifier.state_dict())) == str(before)
    train(model, optimizer, range(5, 8))
    assert sparsifier.step_count == 5


@pytest.mark.parametrize("method", ["static", "magnitude"])
def test_methods_without_a_schedule_are_finished_at_once(method: str) -> None:
    _, _, sparsifier = odd(method)
    assert sparsifier.finished


# One-shot methods.


def test_static_holds_given_masks() -> None:
    model = OddNet()
    masks = sw.MaskSet.from_zeros(model)
    masks["conv2.weight"][3:] = False
    optimizer = SGD(model.parameters(), lr=0.1)
    sparsifier = sw.Static(model, optimizer, masks=masks)
    assert not model.conv2.weight[3:].any()
    assert sparsifier.masks["conv2.weight"] is not masks["conv2.weight"], "the given masks stay the giver's"
    train(model, optimizer, range(3))
    assert all(torch.equal(sparsifier.masks[name], mask) for name, mask in masks.items())
    assert_masks_hold(model, optimizer, masks)
    sparsifier.detach()
    with pytest.raises(ValueError, match=r"conv1\.weight"):
        sw.Static(model, optimizer, masks=masks, exclude="conv1.*")
    with pytest.raises(ValueError, match="sparsity"):
        sw.Static(model, optimizer, masks=masks, sparsity=0.123)
    with pytest.raises(ValueError, match="distribution"):
        sw.Static(model, optimizer, masks=masks, distribution="er")
    with pytest.raises(TypeError, match="MaskSet"):
        sw.Static(model, optimizer, masks={"conv1.weight": torch.ones(1, dtype=torch.bool)})
    with pytest.raises(ValueError, match="sparsity"):
        sw.Static(model, optimizer)
    wrong = sw.MaskSet({name: torch.ones(2, 2, dtype=torch.bool) for name in masks})
    with pytest.raises(ValueError, match=r"conv1\.weight"):
        sw.Static(model, optimizer, masks=wrong)


@pytest.mark.parametrize("distribution", ["global", "uniform"])
@pytest.mark.parametrize("criterion", ["magnitude", "largest", "random"])
def test_magnitude_criteria(criterion: str, distribution: str) -> None:
    model = stack({"a": (10, 10), "b": (20, 5)})
    before = weights_of(model)
    optimizer = SGD(model.parameters(), lr=0.1)
    sparsifier = sw.Magnitude(model, optimizer, sparsity=0.6, criterion=criterion, distribution=distribution)
    assert sparsifier.masks.kept() == 80
    names = list(before)
    groups = [names] if distribution == "global" else [[name] for name in names]
    for group in groups:
        values = torch.cat([before[name].abs().reshape(-1) for name in group])
        kept = torch.cat([sparsifier.masks[name].reshape(-1) for name in group])
        if criterion == "magnitude":
            assert values[kept].min() >= values[~kept].max()
        elif criterion == "largest":
            assert values[kept].max() <= values[~kept].min()
        else:
            assert values[kept].min() < values[~kept].max()
            assert values[kept].max() > values[~kept].min()
