"""GReg-1 and GReg-2: schedules, phases, penalties, what they remove, and what they refuse."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from shrink_networks import Joined
from torch import Tensor, nn
from torch.optim import SGD, Adam
from toys import OddNet, backward, odd_batch, random_gradients, stack, train, weights_of

import sparsewright as sw
from sparsewright.growing_penalty import next_level, updates_until

QUICK: dict[str, Any] = {"reg_step": 0.25, "reg_interval": 3, "stabilize_steps": 4}
PICK: dict[str, Any] = {"pick_step": 0.02, "pick_limit": 0.05, "recover_penalty": -0.01}
GRANULARITIES = ["weight", "filter", "channel"]
METHODS = ["greg-1", "greg-2"]


def quick(method: str, **changes: Any) -> dict[str, Any]:
    return {**QUICK, **(PICK if method == "greg-2" else {}), **changes}


def odd(method: str, seed: int = 0, lr: float = 0.05, **options: Any) -> tuple[OddNet, SGD, Any]:
    model = OddNet(seed)
    optimizer = SGD(model.parameters(), lr=lr, momentum=0.9)
    options = {"sparsity": {"conv*": 0.5, "narrow": 0.4}, **quick(method), **options}
    return model, optimizer, sw.create(method, model, optimizer, **options)


class Normed(nn.Module):
    """Two convolutions with batch norm, a residual block, a depthwise convolution and a classifier."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.activation = activation
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv1 = nn.Conv2d(8, 12, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.norm_depthwise = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.bias, module.running_mean):
                    nn.init.normal_(tensor)  # type: ignore[arg-type]

    def inner(self, x: Tensor) -> Tensor:
        """What goes into the second convolution of the block."""
        x = self.activation(self.norm1(self.conv1(x)))
        return self.activation(self.norm_depthwise(self.depthwise(x)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.norm2(self.conv2(self.inner(x))))
        return self.fc(x.mean(dim=(2, 3)))


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("method", METHODS)
def test_the_phases_follow_each_other_and_the_end_removes(method: str, granularity: str) -> None:
    model, optimizer, sparsifier = odd(method, granularity=granularity)
    phases = []
    while not sparsifier.finished:
        phases.append(sparsifier.phase)
        train(model, optimizer, [sparsifier.step_count])
    assert (
        sparsifier.step_count == sparsifier.total_steps == sw.GReg1.steps_needed(QUICK) if method == "greg-1" else True
    )
    assert list(dict.fromkeys(phases)) == (["pick"] if method == "greg-2" else []) + ["push", "stabilize"]
    assert phases.count("stabilize") == QUICK["stabilize_steps"]
    assert sparsifier.phase == "done"
    assert not sparsifier.masks
    before = {name: index.clone() for name, index in sparsifier.pruned_groups.items()}
    sparsifier.finalize()
    assert (
        set(sparsifier.masks)
        == set(sparsifier.pruned_groups)
        == set(sparsifier.penalties)
        == set(sparsifier.parameters)
    )
    for name, mask in sparsifier.masks.items():
        assert torch.equal(sparsifier.pruned_groups[name], before[name])
        assert not model.get_parameter(name)[~mask].any()
        assert len(before[name]) == 0 or bool(model.get_parameter(name)[mask].all())


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("method", METHODS)
@given(ratio=st.floats(0, 0.99), seed=st.integers(0, 2**20))
@settings(max_examples=25, deadline=None)
def test_each_layer_loses_ceil_of_its_groups_but_never_all(
    method: str, granularity: str, ratio: float, seed: int
) -> None:
    model = stack({"a": (7, 5), "b": (6, 3, 3), "c": (1, 4), "d": (9, 1, 2, 2)}, seed)
    optimizer = SGD(model.parameters(), lr=0.01)
    sparsifier = sw.create(method, model, optimizer, sparsity={"*": ratio}, granularity=granularity, **quick(method))
    random_gradients(model, seed)
    optimizer.step()
    sparsifier.finalize()
    for name, parameter in model.named_parameters():
        groups = {"weight": parameter.numel(), "filter": parameter.shape[0], "channel": parameter.shape[1]}[granularity]
        expected = min(math.ceil(ratio * groups), groups - 1)
        indices = sparsifier.pruned_groups[name]
        assert len(indices) == expected
        assert indices.dtype == torch.int64
        assert indices.tolist() == sorted(set(indices.tolist()))
        zeros = int((~sparsifier.masks[name]).count_nonzero())
        assert zeros == expected * parameter.numel() // groups


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_greg_1_chooses_the_smallest_mean_magnitudes_of_the_network_that_it_is_given(granularity: str) -> None:
    model = stack({"conv": (10, 6, 3, 3)})
    weight = model.get_parameter("conv.weight").detach().clone()
    optimizer = SGD(model.parameters(), lr=0.1)
    sparsifier = sw.GReg1(model, optimizer, sparsity={"conv": 0.4}, granularity=granularity)
    if granularity == "weight":
        score = weight.abs().flatten()
    else:
        score = weight.abs().transpose(0, 0 if granularity == "filter" else 1).flatten(1).mean(dim=1)
    number = math.ceil(0.4 * len(score))
    assert sparsifier.pruned_groups["conv.weight"].tolist() == sorted(score.argsort()[:number].tolist())
    assert sparsifier.pruned_groups.granularity == granularity


def test_greg_2_chooses_when_the_penalty_has_reached_the_limit() -> None:
    model, optimizer, sparsifier = odd("greg-2", lr=0.3, granularity="filter", pick_step=0.3, pick_limit=0.8)
    while sparsifier.phase == "pick":
        assert all(len(indices) == 0 for indices in sparsifier.pruned_groups.values())
        at_choice = weights_of(model)
        train(model, optimizer, [sparsifier.step_count])
    assert sparsifier.step_count == 2 * QUICK["reg_interval"] + 1
    score = at_choice["conv2.weight"].abs().mean(dim=(1, 2, 3))
    assert sparsifier.pruned_groups["conv2.weight"].tolist() == sorted(score.argsort()[:4].tolist())


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_that_of_the_plain_optimizer_with_the_penalty_in_the_gradient(method: str, granularity: str) -> None:
    model, optimizer, sparsifier = odd(method, granularity=granularity)
    twin = copy.deepcopy(model)
    plain = SGD(twin.parameters(), lr=0.05, momentum=0.9)
    while not sparsifier.finished:
        step = sparsifier.step_count
        train(model, optimizer, [step])
        plain.zero_grad()
        backward(twin, step)
        for name, parameter in twin.named_parameters():
            if name in sparsifier.penalties:
                parameter.grad += sparsifier.penalties[name] * parameter.detach()  # type: ignore[operator]
        plain.step()
        for name, parameter in twin.named_parameters():
            torch.testing.assert_close(model.get_parameter(name).detach(), parameter.detach(), atol=1e-6, rtol=1e-5)


def test_the_penalties_of_greg_2_in_each_phase() -> None:
    model, optimizer, sparsifier = odd("greg-2", granularity="filter", sparsity={"conv2": 0.5}, recover_penalty=-0.02)
    levels = []
    while not sparsifier.finished:
        train(model, optimizer, [sparsifier.step_count])
        penalty = sparsifier.penalties["conv2.weight"].flatten()
        chosen = sparsifier.pruned_groups["conv2.weight"]
        kept = torch.ones(7, dtype=torch.bool)
        kept[chosen] = False
        levels.append((round(float(penalty[~kept].max()) if len(chosen) else float(penalty.max()), 4),
                       round(float(penalty[kept].min()), 4)))  # fmt: skip
    # Three updates of 0.02 reach the limit of 0.05, then four of 0.25 pass 1.
    expected = [(0.02, 0.02), (0.04, 0.04), (0.06, 0.06), (0.31, -0.02), (0.56, -0.02), (0.81, -0.02), (1.06, -0.02)]
    assert list(dict.fromkeys(levels)) == expected
    assert torch.equal(sparsifier.penalties["conv1.weight"], torch.zeros(1, 1, 1, 1))


def test_a_fixed_penalty_does_not_grow_and_takes_as_long() -> None:
    model, optimizer, sparsifier = odd("greg-1", granularity="weight", growing=False, reg_limit=0.7)
    growing = odd("greg-1", granularity="weight", reg_limit=0.7)[2]
    assert sparsifier.total_steps == growing.total_steps
    seen = set()
    while not sparsifier.finished:
        train(model, optimizer, [sparsifier.step_count])
        seen |= set(sparsifier.penalties["conv1.weight"].unique().tolist())
    assert sorted(seen) == pytest.approx([0.0, 0.7])
    assert sparsifier.step_count == sparsifier.total_steps


@pytest.mark.parametrize("method", METHODS)
@given(
    interval=st.integers(1, 7),
    step=st.floats(0.01, 0.5),
    limit=st.floats(0.05, 1.5),
    hold=st.integers(0, 9),
    pick_step=st.floats(0.01, 0.1),
    pick_limit=st.floats(0, 0.2),
)
@settings(max_examples=20, deadline=None)
def test_the_steps_needed_are_the_steps_taken(
    method: str, interval: int, step: float, limit: float, hold: int, pick_step: float, pick_limit: float
) -> None:
    options: dict[str, Any] = {"reg_interval": interval, "reg_step": step, "reg_limit": limit, "stabilize_steps": hold}
    if method == "greg-2":
        options |= {"pick_step": pick_step, "pick_limit": pick_limit}
    model = stack({"a": (4, 3)})
    optimizer = SGD(model.parameters(), lr=0.0)
    sparsifier = sw.create(method, model, optimizer, sparsity=0.5, magnitude_ratio_limit=1e30, **options)
    assert sparsifier.total_steps == type(sparsifier).steps_needed(options)
    while not sparsifier.finished:
        random_gradients(model, sparsifier.step_count)
        optimizer.step()
        assert sparsifier.step_count <= sparsifier.total_steps
    assert sparsifier.step_count == sparsifier.total_steps


def test_levels_are_those_of_single_precision_addition() -> None:
    level, tensor = 0.0, torch.zeros(())
    for _ in range(3000):
        level = next_level(level, 1e-4)
        tensor = tensor + 1e-4
    assert level == float(tensor)
    count, reached = updates_until(0.0, 1e-4, 1.0, inclusive=False, option="reg_step")
    tensor = torch.zeros(())
    for _ in range(count):
        assert float(tensor) <= 1.0
        tensor = tensor + 1e-4
    assert float(tensor) == reached > 1.0


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("method", METHODS)
def test_the_ratio_of_magnitudes_ends_the_pushing_early(method: str, granularity: str) -> None:
    model, optimizer, sparsifier = odd(
        method, granularity=granularity, lr=0.1, magnitude_ratio_limit=30.0, reg_step=0.05, reg_limit=5.0
    )
    assert sparsifier.total_steps is not None
    while not sparsifier.finished:
        train(model, optimizer, [sparsifier.step_count])
    assert sparsifier.step_count < sparsifier.total_steps
    assert max(float(penalty.max()) for penalty in sparsifier.penalties.values()) < 5.0


def test_a_ratio_of_nothing_is_done_after_stabilizing() -> None:
    model, optimizer, sparsifier = odd("greg-1", sparsity=0.0)
    train(model, optimizer, range(QUICK["stabilize_steps"] + 1))
    assert sparsifier.finished
    before = weights_of(model)
    sparsifier.finalize()
    assert all(torch.equal(before[name], value) for name, value in weights_of(model).items())
    assert all(mask.all() for mask in sparsifier.masks.values())


@pytest.mark.parametrize("steps", [0, 1, 8])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("method", METHODS)
def test_finalize_prunes_to_the_budget_at_any_step(method: str, granularity: str, steps: int) -> None:
    model, optimizer, sparsifier = odd(method, granularity=granularity)
    train(model, optimizer, range(steps))
    sparsifier.finalize()
    assert sparsifier.finished
    assert sparsifier.phase == "done"
    assert sparsifier.sparsity() == pytest.approx(sparsifier.target_sparsity)
    assert len(sparsifier.pruned_groups["conv2.weight"]) > 0


# What is left whole, and what falls silent.


@pytest.mark.parametrize("method", [*METHODS, "magnitude"])
def test_a_number_leaves_whole_what_cannot_be_removed_alone(method: str) -> None:
    model = Normed()
    options = quick(method) if method != "magnitude" else {}
    sparsifier = sw.create(
        method, model, SGD(model.parameters(), lr=0.1), sparsity=0.5, granularity="filter", **options
    )
    removed = {name: len(indices) for name, indices in sparsifier.pruned_groups.items()}
    if method == "greg-2":
        sparsifier.finalize()
        removed = {name: len(indices) for name, indices in sparsifier.pruned_groups.items()}
    assert removed == {
        "stem.weight": 0, "conv1.weight": 6, "depthwise.weight": 0, "conv2.weight": 0, "fc.weight": 0,
    }  # fmt: skip
    assert "added to" in sparsifier.left_whole["conv2.weight"]
    assert "added to" in sparsifier.left_whole["stem.weight"]
    assert "output of the network" in sparsifier.left_whole["fc.weight"]
    assert "depthwise" in sparsifier.left_whole["depthwise.weight"]


def test_a_number_leaves_whole_the_channels_that_are_shared() -> None:
    model = Normed()
    sparsifier = sw.Magnitude(model, SGD(model.parameters(), lr=0.1), sparsity=0.5, granularity="channel")
    removed = {name: len(indices) for name, indices in sparsifier.pruned_groups.items()}
    assert removed["conv2.weight"] == 6
    assert {name for name, number in removed.items() if number} == {"conv2.weight"}
    assert "stem" in sparsifier.left_whole["conv1.weight"]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("method", [*METHODS, "magnitude"])
def test_removed_filters_output_exactly_zero_behind_their_norms(method: str, training: bool) -> None:
    model = Normed()
    options = quick(method) if method != "magnitude" else {}
    sparsifier = sw.create(
        method, model, SGD(model.parameters(), lr=0.1), sparsity={"conv1": 0.5}, granularity="filter", **options
    )
    sparsifier.finalize()
    removed = sparsifier.pruned_groups["conv1.weight"]
    out = model.train(training).inner(torch.randn(4, 8, 6, 6))
    assert not out[:, removed].any()
    kept = sorted(set(range(12)) - set(removed.tolist()))
    assert out[:, kept].any()


class Flattened(nn.Sequential):
    """A norm behind flattened feature maps, where each filter is several of its channels; input (batch, 3, 32, 32)."""

    def __init__(self) -> None:
        layers = [nn.Conv2d(3, 8, 3, stride=8), nn.Flatten(), nn.BatchNorm1d(8 * 16), nn.ReLU(), nn.Linear(8 * 16, 20)]
        super().__init__(*layers, nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 5))


