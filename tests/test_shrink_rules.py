"""What stays is said with the layer, the number and the reason; bad requests are errors that name the fault."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from shrink_networks import Grouped, Joined, Plain, check_planned, randomised
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from sparsewright.groups import PrunedGroups
from sparsewright.structured import NotRemovedWarning, shrink

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def kept(model: nn.Module, groups: dict[str, list[int]], granularity: str = "filter") -> dict[str, str]:
    """What stays and why; the rest is removed and compared."""
    tensors = {name: torch.tensor(indices, dtype=torch.int64) for name, indices in groups.items()}
    return check_planned(randomised(model), IMAGE, tensors, granularity)[1].kept


class Body(nn.Module):
    """Two convolutions with something in between; input (batch, 3, 8, 8)."""

    def __init__(self, between: Callable[[Tensor], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 5, 3)
        self.between = between
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.between(self.conv1(x)))


NORM = nn.GroupNorm(2, 8)
BETWEEN: dict[str, tuple[Body, str]] = {
    "sigmoid": (Body(torch.sigmoid), "its zero is not zero any more behind .*Sigmoid.* where conv2 takes it in"),
    "constant": (Body(lambda x: x + 1), "its zero is not zero any more"),
    "softmax": (Body(lambda x: x.softmax(dim=1)), "its zero is not zero any more behind .*Softmax"),
    "layer norm": (Body(lambda x: F.layer_norm(x, x.shape[1:])), "its zero is not zero any more"),
    "group norm": (Body(NORM, norm=NORM), r"goes together with between \(GroupNorm\)"),
    "own norm": (
        Body(lambda x: x / (1 + x.mean(dim=1, keepdim=True))),
        "network computes something",
    ),
    "fixed view": (Body(lambda x: x.view(-1, 8, 8, 8)), "network computes something else, or fails"),
    "roll": (Body(lambda x: x.roll(1, dims=1)), "its zero is not zero any more|computes something else"),
    "shuffle": (
        Body(lambda x: x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2)),
        "its zero is not zero|computes something else|cannot be followed|cannot follow",
    ),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_operations_that_do_not_let_zeros_through(name: str) -> None:
    model, reason = BETWEEN[name]
    found = kept(model, {"conv1.weight": [1, 6]})
    assert re.search(f"^2 of 2 filters: .*{reason}", found["conv1.weight"])


def test_an_activation_does_not_matter_where_nobody_reads_the_channel() -> None:
    assert kept(Plain(torch.sigmoid), {"conv2.weight": [0, 2]}, "channel") == {}
    assert kept(Plain(F.softplus), {"fc2.weight": [0, 2]}, "channel") == {}


def test_ends_of_the_network() -> None:
    assert kept(Plain(), {"fc2.weight": [1]}) == {"fc2.weight": "1 of 1 filters: is an output of the network"}
    found = kept(Plain(), {"conv1.weight": [1]}, "channel")
    assert found == {"conv1.weight": "1 of 1 channels: goes together with an input of the network"}


def test_whole_layers_stay() -> None:
    found = kept(Plain(), {"conv1.weight": list(range(6)), "fc1.weight": [1]})
    assert found == {"conv1.weight": "6 of 6 filters: all filters of conv1 would go"}


def test_layers_of_a_sum_that_are_not_listed_keep_it_alive() -> None:
    model = Joined()
    assert "goes together with" in kept(model, {"stem.weight": [3, 4]})["stem.weight"]
    # Filter 3 of the sum is filter 0 of the right branch, which is dead already; filter 4 is not.
    with torch.no_grad():
        model.right.weight[0] = 0
        model.right.bias[0] = 0
    found = kept(model, {"stem.weight": [3, 4]})
    assert found == {"stem.weight": "1 of 2 filters: goes together with right, which was not listed"}


def test_inputs_that_another_layer_reads_too() -> None:
    found = kept(Joined(), {"left.weight": [1, 2], "right.weight": [2, 4], "extra.weight": [2]}, "channel")
    assert set(found) == {"left.weight", "right.weight", "extra.weight"}
    assert found["extra.weight"] == "1 of 1 channels: goes together with last, which was not listed"
    assert "goes together with last, which was not listed" in found["left.weight"]


def test_inputs_from_a_flatten_go_only_with_their_whole_filter() -> None:
    whole = list(range(16, 32))
    assert kept(Plain(), {"fc1.weight": whole}, "channel") == {}
    found = kept(Plain(), {"fc1.weight": [*whole, 33]}, "channel")
    assert found == {"fc1.weight": "1 of 17 channels: goes together with fc1, where not the same ones are chosen"}


def test_unequal_groups_lose_what_all_of_them_can() -> None:
    found = kept(Grouped(), {"grouped.weight": [0, 1, 7]})
    assert found == {"grouped.weight": "1 of 3 filters: the 2 groups of grouped would become unequal"}
    found = kept(Grouped(), {"conv1.weight": [0, 1]})
    assert found == {"conv1.weight": "2 of 2 filters: the 2 groups of grouped would become unequal"}


def test_depthwise_filters_alone_leave_the_layer_before_them_alive() -> None:
    found = kept(Grouped(), {"depthwise.weight": [0, 6]})
    assert found == {"depthwise.weight": "2 of 2 filters: goes together with grouped, which was not listed"}


class Uses(nn.Module):
    """Layers that are used in unusual ways; input (batch, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.twice = nn.Conv2d(6, 6, 1)
        self.functional = nn.Conv2d(6, 6, 1)
        self.tied = nn.Conv2d(6, 6, 1)
        self.tied.weight = self.functional.weight
        self.unused = nn.Conv2d(6, 6, 1)
        self.frozen = nn.Conv2d(6, 6, 1)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(F.relu(self.twice(F.relu(self.stem(x)))))
        x = F.relu(F.conv2d(x, self.functional.weight))
        with torch.no_grad():
            constant = self.frozen(x)
        return self.last(x + constant)


def test_weights_that_are_used_more_or_less_than_once() -> None:
    names = ["twice", "functional", "unused", "frozen"]
    found = kept(Uses(), {f"{name}.weight": [1, 2] for name in names})
    assert found["twice.weight"] == "2 of 2 filters: twice.weight is used 2 times in one forward pass"
    assert found["functional.weight"] == "2 of 2 filters: it is not called as a layer"
    assert found["unused.weight"] == "2 of 2 filters: autograd finds no way from unused.weight to an output"
    assert found["frozen.weight"] == "2 of 2 filters: autograd finds no way from frozen.weight to an output"


def test_tied_weights() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 1))
    model[2].weight = model[4].weight
    found = kept(model, {"0.weight": [1], "2.weight": [2]})
    assert found["0.weight"] == "1 of 1 filters: 2.weight is used 2 times in one forward pass"
    assert found["2.weight"] == "1 of 1 filters: 2.weight is used 2 times in one forward pass"


