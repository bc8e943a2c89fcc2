"""GSM: which gradients pass, what moves the others, the exact prune at the end, and what is refused."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.utils._python_dispatch import TorchDispatchMode
from toys import OddNet, backward, budget, odd_batch, random_gradients, stack, train, weights_of

import sparsewright as sw
from sparsewright.demo import plan
from sparsewright.methods.fading import remaining_fraction
from sparsewright.methods.gsm import GradientError
from sparsewright.training import Recipe, list_recipes, load_recipe
from sparsewright.training import train as train_recipe
from sparsewright.training.fading import FadingWarning, warn_of_slow_fading

bounded = settings(max_examples=40, deadline=None, derandomize=True, database=None)
shape_lists = st.lists(st.lists(st.integers(1, 7), min_size=2, max_size=4).map(tuple), min_size=1, max_size=4)
sparsities = st.floats(0, 0.95)


def momentum_sgd(params: Any, **changes: Any) -> SGD:
    return SGD(params, **{"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2, **changes})


def named(shapes: list[tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"layer{index}": shape for index, shape in enumerate(shapes)}


def attach(model: nn.Module, optimizer: Any, sparsity: float = 0.7, total: int = 8, **options: Any) -> sw.GSM:
    return sw.GSM(model, optimizer, sparsity=sparsity, total_steps=total, **options)


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors.values()])


# Which gradients pass.


@bounded
@given(shape_lists, sparsities, st.integers(0, 1000))
def test_the_most_salient_gradients_of_all_layers_pass(
    shapes: list[tuple[int, ...]], sparsity: float, seed: int
) -> None:
    model = stack(named(shapes), seed)
    total = sum(math.prod(shape) for shape in shapes)
    active = int((1 - sparsity) * total)
    if active == 0:
        return
    optimizer = momentum_sgd(model.parameters())
    sparsifier = attach(model, optimizer, sparsity)
    random_gradients(model, seed)
    weights, gradients = (
        weights_of(model),
        {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None},
    )
    optimizer.step()
    score = flat(weights).mul(flat(gradients)).abs()
    expected = score >= score.sort(descending=True).values[active - 1]
    passed = flat({name: p.grad for name, p in sparsifier.parameters.items() if p.grad is not None})
    assert torch.equal(passed, flat(gradients) * expected)


def test_ties_at_the_threshold_all_pass() -> None:
    model = stack({"layer": (4, 5)})
    weight = model.get_parameter("layer.weight")
    with torch.no_grad():
        weight.fill_(1.0)
    optimizer = momentum_sgd(model.parameters())
    attach(model, optimizer, sparsity=0.5)
    weight.grad = torch.full_like(weight, 2.0)
    weight.grad[0] = 1.0
    optimizer.step()
    assert weight.grad[0].count_nonzero() == 0
    assert weight.grad[1:].count_nonzero() == 15


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_memory_layouts_make_no_difference(layout: torch.memory_format) -> None:
    results = []
    for form in (torch.contiguous_format, layout):
        model = OddNet().to(memory_format=form)
        optimizer = momentum_sgd(model.parameters())
        attach(model, optimizer)
        for step in range(3):
            random_gradients(model, step)
            for parameter in model.parameters():
                if parameter.dim() == 4 and step > 0:
                    parameter.grad = parameter.grad.contiguous(memory_format=form)
            optimizer.step()
        results.append(weights_of(model))
    assert all(torch.equal(results[0][name], value) for name, value in results[1].items())


def test_what_is_out_of_scope_trains_as_usual() -> None:
    results = []
    for sparse in (False, True):
        model = OddNet()
        optimizer = momentum_sgd(model.parameters())
        if sparse:
            attach(model, optimizer, exclude="fc.weight")
        random_gradients(model, 0)
        optimizer.step()
        results.append(weights_of(model))
    scoped = {"conv1.weight", "conv2.weight", "depthwise.weight", "narrow.weight"}
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]) == (name not in scoped), name


@bounded
@given(st.booleans(), st.floats(0.1, 0.99), st.floats(1e-4, 0.1), st.integers(0, 100))
def test_passive_weights_move_by_weight_decay_and_momentum_alone(
    nesterov: bool, momentum: float, decay: float, seed: int
) -> None:
    """The update rule of the paper, written out for every weight."""
    model = stack({"a": (6, 5), "b": (3, 4, 3, 3)}, seed)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=momentum, weight_decay=decay, nesterov=nesterov)
    attach(model, optimizer, sparsity=0.8)
    weights = flat(weights_of(model)).double()
    buffer = torch.zeros_like(weights)
    for step in range(4):
        random_gradients(model, seed + step)
        gradient = flat({n: p.grad for n, p in model.named_parameters() if p.grad is not None}).double()
        score = (flat(weights_of(model)) * gradient.float()).abs()
        gate = score >= score.sort(descending=True).values[int((1 - 0.8) * score.numel()) - 1]
        pull = gradient * gate + decay * weights
        buffer = pull.clone() if step == 0 else momentum * buffer + pull
        weights = weights - 0.1 * (pull + momentum * buffer if nesterov else buffer)
        optimizer.step()
        assert torch.allclose(flat(weights_of(model)).double(), weights, rtol=1e-4, atol=1e-6)


def test_a_passive_weight_comes_back_when_the_loss_needs_it() -> None:
    model = stack({"layer": (1, 10)})
    weight = model.get_parameter("layer.weight")
    with torch.no_grad():
        weight.copy_(torch.linspace(0.1, 1.0, 10).unsqueeze(0))
    optimizer = momentum_sgd(model.parameters(), momentum=0.5)
    attach(model, optimizer, sparsity=0.85, total=30)
    gradient = torch.full_like(weight, 1e-3)
    for _ in range(10):
        weight.grad = gradient.clone()
        optimizer.step()
        assert weight.grad.count_nonzero() == 1
        assert weight.grad[0, 9] != 0
    faded = float(weight.detach()[0, 0])
    assert 0 < faded < 0.1
    gradient[0, 0] = -1.0
    for _ in range(5):
        weight.grad = gradient.clone()
        optimizer.step()
        assert weight.grad[0, 0] != 0
    assert float(weight.detach()[0, 0]) > 0.1


def test_layers_without_gradient_wait() -> None:
    model = stack({"used": (10, 10), "unused": (10, 10)})
    optimizer = momentum_sgd(model.parameters())
    sparsifier = attach(model, optimizer, sparsity=0.75)
    before = weights_of(model)
    optimizer.step()
    assert sparsifier.step_count == 1
    used = model.get_parameter("used.weight")
    used.grad = torch.randn(10, 10)
    optimizer.step()
    assert used.grad.count_nonzero() == 50
    assert torch.equal(model.get_parameter("unused.weight"), before["unused.weight"])


def test_fewer_gradients_than_the_budget_all_pass() -> None:
    model = stack({"used": (2, 5), "unused": (10, 10)})
    optimizer = momentum_sgd(model.parameters())
    attach(model, optimizer, sparsity=0.5)
    used = model.get_parameter("used.weight")
    used.grad = torch.randn(2, 5)
    before = used.grad.clone()
    optimizer.step()
    assert torch.equal(used.grad, before)


# Several optimizers, closures, scalers, precisions.


def halves(model: nn.Module) -> list[Optimizer]:
    parameters = list(model.parameters())
    return [momentum_sgd(parameters[:4]), momentum_sgd(parameters[4:])]


@pytest.mark.parametrize("closure", [False, True])
def test_optimizers_that_step_together_share_one_threshold(closure: bool) -> None:
    model, single = OddNet(), OddNet()
    optimizers, optimizer = halves(model), momentum_sgd(single.parameters())
    attach(model, optimizers)
    attach(single, optimizer)
    for step in range(5):
        backward(single, step)
        optimizer.step()
        optimizer.zero_grad()
        if closure:
            # Each optimizer evaluates the loss anew; with the first half moved only the first call is comparable.
            optimizers[0].step(lambda step=step: backward(model, step))
            gated = sum(int(p.grad.count_nonzero()) for p in model.parameters() if p.grad is not None and p.dim() > 1)
            for item in optimizers:
                item.zero_grad()
            optimizers[1].step(lambda step=step: backward(model, step))
            again = sum(int(p.grad.count_nonzero()) for p in model.parameters() if p.grad is not None and p.dim() > 1)
            total = sum(p.numel() for p in model.parameters() if p.dim() > 1)
            assert gated == again == int((1 - 0.7) * total)
        else:
            backward(model, step)
            for item in optimizers:
                item.step()
        for item in optimizers:
            item.zero_grad()
    if not closure:
        assert all(torch.equal(value, weights_of(single)[name]) for name, value in weights_of(model).items())


@pytest.mark.parametrize("backwards", [1, 2, 3])
def test_gradients_made_between_two_optimizers_steps_are_gated_too(backwards: int) -> None:
    model = OddNet()
    optimizers = halves(model)
    attach(model, optimizers, sparsity=0.5)
    for number, item in enumerate(optimizers):
        for step in range(backwards + number):
            backward(model, step)
        item.step()
        passed = sum(int(p.grad.count_nonzero()) for p in model.parameters() if p.grad is not None and p.dim() > 1)
        assert passed == sum(p.numel() for p in model.parameters() if p.dim() > 1) // 2
        for other in optimizers:
            other.zero_grad()


def test_a_scaler_may_skip_one_of_several_optimizers() -> None:
    model = OddNet()
    optimizers = halves(model)
    sparsifier = attach(model, optimizers)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(6):
        x, y = odd_batch(step)
        scaler.scale(F.cross_entropy(model(x), y)).backward()
        if step in (2, 4):
            list(model.parameters())[0 if step == 2 else -2].grad.view(-1)[0] = torch.inf
        for item in optimizers:
            scaler.unscale_(item)
        before = weights_of(model)
        for item in optimizers:
            scaler.step(item)
            item.zero_grad()
        scaler.update()
        assert any(not torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert sparsifier.step_count == 4
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_changes_nothing(fused: bool) -> None:
    """Scales are powers of two and so exact; a step that it skips is no step."""
    results = []
    for scaled in (False, True):
        model = OddNet()
        optimizer = momentum_sgd(model.parameters(), fused=fused)
        sparsifier = attach(model, optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2, enabled=scaled)
        for step in range(8):
            optimizer.zero_grad()
            x, y = odd_batch(step)
            scaler.scale(F.cross_entropy(model(x), y)).backward()
            if scaled and step == 3:
                model.conv2.weight.grad[0, 0] = torch.inf
            if scaled or step != 3:
                scaler.step(optimizer)
                scaler.update()
        assert sparsifier.step_count == 7
        results.append(weights_of(model))
    assert all(torch.equal(results[0][name], value) for name, value in results[1].items())


@pytest.mark.parametrize("make", [lambda p: momentum_sgd(p), lambda p: AdamW(p), lambda p: Adam(p, weight_decay=0.1)])
def test_bf16_weights_and_other_optimizers(make: Any) -> None:
    model = OddNet().to(torch.bfloat16)
    optimizer = make(model.parameters())
    sparsifier = attach(model, optimizer)
    for step in range(8):
        optimizer.zero_grad()
        x, y = odd_batch(step)
        F.cross_entropy(model(x.to(torch.bfloat16)).float(), y).backward()
        optimizer.step()
    sparsifier.finalize()
    assert sparsifier.masks.kept() == budget(0.7, sparsifier.masks.total())


# The end.


@bounded
@given(shape_lists, sparsities, st.integers(0, 6), st.integers(0, 1000))
def test_promise_1_exact_gsm(shapes: list[tuple[int, ...]], sparsity: float, steps: int, seed: int) -> None:
    """At whatever step it is finalized: the largest magnitudes of all layers are kept, as many as promised."""
    model = stack(named(shapes), seed)
    total = sum(math.prod(shape) for shape in shapes)
    if int((1 - sparsity) * total) == 0:
        return
    optimizer = momentum_sgd(model.parameters())
    sparsifier = attach(model, optimizer, sparsity, total=6)
    for step in range(steps):
        random_gradients(model, step)
        optimizer.step()
    assert sparsifier.finished == (steps == 6)
    assert not sparsifier.masks
    assert sparsifier.sparsity() == 0.0
    before = weights_of(model)
    kept = budget(sparsity, total)
    magnitudes = flat(before).abs().sort(descending=True).values
    if any(bool((value.abs() < magnitudes[kept - 1]).all()) for value in before.values()):
        with pytest.warns(UserWarning, match="pruned every weight of"):
            sparsifier.finalize()
    else:
        sparsifier.finalize()
    assert sparsifier.masks.kept() == kept
    assert sparsifier.sparsity() == (total - kept) / total
    for name, parameter in model.named_parameters():
        mask = sparsifier.masks[name]
        assert torch.equal(parameter, before[name] * mask)
        assert bool((before[name].abs()[mask] >= magnitudes[kept - 1]).all())
        for value in optimizer.state[parameter].values():
            assert not torch.is_tensor(value) or not value[~mask].count_nonzero()


def test_finalize_leaves_a_plain_model_and_does_nothing_twice() -> None:
    model = OddNet()
    optimizer = momentum_sgd(model.parameters())
    sparsifier = attach(model, optimizer)
    train(model, optimizer, range(8))
    sparsifier.finalize()
    masks = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    train(model, optimizer, range(2))
    assert sparsifier.step_count == 8
    assert all(bool(p.grad.all()) for p in model.parameters() if p.grad is not None and p.dim() > 1)
    sparsifier.finalize()
    assert all(torch.equal(mask, masks[name]) for name, mask in sparsifier.masks.items())
    assert (model.conv2.weight != 0).all()


@pytest.mark.parametrize(
    ("passive", "advice"),
    [(1e-4, "leave it out with exclude, or"), (0.5, "not faded by step 0, so train longer, with a momentum of 0.98")],
)
def test_an_emptied_layer_is_named_with_advice_that_fits(passive: float, advice: str) -> None:
    model = stack({"tiny": (1, 2), "big": (50, 40)})
    with torch.no_grad():
        model.get_parameter("tiny.weight").fill_(1e-6)
        model.get_parameter("big.weight").fill_(passive)[:20] = 1.0
    sparsifier = attach(model, momentum_sgd(model.parameters()))
    with pytest.warns(UserWarning, match=rf"every weight of tiny\.weight, .* through: .*{advice}"):
        sparsifier.finalize()
    assert sparsifier.masks.kept() == budget(0.7, 2002)


def test_sparsity_counts_exact_zeros_until_the_prune() -> None:
    model = stack({"layer": (10, 10)})
    with torch.no_grad():
        model.get_parameter("layer.weight")[:3] = 0
    sparsifier = attach(model, momentum_sgd(model.parameters()), sparsity=0.9)
    assert sparsifier.sparsity() == 0.3
    assert sparsifier.layer_sparsity() == {"layer.weight": pytest.approx(0.3)}
    sparsifier.finalize()
    assert sparsifier.sparsity() == 0.9


# How far passive weights fade.


@bounded
@given(
    st.lists(st.floats(1e-4, 0.5), max_size=12),
    st.floats(0, 1),
    st.just(0.0) | st.floats(0, 0.99),
    st.sampled_from([(0.0, False), (0.0, True), (0.4, False)]),
)
def test_the_remaining_fraction_is_what_sgd_leaves(
    rates: list[float], decay: float, momentum: float, kind: tuple[float, bool]
) -> None:
    dampening, nesterov = kind[0], kind[1] and momentum > 0
    weight = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = SGD([weight], momentum=momentum, dampening=dampening, weight_decay=decay, nesterov=nesterov)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    expected = remaining_fraction(rates, decay, momentum, dampening, nesterov)
    assert weight.item() / 2 == pytest.approx(expected, rel=1e-9, abs=1e-12)


@bounded
@given(st.floats(0.5, 0.99), st.floats(0.5, 8), st.booleans())
def test_slow_fading_is_exponential_in_what_the_card_says(momentum: float, exponent: float, nesterov: bool) -> None:
    steps = math.ceil(200 * exponent / (1 - momentum))
    rate = exponent * (1 - momentum) / steps
    assert remaining_fraction([rate] * steps, 1.0, momentum, nesterov=nesterov) == pytest.approx(
        math.exp(-exponent), rel=0.05
    )


STEPS_PER_EPOCH = {"digits": 23, "mnist": 235, "cifar10": 782, "imagefolder": 5005}


def weak(*overrides: str) -> Recipe:
    alone = "stages=[{kind: train}]"
    return load_recipe("digits/lenet300", ["duration=2ep", "method=gsm", "sparsity=0.5", alone, *overrides])


def steps_per_epoch(recipe: Recipe) -> int:
    return next(steps for name, steps in STEPS_PER_EPOCH.items() if recipe.data.name.startswith(name))


@pytest.mark.parametrize("name", [info.name for info in list_recipes() if "gsm" in info.name])
def test_shipped_recipes_give_passive_weights_the_time_to_fade(name: str) -> None:
    recipe = load_recipe(name)
    warn_of_slow_fading(recipe, steps_per_epoch(recipe))
    shortened = load_recipe(name, ["stages.1.duration=1ep", "stages.1.schedule=constant"])
    with pytest.warns(FadingWarning, match="passive weights will keep"):
        warn_of_slow_fading(shortened, steps_per_epoch(shortened))


def test_the_demo_gives_passive_weights_the_time_to_fade() -> None:
    for run in plan(["gsm"]):
        warn_of_slow_fading(run.recipe, STEPS_PER_EPOCH["digits"])


def test_weights_that_will_not_fade_are_told_with_figures_and_a_remedy() -> None:
    expected = r"keep 9\d % of their size over its 46 steps, .* comes to 0\.01\d? in sum, .* 0\.98 or more \(now 0\.9\)"
    with pytest.warns(FadingWarning, match=expected):
        warn_of_slow_fading(weak(), 23)
    # GSM itself tells this when it is made, and a run that diverges ends with an error.
    for silent in ("optimizer.weight_decay=0", "optimizer.lr=1e20", "method=set"):
        warn_of_slow_fading(weak(silent), 23)


def test_dampening_without_momentum_changes_nothing_that_is_told() -> None:
    def told(dampening: float) -> str:
        with pytest.warns(FadingWarning) as caught:
            warn_of_slow_fading(weak("optimizer.momentum=0", f"optimizer.dampening={dampening}"), 23)
        return str(caught[0].message)

    assert told(0.0) == told(0.5)


def test_other_optimizers_are_told_to_be_beyond_the_rule() -> None:
    with pytest.warns(FadingWarning, match="made for sgd .* cannot be told for optimizer adamw"):
        warn_of_slow_fading(weak("optimizer=adamw", "optimizer.lr=1e-3"), 23)


def test_the_trainer_tells_it_once_before_it_trains(tmp_path: Path) -> None:
    stages = "stages=[{name: base, method: dense}, {name: search}]"
    with warnings.catch_warnings():
        warnings.simplefilter("error", FadingWarning)
        with pytest.raises(FadingWarning, match="over its 46 steps"):
            train_recipe(weak(stages), out=tmp_path / "run", device="cpu", quiet=True)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    with pytest.warns(FadingWarning) as caught:
        train_recipe(weak(), out=tmp_path / "run", device="cpu", quiet=True)
    assert len(caught) == 1


# Promise 5.


class Recorder(TorchDispatchMode):
    """Counts operators."""

    def __init__(self) -> None:
        super().__init__()
        self.operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators += 1
        return func(*args, **(kwargs or {}))


def test_promise_5_gsm_keeps_nothing_and_adds_a_bounded_number_of_operators() -> None:
    counts = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 8))
        optimizer = momentum_sgd(model.parameters(), foreach=False)
        if sparse:
            sparsifier = attach(model, optimizer, 0.9)
            assert not sparsifier.masks
            assert not any(isinstance(value, Tensor) for value in vars(sparsifier).values())
        for _ in range(3):
            model(torch.randn(16, 64)).square().mean().backward()
            with Recorder() as recorder:
                optimizer.step()
        counts.append(recorder.operators)
    # One look at the sums, a sample, a pass for the threshold and one for the gates; all of so small a network at once.
    assert 0 < counts[1] - counts[0] <= 200


# What is refused.


def test_a_budget_that_keeps_no_weight_is_refused() -> None:
    model = stack({"layer": (3, 3)})
    before = weights_of(model)
    with pytest.raises(ValueError, match=r"sparsity=0\.95.*0 of 9"):
        attach(model, momentum_sgd(model.parameters()), sparsity=0.95)
    assert torch.equal(model.get_parameter("layer.weight"), before["layer.weight"])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_gradient_that_is_not_finite_is_named_and_nothing_moves(bad: float) -> None:
    model = OddNet()
    optimizer = momentum_sgd(model.parameters())
    sparsifier = attach(model, optimizer)
    train(model, optimizer, range(2))
    random_gradients(model, 0)
    model.narrow.weight.grad[1, 2] = bad
    before = weights_of(model)
    buffers = {key: entry["momentum_buffer"].clone() for key, entry in optimizer.state.items()}
    with pytest.raises(GradientError, match=r"narrow\.weight is not finite at step 3"):
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert all(torch.equal(entry["momentum_buffer"], buffers[key]) for key, entry in optimizer.state.items())
    assert sparsifier.step_count == 2
    random_gradients(model, 1)
    optimizer.step()
    assert sparsifier.step_count == 3


def test_weights_that_are_not_finite_are_named() -> None:
    model = stack({"one": (4, 4), "two": (4, 4)})
    optimizer = momentum_sgd(model.parameters())
    attach(model, optimizer)
    random_gradients(model, 0)
    with torch.no_grad():
        model.get_parameter("two.weight").fill_(torch.inf)
    with pytest.raises(GradientError, match=r"two\.weight is not finite"):
        optimizer.step()


def test_sparse_gradients_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Embedding(10, 4, sparse=True), nn.Linear(4, 2))
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    with pytest.warns(UserWarning, match="weight decay"):
        attach(model, optimizer, include="*.weight")
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(TypeError, match=r"0\.weight is sparse"):
        optimizer.step()


def test_huge_gradients_are_finite_all_the_same() -> None:
    model = stack({"layer": (10, 10)})
    optimizer = momentum_sgd(model.parameters(), lr=1e-38)
    attach(model, optimizer)
    weight = model.get_parameter("layer.weight")
    weight.grad = torch.full_like(weight, 3e38)
    optimizer.step()
    assert weight.grad.count_nonzero() == 30


def test_gradients_that_are_all_zero_are_refused() -> None:
    model = stack({"one": (4, 4), "two": (4, 4)})
    optimizer = momentum_sgd(model.parameters())
    attach(model, optimizer)
    before = weights_of(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with pytest.raises(GradientError, match=r"one\.weight, two\.weight"):
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_a_layer_whose_gradients_are_zero_is_no_error() -> None:
    model = stack({"one": (4, 4), "two": (4, 4)})
    optimizer = momentum_sgd(model.parameters())
    attach(model, optimizer, sparsity=0.3)
    random_gradients(model, 0)
    model.get_parameter("one.weight").grad = torch.zeros(4, 4)
    optimizer.step()
    assert model.get_parameter("two.weight").grad.count_nonzero() == 16


def test_an_optimizer_without_momentum_gets_a_warning() -> None:
    for make in (lambda p: SGD(p, lr=0.1, weight_decay=0.1), lambda p: RMSprop(p, weight_decay=0.1)):
        model = OddNet()
        with pytest.warns(UserWarning, match="momentum"):
            attach(model, make(model.parameters()))


def test_an_optimizer_without_weight_decay_gets_a_warning_that_names_the_weights() -> None:
    model = OddNet()
    groups = [
        {"params": [p for n, p in model.named_parameters() if n != "fc.weight"], "weight_decay": 1e-4},
        {"params": [model.fc.weight]},
    ]
    with pytest.warns(UserWarning, match=r"weight decay.*fc\.weight") as caught:
        attach(model, momentum_sgd(groups, weight_decay=0.0))
    assert len(caught) == 1
    assert "conv1" not in str(caught[0].message)


def test_the_paper_s_optimizers_get_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    for nesterov in (False, True):
        model = OddNet()
        weights = [p for n, p in model.named_parameters() if n.endswith("weight")]
        biases = [p for n, p in model.named_parameters() if not n.endswith("weight")]
        groups = [{"params": weights}, {"params": biases, "weight_decay": 0.0}]
        attach(model, momentum_sgd(groups, momentum=0.98, nesterov=nesterov))
    assert not recwarn.list


@pytest.mark.parametrize("option", ["distribution", "initial_sparsity", "min_kept_per_layer", "update_interval"])
def test_gsm_has_no_options_of_its_own(option: str) -> None:
    model = OddNet()
    with pytest.raises(TypeError, match=option):
        attach(model, momentum_sgd(model.parameters()), **{option: 1})