class Doubled(nn.Module):
    """One layer's output twice in a concatenation; input (batch, 3, height, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 8, 3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.fc(self.second(F.relu(self.norm(torch.cat([x, F.relu(x)], 1)))).mean(dim=(2, 3)))


class InputJoined(Doubled):
    """The network's own input in the concatenation, of which torch.fx does not say how many channels it has."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.second = nn.BatchNorm2d(11), nn.Conv2d(11, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([x, self.first(x)], 1)
        return self.fc(self.second(F.relu(self.norm(joined))).mean(dim=(2, 3)))


class PreActivated(Doubled):
    """A norm behind a sum; input (batch, 3, height, width)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.second = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.fc(F.relu(self.norm(x + self.second(F.relu(x)))).mean(dim=(2, 3)))


@pytest.mark.parametrize("network", [InputJoined, PreActivated])
def test_norms_whose_channels_are_not_known_are_named_and_left_alone(network: Callable[[], nn.Module]) -> None:
    model = network()
    nn.init.ones_(model.norm.bias)  # type: ignore[union-attr, arg-type]
    ratios = {"first": 0.5, "second": 0.5}
    with pytest.warns(UserWarning, match="norms that may still output constants: norm; it is not known which of their"):
        sw.Magnitude(model, SGD(model.parameters(), lr=0.1), sparsity=ratios, granularity="filter")
    assert model.norm.bias.all()  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("activation", [F.silu, F.relu])
def test_training_on_with_magnitude_does_not_revive_norms_and_biases(activation: Callable[[Tensor], Tensor]) -> None:
    model = Normed(activation=activation)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.randn(16, 3, 6, 6), torch.randint(0, 5, (16,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    step()  # Momentum from before the pruning must not revive them either.
    sparsifier = sw.Magnitude(model, optimizer, sparsity={"conv1": 0.5}, granularity="filter")
    for _ in range(5):
        step()
    sparsifier.finalize()
    small = sw.shrink(model, x, sparsifier.pruned_groups)
    torch.testing.assert_close(small.eval()(x), model.eval()(x), atol=1e-5, rtol=0)


def small_densenet() -> nn.Module:
    densenet = pytest.importorskip("torchvision").models.densenet
    return densenet.DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=5)


@pytest.mark.parametrize("granularity", ["filter", "channel"])
@pytest.mark.parametrize("network", [Normed, Joined, small_densenet, Flattened, Doubled])
def test_what_finalize_leaves_computes_what_shrink_returns(network: Callable[[], nn.Module], granularity: str) -> None:
    torch.manual_seed(0)
    model = network().double()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)  # type: ignore[arg-type]
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    optimizer = SGD(model.parameters(), lr=0.1)
    sparsifier = sw.GReg1(model, optimizer, sparsity=0.5, granularity=granularity, **QUICK)
    sparsifier.finalize()
    small = sw.shrink(model, x, sparsifier.pruned_groups)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    for training in (False, True):
        torch.testing.assert_close(small.train(training)(x), model.train(training)(x), atol=1e-9, rtol=0)


class Branching(Normed):
    """A forward pass that depends on values, which torch.fx cannot trace."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


