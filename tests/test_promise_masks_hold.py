"""Promise 2: masks hold after every step, whatever the optimizer and whatever surrounds it."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from toys import (
    METHODS,
    OPTIMIZERS,
    TOTAL,
    OddNet,
    assert_masks_hold,
    attach,
    backward,
    budget,
    odd_batch,
    random_gradients,
    stack,
    unmasked,
)

import sparsewright as sw


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_promise_2_masks_hold(method: str, name: str) -> None:
    model = OddNet()
    optimizer = OPTIMIZERS[name](model.parameters())
    sparsifier = attach(method, model, optimizer)
    assert_masks_hold(model, [], sparsifier.masks)
    for step in range(TOTAL):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        assert_masks_hold(model, optimizer, sparsifier.masks, unmasked(method))
    total = sum(mask.numel() for mask in sparsifier.masks.values())
    assert sparsifier.masks.kept() == budget(0.7, total)
    # The promise is empty if the rest does not train.
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    untouched = OddNet()
    assert not torch.equal(model.fc.bias, untouched.fc.bias)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.sampled_from(METHODS),
    st.sampled_from(sorted(OPTIMIZERS)),
    st.floats(0.0, 0.999),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 11)), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(0, 2**16),
)
def test_masks_hold_for_any_shape_and_absent_gradients(
    method: str, name: str, sparsity: float, shapes: list[tuple[int, int]], interval: int, pattern: int
) -> None:
    model = stack({f"layer{index}": shape for index, shape in enumerate(shapes)})
    optimizer = OPTIMIZERS[name](model.parameters())
    sparsifier = attach(method, model, optimizer, sparsity, min_kept_per_layer=0, update_interval=interval)
    parameters = list(model.parameters())
    for step in range(TOTAL):
        random_gradients(model, step)
        if pattern >> step & 1:
            parameters[step % len(parameters)].grad = None
        optimizer.step()
        assert_masks_hold(model, optimizer, sparsifier.masks, unmasked(method))
    assert sparsifier.masks.kept() == budget(sparsity, sum(parameter.numel() for parameter in parameters))


@pytest.mark.parametrize("method", ["granet", "rigl", "set", "snfs", "static"])
def test_gradient_clipping_and_accumulation(method: str) -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    sparsifier = attach(method, model, optimizer)
    for step in range(TOTAL):
        optimizer.zero_grad()
        for part in range(3):
            backward(model, 3 * step + part)
            assert_masks_hold(model, optimizer, sparsifier.masks, unmasked(method))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        assert_masks_hold(model, optimizer, sparsifier.masks, unmasked(method))
    assert sparsifier.step_count == TOTAL


def test_frozen_weights_included_by_name_stay_masked() -> None:
    model = OddNet()
    model.conv2.weight.requires_grad_(False)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sw.GraNet(
        model, optimizer, sparsity=0.8, total_steps=TOTAL, update_interval=2, include=["conv2.weight", "narrow.weight"]
    )
    for step in range(TOTAL):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        assert_masks_hold(model, optimizer, sparsifier.masks)
    assert list(sparsifier.masks) == ["conv2.weight", "narrow.weight"]
    assert sparsifier.masks.kept() == budget(0.8, model.conv2.weight.numel() + model.narrow.weight.numel())


class Tied(nn.Module):
    """Encoder and decoder share one square matrix."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(9, 9)
        self.decoder = nn.Linear(9, 9, bias=False)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.encoder(x)))


@pytest.mark.parametrize("method", ["granet", "rigl", "set", "snfs", "gmp"])
def test_tied_weights(method: str) -> None:
    model = Tied()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = attach(method, model, optimizer)
    assert list(sparsifier.masks) == ["encoder.weight"]
    for step in range(TOTAL):
        optimizer.zero_grad()
        x = torch.randn(6, 9, generator=torch.Generator().manual_seed(step))
        F.mse_loss(model(x), x).backward()
        optimizer.step()
        assert_masks_hold(model, optimizer, sparsifier.masks, unmasked(method))
        assert model.decoder.weight is model.encoder.weight
    assert sparsifier.masks.kept() == budget(0.7, 81)


@pytest.mark.parametrize("method", ["granet", "rigl", "static"])
def test_a_deep_copy_is_a_plain_sparse_model(method: str) -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = attach(method, model, optimizer)
    for step in range(6):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
    twin = copy.deepcopy(model)
    masks = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    twin.load_state_dict(model.state_dict(), strict=True)
    assert_masks_hold(twin, [], masks)
    # The copy and its own optimizer are free of the sparsifier, and the original is not disturbed by them.
    other = SGD(twin.parameters(), lr=0.1)
    backward(twin, 50)
    other.step()
    assert any(parameter[~masks[name]].any() for name, parameter in twin.named_parameters() if name in masks)
    optimizer.zero_grad()
    backward(model, 6)
    optimizer.step()
    assert sparsifier.step_count == 7
    assert_masks_hold(model, optimizer, sparsifier.masks)


