"""FLOPs and layer tables against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsewright.analysis import (
    ExplorationTracker,
    inference_flops,
    layer_flops,
    layer_table,
    table_totals,
    training_flops_per_step,
)


def lenet300() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def test_lenet300_has_two_operations_per_weight() -> None:
    flops = layer_flops(lenet300(), torch.zeros(3, 1, 28, 28))
    assert flops == {"1.weight": 2 * 784 * 300, "3.weight": 2 * 300 * 100, "5.weight": 2 * 100 * 10}
    assert sum(flops.values()) == 532_400


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        # 3x3, stride 2, padding 1 on 9x9 -> 5x5; 16 outputs of 4/2 inputs each
        (nn.Conv2d(4, 16, 3, stride=2, padding=1, groups=2), (4, 9, 9), 5 * 5 * 16 * 2 * 9),
        # depthwise, dilation 2: 5 positions wide kernel on 10 -> 6
        (nn.Conv1d(8, 8, 3, dilation=2, groups=8), (8, 10), 6 * 8 * 1 * 3),
        (nn.Conv3d(2, 3, (1, 2, 3), bias=False), (2, 4, 4, 4), 4 * 3 * 2 * 3 * 2 * 6),
        # every input position meets out/groups x kernel weights
        (nn.ConvTranspose2d(6, 4, 4, stride=2, groups=2), (6, 5, 5), 5 * 5 * 6 * 2 * 16),
        # a Linear over 7 tokens
        (nn.Linear(5, 11), (7, 5), 7 * 5 * 11),
    ],
)
def test_layers_by_hand(layer: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    for samples in (1, 3):
        assert layer_flops(layer, torch.zeros(samples, *shape)) == {"weight": 2 * macs}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.cell = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)
        self.head = nn.Linear(4, 11)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for _ in range(3):
            x = F.relu(self.cell(x))
        return self.head(x)


def test_each_use_counts_and_a_shared_weight_has_its_first_name() -> None:
    flops = layer_flops(Recurrent(), torch.zeros(2, 6, dtype=torch.long))
    assert flops == {"cell.weight": 3 * 2 * 6 * 16, "unused.weight": 0, "embed.weight": 2 * 6 * 44}


def test_attention_counts_its_projections() -> None:
    encoder = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    flops = layer_flops(encoder, torch.zeros(3, 5, 8))
    assert flops == {
        "self_attn.in_proj_weight": 2 * 5 * 3 * 64,
        "self_attn.out_proj.weight": 2 * 5 * 64,
        "linear1.weight": 2 * 5 * 128,
        "linear2.weight": 2 * 5 * 128,
    }


class Wrapper(nn.Module):
    """Keeps a model under the attribute that DDP keeps it under."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


def test_wrapper_prefixes_do_not_show() -> None:
    plain = layer_flops(lenet300(), torch.zeros(1, 784))
    assert layer_flops(Wrapper(lenet300()), torch.zeros(1, 784)) == plain
    compiled = torch.compile(lenet300(), backend="eager")
    assert isinstance(compiled, nn.Module)
    compiled(torch.zeros(1, 784))
    assert layer_flops(compiled, torch.zeros(1, 784)) == plain
    assert [row.name for row in layer_table(Wrapper(compiled))] == list(plain)


def test_counting_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8, 2))
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    layer_flops(model, torch.randn(4, 1, 4, 4))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_are_removed_when_the_forward_pass_fails() -> None:
    model = lenet300()
    with pytest.raises(RuntimeError):
        layer_flops(model, torch.zeros(1, 3))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_training_steps_as_rigl_counts_them() -> None:
    flops = {"a": 100, "b": 300}
    density = {"a": 0.5, "b": 0.1}
    assert inference_flops(flops, {}) == 400
    assert inference_flops(flops, density) == pytest.approx(80)
    assert inference_flops(flops, {"b": 0.1, "embedding": 0.2}) == pytest.approx(130)
    assert training_flops_per_step(flops, {}) == 3 * 400
    assert training_flops_per_step(flops, density) == pytest.approx(3 * 80)
    assert training_flops_per_step(flops, density, dense_gradient=True) == pytest.approx(2 * 80 + 400)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_density_outside_its_range_is_refused_by_name(value: float) -> None:
    with pytest.raises(ValueError, match="'a'"):
        inference_flops({"a": 1}, {"a": value})


def test_unusable_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        layer_flops(lenet300(), torch.zeros(0, 784))
    with pytest.raises(TypeError, match="tensor"):
        layer_flops(lenet300(), [])


def test_table_counts_zeros_and_shares() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].weight[:3] = 0
        model[1].weight.fill_(1.0)
    rows = layer_table(model, torch.zeros(1, 4))
    assert [(row.name, row.shape, row.weights, row.nonzero) for row in rows] == [
        ("0.weight", (5, 4), 20, 8),
        ("1.weight", (2, 5), 10, 10),
    ]
    assert rows[0].sparsity == pytest.approx(0.6)
    assert (rows[0].flops_dense, rows[0].flops_sparse) == (40, pytest.approx(16))
    assert rows[0].flops_share == pytest.approx(16 / 36)
    totals = table_totals(rows)
    assert (totals.weights, totals.nonzero, totals.flops_dense) == (30, 18, 60)
    assert totals.flops_sparse == pytest.approx(36)
    assert totals.flops_share == pytest.approx(1)


def test_table_without_example_has_no_flops() -> None:
    rows = layer_table(lenet300())
    assert len(rows) == 3
    assert all(row.flops_dense is None and row.flops_share is None for row in rows)
    assert table_totals(rows).flops_sparse is None
    with pytest.raises(ValueError, match="no layers"):
        table_totals(layer_table(nn.ReLU()))


def test_exploration_rate_grows_with_what_was_ever_active() -> None:
    masks = {"a": torch.tensor([True, False, False, False]), "b": torch.tensor([[True, True]])}
    tracker = ExplorationTracker(masks)
    assert tracker.rate() == pytest.approx(3 / 6)
    masks["a"].copy_(torch.tensor([False, True, False, False]))
    assert tracker.rate() == pytest.approx(3 / 6)
    tracker.update(masks)
    assert tracker.layer_rates() == {"a": pytest.approx(2 / 4), "b": pytest.approx(1.0)}
    assert tracker.rate() == pytest.approx(4 / 6)
    restored = ExplorationTracker(masks)
    restored.load_state_dict(tracker.state_dict())
    assert restored.rate() == pytest.approx(4 / 6)


def test_exploration_refuses_other_masks() -> None:
    tracker = ExplorationTracker({"a": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(ValueError, match="b"):
        tracker.update({"b": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(ValueError, match="shape"):
        tracker.update({"a": torch.ones(3, dtype=torch.bool)})