@pytest.mark.parametrize("method", METHODS)
def test_an_untraceable_model_is_told_of_where_a_number_is_given(method: str) -> None:
    model = Branching()
    with pytest.warns(UserWarning, match=r"Branching cannot be traced.*only the last layer is left whole"):
        sparsifier = sw.create(
            method, model, SGD(model.parameters(), lr=0.1), sparsity=0.5, granularity="filter", **quick(method)
        )
    assert sparsifier.left_whole == {"fc.weight": "is the last layer in scope"}


@pytest.mark.filterwarnings("always")
@pytest.mark.parametrize("method", [*METHODS, "magnitude"])
def test_norms_that_cannot_be_found_are_told_of_once(method: str, recwarn: pytest.WarningsRecorder) -> None:
    model = Branching()
    options = quick(method) if method != "magnitude" else {}
    ratios = {"conv1": 0.5}
    optimizer = SGD(model.parameters(), lr=0.1)
    sparsifier = sw.create(method, model, optimizer, sparsity=ratios, granularity="filter", **options)
    sparsifier.finalize()
    told = [str(warning.message) for warning in recwarn]
    assert len(told) == 1
    assert told[0].startswith("norms that may still output constants: norm, norm1, norm_depthwise, norm2; it is not")
    assert "since Branching cannot be traced" in told[0]
    assert not model.conv1.weight[sparsifier.pruned_groups["conv1.weight"]].any()