def test_parameters_that_are_no_weights_of_layers() -> None:
    found = kept(Plain(), {"bn1.weight": [1], "conv1.bias": [1]})
    assert found == dict.fromkeys(found, "is not a weight of a Linear or convolution layer")
    assert set(found) == {"bn1.weight", "conv1.bias"}


def test_reparametrised_weights() -> None:
    model = Plain()
    parametrizations.weight_norm(model.conv2)
    found = kept(model, {"conv2.parametrizations.weight.original1": [1]})
    assert found["conv2.parametrizations.weight.original1"] == "is not a weight of a Linear or convolution layer"
    found = kept(model, {"conv1.weight": [1]})
    assert found["conv1.weight"] == "1 of 1 filters: goes together with conv2, which is re-parametrised"


def test_attention_stays() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.fc1 = nn.Linear(8, 8)
            self.fc2 = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.fc1(x.flatten(1)[:, :160].unflatten(1, (20, 8)))
            return self.fc2(self.attention(x, x, x, need_weights=False)[0])

    found = kept(Attention(), {"fc1.weight": [1, 2], "attention.out_proj.weight": [3]})
    assert set(found) == {"fc1.weight", "attention.out_proj.weight"}


def test_warning_and_strict() -> None:
    groups = {"fc2.weight": torch.tensor([1]), "fc1.weight": torch.tensor([2])}
    with pytest.warns(NotRemovedWarning, match=r"fc2\.weight: 1 of 1 filters: is an output") as caught:
        smaller = shrink(Plain(), IMAGE, groups)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert smaller.get_submodule("fc1").out_features == 9
    with pytest.raises(ValueError, match=r"fc2\.weight: 1 of 1 filters: is an output"):
        shrink(Plain(), IMAGE, groups, strict=True)


