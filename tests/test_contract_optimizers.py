"""The public contract, sentence by sentence: optimizers, closures, and what else surrounds a step."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer
from toys import (
    DYNAMIC,
    OddNet,
    assert_masks_hold,
    backward,
    budget,
    odd,
    options_of,
    random_gradients,
    train,
)

import sparsewright as sw

# Optimizers.


def two_optimizers(model: OddNet) -> list[Optimizer]:
    matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    others = [parameter for parameter in model.parameters() if parameter.dim() != 2]
    return [SGD(matrices, lr=0.05, momentum=0.9), AdamW(others, lr=0.01)]


@pytest.mark.parametrize("method", ["granet", "rigl", "set", "snfs"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("muon", [False, True])
def test_several_optimizers_stepped_together(method: str, backwards: bool, muon: bool) -> None:
    model = OddNet()
    optimizers = two_optimizers(model)
    if muon:
        optimizers[0] = torch.optim.Muon(
            [parameter for parameter in model.parameters() if parameter.dim() == 2], lr=0.02
        )
    options = options_of(method, update_replaces_step=False)
    sparsifier = sw.create(method, model, optimizers, sparsity=0.7, total_steps=12, **options)
    read = ("momentum_buffer", "exp_avg", "exp_avg_sq") if method == "snfs" else ()
    for step in range(12):
        model.zero_grad()
        backward(model, step)
        for optimizer in reversed(optimizers) if backwards else optimizers:
            assert sparsifier.step_count == step
            optimizer.step()
        assert sparsifier.step_count == step + 1
        assert_masks_hold(model, optimizers, sparsifier.masks, read)
    assert sparsifier.masks.kept() == budget(0.7, sparsifier.masks.total())
    assert sparsifier.topology_version > 0


@pytest.mark.parametrize("skipped", [0, 1])
def test_a_step_that_one_of_several_optimizers_skips_is_not_counted_and_shifts_no_later_one(skipped: int) -> None:
    model = OddNet()
    optimizers = two_optimizers(model)
    sparsifier = sw.create("granet", model, optimizers, sparsity=0.7, total_steps=12, **options_of("granet"))
    for step in range(5):
        model.zero_grad()
        backward(model, step)
        for index, optimizer in enumerate(optimizers):
            if step != 2 or index != skipped:
                optimizer.step()
            moved_all = index == 1 and step != 2
            completed = (step + moved_all) - (step > 2)
            assert sparsifier.step_count == completed
    assert sparsifier.step_count == 4


def test_an_update_waits_for_all_optimizers() -> None:
    model = OddNet()
    optimizers = two_optimizers(model)
    sparsifier = sw.RigL(model, optimizers, sparsity=0.7, total_steps=20, update_interval=1, drop_fraction=0.5)
    before = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    random_gradients(model, 0)
    optimizers[0].step()
    assert all(torch.equal(mask, before[name]) for name, mask in sparsifier.masks.items())
    optimizers[1].step()
    assert not all(torch.equal(mask, before[name]) for name, mask in sparsifier.masks.items())


def test_bad_optimizers_are_refused() -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1)
    for wrong in ([], [optimizer, optimizer], LBFGS(model.parameters())):
        with pytest.raises(ValueError, match=r"optimizer|LBFGS"):
            sw.Static(model, wrong, sparsity=0.5)
    for wrong in (None, model.parameters(), "sgd", [optimizer, None]):
        with pytest.raises(TypeError, match="optimizer"):
            sw.Static(model, wrong, sparsity=0.5)
    with pytest.raises(TypeError, match="model"):
        sw.Static("model", optimizer, sparsity=0.5)


def test_two_sparsifiers_on_one_optimizer_are_refused() -> None:
    model, optimizer, first = odd("static")
    with pytest.raises(ValueError, match="SGD"):
        sw.Static(model, optimizer, sparsity=0.5)
    with pytest.raises(ValueError, match="SGD"):
        sw.Static(model, [Adam([model.fc.bias]), optimizer], sparsity=0.5)
    first.detach()
    second = sw.Static(model, optimizer, sparsity=0.9)
    # Ending the first once more must not free the optimizer from the second.
    first.detach()
    first.finalize()
    with pytest.raises(ValueError, match="SGD"):
        sw.Static(model, optimizer, sparsity=0.5)
    train(model, optimizer, range(2))
    assert_masks_hold(model, optimizer, second.masks)


def test_thin_wrappers_around_an_optimizer_are_seen_through() -> None:
    class Wrapper:
        def __init__(self, optimizer: Optimizer) -> None:
            self.optimizer = optimizer

    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1)
    sparsifier = sw.Static(model, Wrapper(optimizer), sparsity=0.5)
    train(model, optimizer, range(2))
    assert sparsifier.step_count == 2
    assert_masks_hold(model, optimizer, sparsifier.masks)


class Centralised(SGD):
    """A subclass whose step prepares gradients and leaves the rest to its parent."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.dim() > 1:
                    parameter.grad.sub_(parameter.grad.flatten(1).mean(1).view(-1, *[1] * (parameter.dim() - 1)))
        return super().step(closure)