@pytest.mark.parametrize("criterion", ["magnitude", "random", None])
def test_layers_that_are_added_lose_the_same_filters_where_patterns_ask_for_it(criterion: str | None) -> None:
    model = Normed()
    joint = model.stem.weight.abs().mean(dim=(1, 2, 3)) + model.conv2.weight.abs().mean(dim=(1, 2, 3))
    optimizer = SGD(model.parameters(), lr=0.1)
    sparsity = {"stem": 0.4, "conv2": 0.4}
    if criterion is None:
        sparsifier: Any = sw.GReg1(model, optimizer, sparsity=sparsity, granularity="filter", **QUICK)
    else:
        sparsifier = sw.Magnitude(model, optimizer, sparsity=sparsity, granularity="filter", criterion=criterion)
    removed = sparsifier.pruned_groups
    assert torch.equal(removed["stem.weight"], removed["conv2.weight"])
    if criterion != "random":
        assert removed["stem.weight"].tolist() == sorted(joint.argsort()[:4].tolist())
    sparsifier.finalize()
    x = torch.randn(2, 3, 6, 6)
    small = sw.shrink(model, x, removed)
    assert small.stem.out_channels == small.conv2.out_channels == 4
    for training in (True, False):
        torch.testing.assert_close(small.train(training)(x), model.train(training)(x), atol=1e-5, rtol=0)