ONE = torch.tensor([1])
BAD: list[tuple[Any, type[Exception], str]] = [
    ([("conv1.weight", ONE)], TypeError, "pruned_groups must map parameter names to indices, got list"),
    ({"conv1.wait": ONE}, ValueError, "has no parameter, .*'conv1.wait'; did you mean 'conv1.weight'"),
    ({"conv9.weight": ONE}, ValueError, "has no parameter, .*'conv9.weight'; did you mean 'conv[12]'"),
    ({"head.weight": ONE}, ValueError, "has no parameter, and no layer with a weight, 'head.weight'$"),
    ({"conv1": torch.tensor([6])}, ValueError, r"pruned_groups\['conv1'\] holds the index 6; the layer has 0 to 5"),
    ({1: ONE}, TypeError, "must have names of parameters or layers as keys, got 1"),
    ({"conv1": ONE, "conv1.weight": ONE + 1}, ValueError, "'conv1' and 'conv1.weight' are the same layer, with diff"),
    ({"conv1.weight": [1]}, TypeError, "'conv1.weight'.* 1-D tensor of integer indices, got list"),
    ({"conv1.weight": torch.tensor([1.0])}, TypeError, "'conv1.weight'.* integer indices, got torch.float32"),
    ({"conv1.weight": torch.ones(6).bool()}, TypeError, "'conv1.weight'.* integer indices, got torch.bool"),
    ({"conv1.weight": torch.tensor([[1]])}, ValueError, r"'conv1.weight'.* must be 1-D, got shape \(1, 1\)"),
    ({"conv1.weight": torch.tensor([6])}, ValueError, "'conv1.weight'.* holds the index 6; the layer has 0 to 5"),
    ({"conv1.weight": torch.tensor([-1])}, ValueError, "'conv1.weight'.* holds the index -1"),
    ({"conv1.weight": torch.tensor([2, 2])}, ValueError, "'conv1.weight'.* holds an index twice"),
    (PrunedGroups({"conv1.weight": ONE}, "weight"), ValueError, "single weights cannot be taken out"),
]


@pytest.mark.parametrize(("groups", "error", "message"), BAD, ids=range(len(BAD)))
def test_bad_groups(groups: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        shrink(Plain(), IMAGE, groups)


def test_granularity() -> None:
    groups = PrunedGroups({"conv2.weight": torch.tensor([5])}, "channel")
    assert shrink(Plain(), IMAGE, groups).get_submodule("conv1").out_channels == 5
    assert shrink(Plain(), IMAGE, dict(groups)).get_submodule("conv2").out_channels == 7
    with pytest.raises(ValueError, match="granularity='filter', but the groups in pruned_groups are channels"):
        shrink(Plain(), IMAGE, groups, granularity="filter")
    with pytest.raises(ValueError, match="granularity must be one of 'filter', 'channel', got 'row'"):
        shrink(Plain(), IMAGE, dict(groups), granularity="row")


def test_values_that_are_not_finite() -> None:
    model = Plain()
    with torch.no_grad():
        model.fc1.weight[0, 0] = torch.nan
        model.bn1.running_var[1] = torch.inf
    with pytest.raises(ValueError, match=r"Plain has values that are not finite .* in fc1\.weight, bn1\.running_var$"):
        shrink(model, IMAGE, {"conv1": ONE})


def test_bad_models_and_examples() -> None:
    groups = {"conv1.weight": ONE}
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        shrink("model", IMAGE, groups)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="example_input must be a tensor or several"):
        shrink(Plain(), "image", groups)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"example_input has shape \(0, 3, 8, 8\)"):
        shrink(Plain(), IMAGE[:0], groups)
    with pytest.raises(ValueError, match=r"Plain cannot be run with this example_input: .*channels"):
        shrink(Plain(), IMAGE[:, :2], groups)
    hooked = Plain()
    with pytest.warns(FutureWarning):
        torch.nn.utils.weight_norm(hooked.conv2)
    with pytest.raises(ValueError, match=r"the weight of conv2 is made by a hook .* make it a plain parameter first"):
        shrink(hooked, IMAGE, groups)