@pytest.mark.parametrize("method", ["granet", "rigl", "snfs"])
def test_a_step_that_calls_its_parents_is_one_step(method: str) -> None:
    model = OddNet()
    optimizer = Centralised(model.parameters(), lr=0.05, momentum=0.9)
    read = ("momentum_buffer",) if method == "snfs" else ()
    sparsifier = sw.create(method, model, optimizer, sparsity=0.7, total_steps=12, **options_of(method))
    for step in range(12):
        train(model, optimizer, [step])
        assert sparsifier.step_count == step + 1
        assert_masks_hold(model, optimizer, sparsifier.masks, read)
    assert sparsifier.masks.kept() == budget(0.7, sparsifier.masks.total())


def test_a_given_maskset_through_the_registry() -> None:
    model = OddNet()
    masks = sw.MaskSet.from_zeros(model)
    masks["fc.weight"][0] = False
    optimizer = SGD(model.parameters(), lr=0.1)
    sparsifier = sw.create("static", model, optimizer, masks=masks)
    train(model, optimizer, range(3))
    assert not model.fc.weight[0].any()
    assert sparsifier.sparsity() == 3 / masks.total()


@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize("method", ["granet", "rigl", "snfs", "set"])
def test_closures_equal_the_plain_loop(method: str, keyword: bool) -> None:
    """The work is done after the closure's backward, so that a run with closures is the run without."""
    model, optimizer, sparsifier = odd(method)
    other, plain, reference = odd(method)
    for step in range(20):

        def closure(step: int = step) -> Tensor:
            optimizer.zero_grad()
            return backward(model, step)

        loss = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
        assert isinstance(loss, Tensor)
        plain.zero_grad()
        backward(other, step)
        plain.step()
        assert sparsifier.step_count == step + 1
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, other.get_parameter(name)), (step, name)
    assert all(torch.equal(mask, reference.masks[name]) for name, mask in sparsifier.masks.items())


# Odd surroundings.


def test_sparse_gradients() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(30, 6, sparse=True), nn.Flatten(), nn.Linear(18, 4))
    for method in ("rigl", "snfs", "granet"):
        optimizer = SGD(model.parameters(), lr=0.5)
        options = options_of(method, include=["0.weight", "2.weight"])
        sparsifier = sw.create(
            method, model, optimizer, sparsity=0.6, total_steps=12, include=["0.weight", "2.weight"], **options
        )
        for step in range(12):
            optimizer.zero_grad()
            tokens = torch.randint(0, 30, (16, 3), generator=torch.Generator().manual_seed(step))
            F.cross_entropy(model(tokens), tokens.sum(1) % 4).backward()
            optimizer.step()
            assert_masks_hold(model, optimizer, sparsifier.masks)
        assert sparsifier.masks.kept() == budget(0.6, 180 + 72)
        sparsifier.detach()


@pytest.mark.filterwarnings("ignore:the singular values of")
@pytest.mark.parametrize("method", DYNAMIC)
def test_counts_stay_exact_when_a_run_diverges(method: str) -> None:
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    options = options_of(method, update_replaces_step=False)
    sparsifier = sw.create(method, model, optimizer, sparsity=0.7, total_steps=12, **options)
    for step in range(12):
        random_gradients(model, step)
        for value, parameter in zip((torch.nan, torch.inf, -torch.inf), model.parameters(), strict=False):
            assert parameter.grad is not None
            parameter.grad.view(-1)[step::5] = value
        optimizer.step()
        for name, mask in sparsifier.masks.items():
            assert not model.get_parameter(name)[~mask].any()
    assert sparsifier.masks.kept() == budget(0.7, sparsifier.masks.total())


def test_a_copied_optimizer_is_free() -> None:
    model, optimizer, sparsifier = odd("static")
    train(model, optimizer, range(2))
    twin, other = copy.deepcopy((model, optimizer))
    train(twin, other, range(2, 4))
    assert sparsifier.step_count == 2
    sw.Static(twin, other, sparsity=0.9)


@pytest.mark.parametrize("method", ["granet", "rigl"])
def test_learning_rate_schedulers(method: str) -> None:
    model, optimizer, sparsifier = odd(method)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20)
    for step in range(20):
        train(model, optimizer, [step])
        scheduler.step()
        assert_masks_hold(model, optimizer, sparsifier.masks)
    assert sparsifier.step_count == 20


def test_memory_formats_and_strided_parameters() -> None:
    results = []
    for strided in (False, True):
        model = OddNet()
        if strided:
            model = model.to(memory_format=torch.channels_last)
            with torch.no_grad():
                weight = model.narrow.weight
                model.narrow.weight = nn.Parameter(weight.detach().t().contiguous().t())
            assert not model.narrow.weight.is_contiguous()
        optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
        sparsifier = sw.GraNet(model, optimizer, sparsity=0.7, total_steps=12, update_interval=2, initial_sparsity=0.3)
        for step in range(12):
            random_gradients(model, step)
            optimizer.step()
            assert_masks_hold(model, optimizer, sparsifier.masks)
        results.append({name: mask.clone().contiguous() for name, mask in sparsifier.masks.items()})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_a_model_that_learns_stays_sparse_and_still_learns() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 20)
    y = (x[:, 0] * x[:, 1] > 0).long() + 2 * (x[:, 2] > 0).long()
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = SGD(model.parameters(), lr=0.2, momentum=0.9)
    sparsifier = sw.GraNet(model, optimizer, sparsity=0.9, total_steps=300, update_interval=10)
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    sparsifier.finalize()
    assert (model(x).argmax(1) == y).float().mean() > 0.9
    assert sw.MaskSet.from_zeros(model).sparsity() >= 0.9 - 1e-3