def test_layers_that_are_added_choose_alone_where_their_ratios_differ() -> None:
    model = Normed()
    options = {"sparsity": {"stem": 0.4, "conv2": 0.6}, "granularity": "filter"}
    removed = sw.Magnitude(model, SGD(model.parameters(), lr=0.1), **options).pruned_groups
    assert [len(removed["stem.weight"]), len(removed["conv2.weight"])] == [4, 5]


# Optimizers, scalers, closures.


@pytest.mark.parametrize("method", METHODS)
def test_an_adaptive_optimizer_is_warned_of(method: str) -> None:
    model = OddNet()
    with pytest.warns(UserWarning, match=r"Adam scales gradients.*use SGD"):
        sw.create(method, model, Adam(model.parameters()), sparsity=0.5, **quick(method))


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "nesterov": True}, {"weight_decay": 0.1}])
def test_sgd_is_not_warned_of(options: dict[str, Any]) -> None:
    model = OddNet()
    sw.GReg1(model, SGD(model.parameters(), lr=1e-3, **options), sparsity=0.5)


def test_a_gradient_scaler_inside_a_fused_step_scales_the_penalty() -> None:
    model, twin = OddNet(), OddNet()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True)
    plain = SGD(twin.parameters(), lr=0.05, momentum=0.9, fused=True)
    for item, network in ((optimizer, model), (plain, twin)):
        sw.GReg1(network, item, sparsity=0.5, **QUICK)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(1024.0), torch.tensor(0.0)  # type: ignore[attr-defined]
    for step in range(8):
        train(twin, plain, [step])
        optimizer.zero_grad()
        backward(model, step)
        for parameter in model.parameters():
            parameter.grad *= 1024  # type: ignore[operator]
        optimizer.step()
        for name, value in weights_of(twin).items():
            torch.testing.assert_close(model.get_parameter(name).detach(), value)