@pytest.mark.parametrize("method", ["granet", "rigl", "set"])
def test_an_averaged_model_is_sparse_after_apply(method: str) -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = attach(method, model, optimizer)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for step in range(TOTAL):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        average.update_parameters(model)
    revived = sum(int(average.module.get_parameter(n)[~m].count_nonzero()) for n, m in sparsifier.masks.items())
    assert revived > 0, "the average of moving masks is not sparse by itself"
    kept = {name: average.module.get_parameter(name)[mask].clone() for name, mask in sparsifier.masks.items()}
    sparsifier.masks.apply(average)
    for name, mask in sparsifier.masks.items():
        assert not average.module.get_parameter(name)[~mask].count_nonzero()
        assert torch.equal(average.module.get_parameter(name)[mask], kept[name])
    assert sw.MaskSet.from_zeros(average.module).kept() <= sparsifier.masks.kept()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("order", ["compile first", "attach first"])
def test_compiled_models(backend: str, order: str) -> None:
    torch.compiler.reset()
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    if order == "compile first":
        compiled = torch.compile(model, backend=backend)
        sparsifier = attach("granet", compiled, optimizer)
    else:
        sparsifier = attach("granet", model, optimizer)
        compiled = torch.compile(model, backend=backend)
    reference = OddNet()
    other = SGD(reference.parameters(), lr=0.1, momentum=0.9)
    eager = attach("granet", reference, other)
    for step in range(TOTAL):
        for network, item in ((compiled, optimizer), (reference, other)):
            item.zero_grad()
            backward(network, step)
            item.step()
        assert_masks_hold(model, optimizer, sparsifier.masks)
    assert list(sparsifier.masks) == list(eager.masks)
    assert sparsifier.masks.kept() == eager.masks.kept()
    x, _ = odd_batch(99)
    assert torch.equal(compiled(x), model(x)), "the compiled model must see the masked weights"


class Lookahead(Optimizer):
    """An optimizer around another one, which moves the weights once more after it: slow weights every second step."""

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__([p for group in optimizer.param_groups for p in group["params"]], {})
        self.optimizer = optimizer
        self.slow = [p.detach().clone() for p in self.param_groups[0]["params"]]
        self.calls = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        self.optimizer.step()
        self.calls += 1
        if self.calls % 2:
            return
        for slow, parameter in zip(self.slow, self.param_groups[0]["params"], strict=True):
            slow.lerp_(parameter, 0.5)
            parameter.copy_(slow)


@pytest.mark.parametrize("method", ["granet", "rigl", "set"])
def test_an_optimizer_around_another_one(method: str) -> None:
    model = OddNet()
    optimizer = Lookahead(SGD(model.parameters(), lr=0.1, momentum=0.9))
    sparsifier = attach(method, model, optimizer)
    for step in range(TOTAL):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        assert_masks_hold(model, optimizer, sparsifier.masks)
    assert sparsifier.step_count == TOTAL


def test_fused_and_foreach_steps() -> None:
    results = []
    for options in ({"foreach": True}, {"fused": True}, {"foreach": False}):
        model = OddNet()
        optimizer = AdamW(model.parameters(), lr=0.01, weight_decay=0.1, **options)
        sparsifier = attach("granet", model, optimizer)
        for step in range(TOTAL):
            optimizer.zero_grad()
            backward(model, step)
            optimizer.step()
            assert_masks_hold(model, optimizer, sparsifier.masks)
        results.append(sparsifier.masks.kept())
    assert len(set(results)) == 1


class RowState(Optimizer):
    """Adafactor-like: one value per row and one per column, a step that mixes both, and state in odd places."""

    def __init__(self, params: Iterable, lr: float = 0.02) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            state["step"] = state.get("step", 0) + 1
            grad = parameter.grad.flatten(1) if parameter.dim() > 1 else parameter.grad.unsqueeze(1)
            state["row"] = grad.square().mean(1, keepdim=True)
            state["history"] = [*state.get("history", []), float(grad.norm())]
            parameter.sub_((grad / (state["row"].sqrt() + 1e-3)).reshape(parameter.shape), alpha=group_lr(self))


def group_lr(optimizer: Optimizer) -> float:
    return optimizer.param_groups[0]["lr"]


def test_optimizer_state_of_other_shapes_is_left_alone() -> None:
    model = OddNet()
    optimizer = RowState(model.parameters())
    sparsifier = attach("rigl", model, optimizer)
    for step in range(TOTAL):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        assert_masks_hold(model, optimizer, sparsifier.masks)
    state = optimizer.state[model.conv2.weight]
    assert state["step"] == TOTAL
    assert len(state["history"]) == TOTAL
    assert (state["row"] > 0).all()


def test_weights_without_any_gradient_stay_masked() -> None:
    model = OddNet()
    model.add_module("unused", nn.Linear(11, 13))
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sw.RigL(model, optimizer, sparsity=0.5, total_steps=TOTAL, update_interval=2)
    start = sparsifier.masks["unused.weight"].clone()
    for step in range(TOTAL):
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()
        assert_masks_hold(model, optimizer, sparsifier.masks)
    assert torch.equal(sparsifier.masks["unused.weight"], start)


def test_weights_that_somebody_else_writes_are_masked_by_the_next_step() -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1)
    sparsifier = sw.Static(model, optimizer, sparsity=0.5)
    with torch.no_grad():
        model.conv2.weight.fill_(float("nan"))
    optimizer.zero_grad()
    optimizer.step()
    mask = sparsifier.masks["conv2.weight"]
    assert torch.equal(model.conv2.weight == 0, ~mask)
