"""RPG: what its growth score is made of, when it is computed, its schedule, and what it refuses or warns of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

import sparsewright as sw
from sparsewright import low_rank
from sparsewright.methods import rpg

INTERVAL = 5
TOTAL = 50


class Net(nn.Module):
    """Two convolutions and a linear layer; input (batch, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.conv2 = nn.Conv2d(8, 12, 3)
        self.fc = nn.Linear(12 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv2(torch.relu(self.conv1(x))).relu()
        return self.fc(hidden.flatten(1))


def made(**options: Any) -> tuple[Net, SGD, sw.RPG]:
    model = Net()
    optimizer = SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)
    options = {"sparsity": 0.9, "total_steps": TOTAL, "update_interval": INTERVAL, **options}
    return model, optimizer, sw.RPG(model, optimizer, **options)


def backward(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    images, labels = torch.randn(16, 3, 8, 8, generator=generator), torch.randint(0, 5, (16,), generator=generator)
    model.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        backward(model, step)
        optimizer.step()


def counted_decompositions(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    calls: list[list[str]] = []

    def count(weights: dict[str, Tensor], energy: float) -> Any:
        if weights:
            calls.append(list(weights))
        return low_rank.rank_losses(weights, energy)

    monkeypatch.setattr(rpg, "rank_losses", count)
    return calls


def test_the_growth_score_is_the_gradient_of_task_loss_and_mean_rank_loss() -> None:
    model, optimizer, sparsifier = made(rank_weight=0.7, residual_energy=0.3)
    train(model, optimizer, range(2 * INTERVAL + 2))
    backward(model, 99)
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    loss = sum(0.7 / 2 * sw.rank_loss(layer.weight, 0.3)[0] for layer in (model.conv1, model.conv2))
    assert isinstance(loss, Tensor)
    loss.backward()
    expected = {name: p.grad.abs() for name, p in model.named_parameters() if p.grad is not None}
    for name, parameter in model.named_parameters():
        parameter.grad = grads[name]
    scores = sparsifier._score_gradients(list(sparsifier.parameters), None)
    for name, score in scores.items():
        assert torch.allclose(score, expected[name], rtol=1e-4, atol=1e-7), name
    assert not torch.allclose(scores["conv2.weight"], grads["conv2.weight"].abs(), rtol=1e-2)
    assert torch.equal(scores["fc.weight"], grads["fc.weight"].abs())


def test_without_rank_weight_growth_is_by_the_task_gradient_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted_decompositions(monkeypatch)
    model, optimizer, _ = made(rank_weight=0)
    train(model, optimizer, range(TOTAL))
    assert calls == []


def test_the_rank_loss_changes_what_grows() -> None:
    masks = []
    for weight in (0.0, 5.0):
        model, optimizer, sparsifier = made(rank_weight=weight)
        train(model, optimizer, range(TOTAL))
        masks.append({name: mask.clone() for name, mask in sparsifier.masks.items()})
        assert sparsifier.masks.kept() == round(0.1 * sparsifier.masks.total())
    assert not torch.equal(masks[0]["conv2.weight"], masks[1]["conv2.weight"])


@pytest.mark.parametrize("growth_steps", [1, 3])
def test_decompositions_come_on_the_last_steps_before_an_update_only(
    monkeypatch: pytest.MonkeyPatch, growth_steps: int
) -> None:
    calls = counted_decompositions(monkeypatch)
    model, optimizer, sparsifier = made(growth_steps=growth_steps, update_end=0.8, prune_end=0.7)
    steps = []
    for step in range(TOTAL):
        before = len(calls)
        train(model, optimizer, range(step, step + 1))
        if len(calls) > before:
            steps.append(sparsifier.step_count)
    due = range(INTERVAL, 40 + 1, INTERVAL)
    assert steps == [update - back for update in due for back in reversed(range(growth_steps))]


def captured_scores(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    captured: list[dict[str, Tensor]] = []
    score_gradients = sw.RPG._score_gradients

    def capture(self: sw.RPG, names: Any, step: int | None) -> dict[str, Tensor]:
        captured.append(score_gradients(self, names, step))
        return captured[-1]

    monkeypatch.setattr(sw.RPG, "_score_gradients", capture)
    return captured


def gradient_of(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.clone()


def assert_mean(score: Tensor, gradients: list[Tensor]) -> None:
    assert torch.allclose(score, (sum(gradients, torch.zeros(())) / len(gradients)).abs(), rtol=1e-5, atol=1e-8)


def test_growth_steps_average_the_gradients_of_the_last_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = captured_scores(monkeypatch)
    model, optimizer, _ = made(growth_steps=3, rank_weight=0)
    gradients = []
    for step in range(2 * INTERVAL):
        backward(model, step)
        gradients.append(gradient_of(model.conv1.weight))
        optimizer.step()
    for update, scores in zip((INTERVAL, 2 * INTERVAL), captured, strict=True):
        assert_mean(scores["conv1.weight"], gradients[update - 3 : update])


def test_a_closure_that_is_evaluated_twice_counts_with_its_last_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twice(SGD):
        def step(self, closure: Any = None) -> Any:  # type: ignore[override]
            with torch.enable_grad():
                closure()
                loss = closure()
            super().step()
            return loss

    captured = captured_scores(monkeypatch)
    model = Net()
    optimizer = Twice(model.parameters(), lr=0.02)
    sw.RPG(
        model,
        optimizer,
        sparsity=0.5,
        total_steps=TOTAL,
        update_interval=INTERVAL,
        growth_steps=3,
        rank_weight=0,
        update_replaces_step=False,
    )
    gradients: list[Tensor] = []
    for step in range(INTERVAL):
        seeds = iter((100 + step, step))

        def closure(seeds: Any = seeds) -> Tensor:
            backward(model, next(seeds))
            gradients.append(gradient_of(model.conv1.weight))
            return torch.zeros(())

        optimizer.step(closure)
    second = gradients[1::2]
    assert_mean(captured[-1]["conv1.weight"], second[INTERVAL - 3 :])


def test_a_repeated_round_of_two_optimizers_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a gradient scaler that skipped one of them: the other steps again, in the same round."""
    captured = captured_scores(monkeypatch)
    model = Net()
    first = SGD(model.conv1.parameters(), lr=0.0)
    second = SGD([*model.conv2.parameters(), *model.fc.parameters()], lr=0.0)
    options = {"sparsity": 0.5, "total_steps": TOTAL, "update_interval": INTERVAL, "rank_weight": 0}
    sparsifier = sw.RPG(model, [first, second], growth_steps=3, **options)
    train(model, first, range(0))
    gradients = []
    for step in range(INTERVAL):
        if step == INTERVAL - 2:
            backward(model, 1000)
            first.step()
        backward(model, step)
        gradients.append(gradient_of(model.conv1.weight))
        first.step()
        second.step()
    assert sparsifier.step_count == INTERVAL
    (scores,) = [scores for scores in captured if "conv1.weight" in scores]
    assert_mean(scores["conv1.weight"], gradients[INTERVAL - 3 :])


def test_gradients_are_forgotten_at_the_update_even_where_a_layer_has_none_then() -> None:
    model, optimizer, sparsifier = made(growth_steps=3)
    train(model, optimizer, range(INTERVAL - 1))
    assert sparsifier.state_dict()["collected"]["conv2.weight"]["steps"] == 2
    backward(model, INTERVAL)
    model.conv2.weight.grad = None
    optimizer.step()
    assert sparsifier.state_dict()["collected"] == {}


def test_the_rank_loss_never_reaches_the_optimizer() -> None:
    """Up to the first exchange RPG trains as plain SGD does, whatever the weight of the rank loss."""
    weights = []
    for weight in (0.0, 100.0):
        model, optimizer, _ = made(rank_weight=weight, growth_steps=4)
        train(model, optimizer, range(2 * INTERVAL - 1))
        weights.append(model.conv2.weight.detach().clone())
    assert torch.equal(*weights)


def test_an_update_replaces_the_optimizer_step() -> None:
    model, optimizer, _ = made()
    for step in range(3 * INTERVAL):
        bias = model.fc.bias.detach().clone()
        train(model, optimizer, range(step, step + 1))
        assert torch.equal(bias, model.fc.bias) == ((step + 1) % INTERVAL == 0)


def test_layers_that_have_a_rank_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted_decompositions(monkeypatch)
    model, optimizer, _ = made()
    train(model, optimizer, range(INTERVAL))
    model, optimizer, _ = made(rank_linear_layers=True)
    train(model, optimizer, range(INTERVAL))
    model, optimizer, _ = made(rank_linear_layers=True)
    train(model, optimizer, range(INTERVAL - 1))
    with torch.no_grad():
        model.conv1.weight.zero_()
    train(model, optimizer, range(INTERVAL - 1, INTERVAL))
    convolutions = ["conv1.weight", "conv2.weight"]
    assert calls == [convolutions, [*convolutions, "fc.weight"], ["conv2.weight", "fc.weight"]]


def test_layers_below_the_least_sparsity_have_no_rank_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted_decompositions(monkeypatch)
    model, optimizer, sparsifier = made(min_layer_sparsity=0.5, rank_linear_layers=True)
    for step in range(TOTAL):
        enough = [name for name, value in sparsifier.layer_sparsity().items() if value >= 0.5]
        before = len(calls)
        train(model, optimizer, range(step, step + 1))
        if (step + 1) % INTERVAL == 0 and step + 1 <= 45:
            assert calls[before:] == ([enough] if enough else [])
    assert calls


def test_a_weight_that_cannot_be_decomposed_is_skipped_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    decompose = low_rank.rank_losses

    def fail(weights: dict[str, Tensor], energy: float) -> Any:
        return [(name, loss) for name, loss in decompose(weights, energy) if name != "conv2.weight"]

    monkeypatch.setattr(rpg, "rank_losses", fail)
    model, optimizer, sparsifier = made()
    train(model, optimizer, range(INTERVAL - 1))
    with pytest.warns(UserWarning, match=r"singular values of conv2\.weight .* after step 4"):
        train(model, optimizer, range(INTERVAL - 1, INTERVAL))
    assert sparsifier.step_count == INTERVAL


def test_density_falls_by_the_same_factor_and_ends_exactly() -> None:
    model, optimizer, sparsifier = made(prune_end=0.6, update_end=0.9)
    kept = {}
    for step in range(TOTAL):
        train(model, optimizer, range(step, step + 1))
        kept[step + 1] = sparsifier.masks.kept()
    total = sparsifier.masks.total()
    for update in range(INTERVAL, TOTAL, INTERVAL):
        progress = min((update // INTERVAL - 1) / (30 // INTERVAL), 1.0)
        assert kept[update] == round(0.1**progress * total)
    assert kept[TOTAL] == round(0.1 * total)


@pytest.mark.parametrize("total", [10, 14, 23, 50, 101])
@pytest.mark.parametrize("moments", [(0.9, 0.901), (0.5, 0.9), (1.0, 1.0), (0.8, 0.8), (0.3, 0.4)])
def test_the_final_density_is_reached_in_short_runs(total: int, moments: tuple[float, float]) -> None:
    prune_end, update_end = moments
    options: dict[str, Any] = {"total_steps": total, "prune_end": prune_end, "update_end": update_end}
    if int(prune_end * total) < INTERVAL:
        with pytest.raises(ValueError, match="no topology update is due in the pruning window"):
            made(**options)
        return
    model, optimizer, sparsifier = made(**options)
    train(model, optimizer, range(total))
    assert sparsifier.finished
    assert sparsifier.masks.kept() == round(0.1 * sparsifier.masks.total())


def test_a_late_start_shifts_the_ramp() -> None:
    _, _, sparsifier = made(prune_start=20, prune_end=40, update_end=50)
    densities = [1 - sparsifier.scheduled_sparsity(step) for step in (20, 25, 30, 35, 40)]
    assert densities == pytest.approx([0.1 ** (index / 4) for index in range(5)])
    _, _, sparsifier = made(prune_start=20, prune_end=24, update_end=50)
    assert [sparsifier.scheduled_sparsity(step) for step in (0, 19, 20, 25)] == [0, 0, 0.9, 0.9]
    model, optimizer, sparsifier = made(prune_start=20, prune_end=40, update_end=50)
    train(model, optimizer, range(19))
    assert sparsifier.sparsity() == 0
    train(model, optimizer, range(19, 50))
    assert sparsifier.masks.kept() == round(0.1 * sparsifier.masks.total())


def test_weights_that_the_ramp_prunes_and_the_update_regrows_restart_at_zero_with_their_momentum() -> None:
    model, optimizer, sparsifier = made(update_end=1.0)
    regrown = 0
    for step in range(TOTAL - INTERVAL):
        before = {name: parameter.detach().clone() for name, parameter in sparsifier.parameters.items()}
        kept = {name: mask.clone() for name, mask in sparsifier.masks.items()}
        train(model, optimizer, range(step, step + 1))
        for name, parameter in sparsifier.parameters.items():
            momentum = optimizer.state[parameter]["momentum_buffer"]
            assert not momentum[~sparsifier.masks[name]].any()
            restarted = sparsifier.masks[name] & kept[name] & (before[name] != 0) & (parameter == 0)
            regrown += int(restarted.sum())
            assert momentum[restarted].all(), name
            grown = sparsifier.masks[name] & ~kept[name]
            assert not momentum[grown].any()
    assert regrown > 0


def test_update_topology_works_at_any_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """It prunes to the sparsity of the last scheduled step, grows by the gradients in place, and disturbs no mean."""
    captured = captured_scores(monkeypatch)
    model, optimizer, sparsifier = made(growth_steps=3, rank_weight=0)
    gradients = []
    for step in range(3 * INTERVAL - 1):
        backward(model, step)
        gradients.append(gradient_of(model.conv1.weight))
        optimizer.step()
    backward(model, 99)
    before, version = {name: mask.clone() for name, mask in sparsifier.masks.items()}, sparsifier.topology_version
    sparsifier.update_topology()
    assert_mean(captured[-1]["conv1.weight"], [gradient_of(model.conv1.weight)])
    total = sparsifier.masks.total()
    assert sparsifier.masks.kept() == round(0.1 ** (1 / 9) * total)
    assert sparsifier.topology_version > version
    assert any(not torch.equal(mask, before[name]) for name, mask in sparsifier.masks.items())
    backward(model, 3 * INTERVAL)
    gradients.append(gradient_of(model.conv1.weight))
    optimizer.step()
    assert_mean(captured[-1]["conv1.weight"], gradients[-3:])
    train(model, optimizer, range(3 * INTERVAL, TOTAL))
    assert sparsifier.masks.kept() == round(0.1 * total)


def test_scores_do_not_depend_on_the_scale_of_a_fused_optimizer() -> None:
    """Where gradients still carry a scaler's factor, the rank loss is weighed as without one."""
    scores = []
    for scale in (1.0, 1024.0):
        model, optimizer, sparsifier = made(rank_weight=1)
        train(model, optimizer, range(2 * INTERVAL))
        backward(model, 77)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad *= scale
        optimizer.grad_scale = torch.tensor(scale)  # type: ignore[attr-defined]
        scores.append(sparsifier._score_gradients(list(sparsifier.parameters), None))
    for name in scores[0]:
        assert torch.allclose(scores[0][name], scores[1][name], rtol=1e-5)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"sum": torch.zeros(2, 2), "steps": 2}, r"conv1\.weight"),
        ({"sum": torch.zeros(8, 3, 3, 3)}, r"conv1\.weight.* lacks its number of steps"),
        (torch.zeros(8, 3, 3, 3), r"conv1\.weight"),
        (None, "a mapping is expected, not NoneType"),
    ],
    ids=["shape", "steps", "tensor", "missing"],
)
def test_saved_sums_must_fit(entry: Any, words: str) -> None:
    model, optimizer, sparsifier = made(growth_steps=3)
    train(model, optimizer, range(INTERVAL - 1))
    state = sparsifier.state_dict()
    assert state["collected"]["conv1.weight"]["steps"] == 2
    damaged = {**state, "collected": None if entry is None else {**state["collected"], "conv1.weight": entry}}
    masks = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    with pytest.raises(ValueError, match=words):
        sparsifier.load_state_dict(damaged)
    assert all(torch.equal(mask, masks[name]) for name, mask in sparsifier.masks.items())
    sparsifier.load_state_dict(state)
    assert sparsifier.state_dict()["collected"]["conv1.weight"]["steps"] == 2


def test_options_of_the_rank_loss_without_a_layer_that_has_one_get_a_warning() -> None:
    model = nn.Sequential(nn.Linear(10, 8), nn.Linear(8, 4))
    for options in ({"rank_weight": 3}, {"residual_energy": 0.1}):
        with pytest.warns(UserWarning, match=r"has no effect.*rank_linear_layers=True"):
            sw.RPG(model, SGD(model.parameters()), sparsity=0.5, total_steps=500, **options).detach()
    for options in ({}, {"rank_weight": 0}, {"rank_weight": 3, "rank_linear_layers": True}):
        sw.RPG(model, SGD(model.parameters()), sparsity=0.5, total_steps=500, **options).detach()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank_weight": -1}, "rank_weight"),
        ({"rank_weight": float("inf")}, "rank_weight"),
        ({"residual_energy": 1.1}, "residual_energy"),
        ({"growth_steps": 0}, "growth_steps"),
        ({"growth_steps": INTERVAL + 1}, "growth_steps=6 is more than the update_interval=5"),
        ({"min_layer_sparsity": 2}, "min_layer_sparsity"),
        ({"grow": "random", "residual_energy": 0.0}, "residual_energy=0.0 is only used by grow='gradient'"),
        ({"grow": "random", "rank_weight": 1}, "rank_weight=1 is only used by grow='gradient'"),
        ({"prune_end": 2}, "no topology update is due"),
    ],
)
def test_values_that_are_not_allowed(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        made(**options)


@pytest.mark.parametrize("option", ["initial_sparsity", "initial_distribution", "rank_layers"])
def test_options_that_it_does_not_have(option: str) -> None:
    with pytest.raises(TypeError, match=option):
        made(**{option: 0.5})


def test_rank_linear_layers_must_be_a_bool() -> None:
    with pytest.raises(TypeError, match="rank_linear_layers"):
        made(rank_linear_layers=1)


def test_an_adaptive_optimizer_beside_the_update_step() -> None:
    model = Net()
    optimizer = Adam(model.parameters(), lr=1e-3)
    sparsifier = sw.RPG(model, optimizer, sparsity=0.8, total_steps=TOTAL, update_interval=INTERVAL)
    train(model, optimizer, range(TOTAL))
    sparsifier.finalize()
    assert sparsifier.masks.kept() == round(0.2 * sparsifier.masks.total())