def test_a_step_with_infinite_gradients_changes_nothing_and_is_not_counted() -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, fused=True)
    sparsifier = sw.GReg1(model, optimizer, sparsity=0.5, **QUICK)
    weights = weights_of(model)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(1.0)  # type: ignore[attr-defined]
    backward(model, 0)
    optimizer.step()
    assert sparsifier.step_count == 0
    assert all(torch.equal(weights[name], value) for name, value in weights_of(model).items())
    assert not any(penalty.any() for penalty in sparsifier.penalties.values())


def test_a_closure_gets_the_penalty_after_its_backward() -> None:
    model, optimizer, sparsifier = odd("greg-2")
    twin, plain, _ = odd("greg-2")
    for step in range(8):
        train(twin, plain, [step])

        def closure(step: int = step) -> Tensor:
            optimizer.zero_grad()
            return backward(model, step)

        optimizer.step(closure)
        assert sparsifier.step_count == step + 1
    assert all(torch.equal(model.get_parameter(name), value) for name, value in weights_of(twin).items())


def test_two_optimizers_advance_the_penalty_once_a_step() -> None:
    model, twin = OddNet(), OddNet()
    parts = [[*model.conv1.parameters(), *model.fc.parameters()], []]
    parts[1] = [p for p in model.parameters() if not any(p is other for other in parts[0])]
    optimizers = [SGD(part, lr=0.05, momentum=0.9) for part in parts]
    options = {"sparsity": {"conv*": 0.5, "narrow": 0.4}, **quick("greg-2")}
    sparsifier = sw.GReg2(model, optimizers, **options)
    plain = SGD(twin.parameters(), lr=0.05, momentum=0.9)
    single = sw.GReg2(twin, plain, **options)
    for step in range(single.total_steps or 0):
        model.zero_grad()
        backward(model, step)
        for item in optimizers:
            item.step()
        train(twin, plain, [step])
    assert sparsifier.step_count == single.step_count
    assert all(torch.equal(model.get_parameter(name), value) for name, value in weights_of(twin).items())


def test_a_half_precision_model_is_pushed_too() -> None:
    model = stack({"a": (8, 6)}).to(torch.bfloat16)
    optimizer = SGD(model.parameters(), lr=0.5)
    sparsifier = sw.GReg1(model, optimizer, sparsity=0.5, **QUICK)
    before = model.get_parameter("a.weight").detach().clone()
    while not sparsifier.finished:
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    weight = model.get_parameter("a.weight").detach().flatten()
    chosen = sparsifier.pruned_groups["a.weight"]
    assert (weight[chosen].abs() < 0.2 * before.flatten()[chosen].abs()).all()
    kept = torch.ones(48, dtype=torch.bool)
    kept[chosen] = False
    assert torch.equal(weight[kept], before.flatten()[kept])


def test_an_optimizer_that_maximises_is_pushed_to_zero_too() -> None:
    model = stack({"a": (8, 6)})
    optimizer = SGD(model.parameters(), lr=0.1, maximize=True)
    sparsifier = sw.GReg1(model, optimizer, sparsity=0.5, **QUICK)
    before = model.get_parameter("a.weight").detach().abs().sum()
    while not sparsifier.finished:
        model.get_parameter("a.weight").grad = torch.zeros(8, 6)
        optimizer.step()
    assert model.get_parameter("a.weight").detach().abs().sum() < before


def test_a_diverged_network_is_not_pruned() -> None:
    model, _, sparsifier = odd("greg-1")
    with torch.no_grad():
        model.conv2.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"training diverged: conv2.weight is not finite, and nothing was removed"):
        sparsifier.finalize()
    assert not sparsifier.masks


def test_a_state_of_other_patterns_or_of_another_order_is_refused() -> None:
    state = odd("greg-1", sparsity={"conv1": 0.2, "conv*": 0.6})[2].state_dict()
    for sparsity in ({"conv*": 0.6, "narrow": 0.2}, {"conv1": 0.3, "conv*": 0.6}):
        sparsifier = odd("greg-1", sparsity=sparsity)[2]
        with pytest.raises(ValueError, match="settings differ at 'sparsity'"):
            sparsifier.load_state_dict(state)


def test_going_back_to_the_start_takes_the_penalties_back() -> None:
    model, optimizer, sparsifier = odd("greg-1")
    start = sparsifier.state_dict()
    train(model, optimizer, range(4))
    assert sparsifier.penalties["conv2.weight"].any()
    sparsifier.load_state_dict(start)
    assert not sparsifier.penalties["conv2.weight"].any()


# Ratios.


def ratios_of(model: nn.Module, sparsity: Any, **options: Any) -> dict[str, int]:
    sparsifier = sw.Magnitude(model, SGD(model.parameters(), lr=0.1), sparsity=sparsity, **options)
    sparsifier.detach()
    return {name: len(indices) for name, indices in sparsifier.pruned_groups.items()}


def test_the_first_pattern_that_matches_counts_with_or_without_weight() -> None:
    numbers = ratios_of(OddNet(), {"conv1.weight": 0.2, "conv*": 0.6, "fc": 0.0}, granularity="filter")
    assert numbers == {
        "conv1.weight": 1, "conv2.weight": 5, "depthwise.weight": 0, "narrow.weight": 0, "fc.weight": 0,
    }  # fmt: skip


def test_ratios_per_stage_of_torchvision_and_of_our_residual_networks() -> None:
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet18()
    numbers = ratios_of(model, [0, 0.5, 0, 0.25, 0, 0], granularity="filter", exclude=["layer1.1.*"])
    assert {name: number for name, number in numbers.items() if number} == {
        "layer1.0.conv1.weight": 32, "layer3.0.conv1.weight": 64, "layer3.1.conv1.weight": 64,
    }  # fmt: skip
    from sparsewright.models import create_model

    small = create_model("resnet20", num_classes=10, in_channels=3, image_size=32)
    numbers = ratios_of(small, [0, 0.75, 0.75, 0.32, 0], granularity="filter")
    assert {name.removesuffix(".conv1.weight"): number for name, number in numbers.items() if number} == {
        **{f"stages.0.{block}": 12 for block in range(3)},
        **{f"stages.1.{block}": 24 for block in range(3)},
        **{f"stages.2.{block}": 21 for block in range(3)},
    }


@pytest.mark.parametrize(
    ("sparsity", "error", "said"),
    [
        ({}, ValueError, "empty mapping"),
        ({"conv9*": 0.5}, ValueError, "'conv9\\*' matches no layer in scope.*conv1.weight"),
        ({"conv*": 0.5, "conv1": 0.2}, ValueError, "'conv1' has no effect.*'conv\\*'; put it first"),
        ({"conv*": 1.0}, ValueError, r"sparsity\['conv\*'\] must be in \[0, 1\)"),
        ({"conv*": "much"}, TypeError, r"sparsity\['conv\*'\] must be a number"),
        ([0.5], ValueError, "one for the stem, one for each stage and one for the classifier"),
        ([0, 0.5, 0], ValueError, "1 stages and a classifier, and the names show 0 stages"),
        (1.5, ValueError, r"sparsity must be in \[0, 1\)"),
        ("2:4", ValueError, "N:M patterns are not supported"),
    ],
)
@pytest.mark.parametrize("method", [*METHODS, "magnitude"])
def test_wrong_ratios(method: str, sparsity: Any, error: type[Exception], said: str) -> None:
    model = OddNet()
    before = weights_of(model)
    with pytest.raises(error, match=said):
        sw.create(method, model, SGD(model.parameters(), lr=0.1), sparsity=sparsity, granularity="filter")
    assert all(torch.equal(before[name], value) for name, value in weights_of(model).items())


def test_a_number_that_reaches_no_layer_says_why() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"sparsity=0.5 reaches no layer: 0.weight is an output of the network"):
        sw.GReg1(model, SGD(model.parameters(), lr=0.1), sparsity=0.5, granularity="filter")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"granularity": "block"}, ValueError, "granularity must be one of 'weight', 'filter', 'channel'"),
        ({"reg_step": 0}, ValueError, "reg_step must be a finite number above 0"),
        ({"reg_step": 1e-12}, ValueError, "reg_step=1e-12 is too small"),
        ({"reg_interval": 0}, ValueError, "reg_interval must be at least 1"),
        ({"reg_limit": -1}, ValueError, "reg_limit must be in"),
        ({"magnitude_ratio_limit": float("inf")}, ValueError, "magnitude_ratio_limit"),
        ({"stabilize_steps": -1}, ValueError, "stabilize_steps must be at least 0"),
        ({"stabilize_steps": 2.5}, TypeError, "stabilize_steps must be an int"),
        ({"recover_penalty": -2}, ValueError, r"recover_penalty must be in \[-1, 1\]"),
        ({"recover_penalty": "low"}, TypeError, "recover_penalty must be a number"),
        ({"growing": False}, TypeError, "GReg2 has no use for the option 'growing'"),
        ({"prune_end": 3}, TypeError, "GReg2 has no use for the option 'prune_end'"),
        ({"total_steps": 5}, ValueError, r"total_steps=5 is less than the 23 steps that GReg2 may need"),
    ],
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], said: str) -> None:
    model = OddNet()
    with pytest.raises(error, match=said):
        sw.GReg2(model, SGD(model.parameters(), lr=0.1), sparsity=0.5, **{**quick("greg-2"), **options})


def test_more_total_steps_than_needed_are_allowed_and_hold_the_last_penalties() -> None:
    model, optimizer, sparsifier = odd("greg-1", total_steps=40)
    while not sparsifier.finished:
        train(model, optimizer, [sparsifier.step_count])
    penalties = {name: value.clone() for name, value in sparsifier.penalties.items()}
    train(model, optimizer, range(sparsifier.step_count, 40))
    assert all(torch.equal(penalties[name], value) for name, value in sparsifier.penalties.items())


# One-shot baselines.


@pytest.mark.parametrize("granularity", ["filter", "channel"])
@pytest.mark.parametrize("criterion", ["magnitude", "largest", "random"])
def test_magnitude_of_groups_by_each_criterion(criterion: str, granularity: str) -> None:
    model = stack({"conv": (10, 8, 3, 3)})
    weight = model.get_parameter("conv.weight").detach().clone()
    score = weight.abs().transpose(0, 0 if granularity == "filter" else 1).flatten(1).mean(dim=1)
    options = {"sparsity": {"conv": 0.45}, "granularity": granularity, "criterion": criterion}
    sparsifier = sw.Magnitude(model, SGD(model.parameters(), lr=0.1), **options)
    removed = sparsifier.pruned_groups["conv.weight"].tolist()
    number = math.ceil(0.45 * len(score))
    assert len(removed) == number
    if criterion == "magnitude":
        assert removed == sorted(score.argsort()[:number].tolist())
    elif criterion == "largest":
        assert removed == sorted(score.argsort(descending=True)[:number].tolist())
    else:
        sparsifier.detach()
        others = set()
        for seed in range(5):
            other = stack({"conv": (10, 8, 3, 3)})
            again = sw.Magnitude(other, SGD(other.parameters(), lr=0.1), seed=seed, **options)
            others.add(tuple(again.pruned_groups["conv.weight"].tolist()))
        assert tuple(removed) in others
        assert len(others) > 1


def test_magnitude_of_weights_with_ratios_per_layer() -> None:
    numbers = ratios_of(OddNet(), {"conv2": 0.301, "narrow": 0.5})
    assert numbers == {
        "conv1.weight": 0, "conv2.weight": math.ceil(0.301 * 315), "depthwise.weight": 0, "narrow.weight": 11,
        "fc.weight": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "option", [{"distribution": "erk"}, {"min_kept_per_layer": 3}, {"distribution": "erk", "dense_first_layer": True}]
)
def test_magnitude_refuses_to_share_where_each_layer_has_its_ratio(option: dict[str, Any]) -> None:
    model = OddNet()
    with pytest.raises(ValueError, match=r"each layer has its ratio|needs a distribution"):
        sw.Magnitude(model, SGD(model.parameters(), lr=0.1), sparsity={"conv*": 0.5}, granularity="filter", **option)


def test_masks_of_pruned_filters_hold_while_the_network_trains_on() -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sw.Magnitude(model, optimizer, sparsity={"conv2": 0.5}, granularity="filter")
    removed = sparsifier.pruned_groups["conv2.weight"]
    train(model, optimizer, range(5))
    assert not model.conv2.weight[removed].any()
    saved = sparsifier.state_dict()
    twin = OddNet(7)
    again = sw.Magnitude(twin, SGD(twin.parameters(), lr=0.1), sparsity={"conv2": 0.5}, granularity="filter")
    again.load_state_dict(saved)
    assert torch.equal(again.pruned_groups["conv2.weight"], removed)


def test_the_output_of_the_odd_network_is_finite_throughout() -> None:
    model, optimizer, sparsifier = odd("greg-2", granularity="filter")
    while not sparsifier.finished:
        train(model, optimizer, [sparsifier.step_count])
    sparsifier.finalize()
    assert model(odd_batch(0)[0]).isfinite().all()
