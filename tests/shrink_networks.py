"""Small networks with everything that couples channels, and the comparison that each test of shrinking ends with."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsewright.structured import NotRemovedWarning, RemovalPlan, mask_removed, plan_removal, shrink

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


class Plain(nn.Module):
    """Two convolutions, a batch norm with nothing random left in it, and two Linear layers; input (batch, 3, 8, 8)."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = F.relu) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.fc1 = nn.Linear(8 * 16, 10)
        self.fc2 = nn.Linear(10, 4)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.bn1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


class Joined(nn.Module):
    """A concatenation of three branches behind a residual sum, then batch norm; input (batch, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.left = nn.Conv2d(8, 3, 1)
        self.right = nn.Conv2d(8, 5, 3, padding=1)
        self.extra = nn.Conv2d(8, 4, 1)
        self.norm = nn.BatchNorm2d(12)
        self.last = nn.Conv2d(12, 6, 3)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        summed = x + torch.cat([self.left(x), self.right(x)], dim=1)
        joined = self.norm(torch.cat([summed, self.extra(x)], dim=1))
        return self.fc(F.relu(self.last(F.relu(joined))).mean(dim=(2, 3)))


class Grouped(nn.Module):
    """Convolutions with 2 groups, depthwise and transposed ones; input (batch, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.norm = nn.BatchNorm2d(12)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2, groups=2)
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.grouped(F.relu(self.conv1(x))))
        x = F.relu6(self.norm(self.depthwise(x)))
        return self.fc(F.gelu(self.up(x)).mean(dim=(2, 3)))


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random statistics and affine parameters of all norms, as after some training; dropout off."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(module, NORMS):
                for tensor in (module.weight, module.bias, module.running_mean):
                    if tensor is not None:
                        tensor.copy_(torch.randn(tensor.shape, generator=generator))
                if module.running_var is not None:
                    module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return model


def random_groups(
    model: nn.Module,
    chosen: Callable[[str], bool] = lambda name: True,
    *,
    ratio: float = 0.5,
    dimension: int = 0,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Random indices along a dimension of the weights of all chosen layers, depthwise ones left out."""
    generator = torch.Generator().manual_seed(seed)
    groups = {}
    for name, module in model.named_modules():
        if isinstance(module, LAYERS) and chosen(name) and getattr(module, "groups", 1) < module.weight.shape[0]:
            width = module.weight.shape[dimension]
            groups[f"{name}.weight"] = torch.randperm(width, generator=generator)[: int(ratio * width)]
    return groups


def check_equal(
    model: nn.Module,
    example: Tensor,
    groups: Mapping[str, Tensor],
    granularity: str = "filter",
    *,
    complete: bool = True,
    seed: int = 1,
) -> nn.Module:
    """The smaller network, after :func:`check_planned`."""
    return check_planned(model, example, groups, granularity, complete=complete, seed=seed)[0]


def check_planned(
    model: nn.Module,
    example: Tensor,
    groups: Mapping[str, Tensor],
    granularity: str = "filter",
    *,
    complete: bool = False,
    seed: int = 1,
) -> tuple[nn.Module, RemovalPlan]:
    """Shrink, mask, and compare both on other inputs than the example in evaluation, training and evaluation mode.

    With ``complete``, all that is asked for has to go. What goes is found out once, since equal networks have equal
    plans.
    """
    masked = copy.deepcopy(model)
    with warnings.catch_warnings(), _planned_once() as plans:
        warnings.simplefilter("error" if complete else "ignore", NotRemovedWarning)
        smaller = shrink(model, example, groups, granularity=granularity)
        mask_removed(masked, example, groups, granularity=granularity)
    inputs = torch.randn((8, *example.shape[1:]), generator=torch.Generator().manual_seed(seed)).to(example)
    for training in (False, True, False):
        masked.train(training)
        smaller.train(training)
        with torch.no_grad():
            expected, found = masked(inputs), smaller(inputs)
        tolerance = 1e-5 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    _check_statistics(masked, smaller)
    return smaller, plans[0]


@contextmanager
def _planned_once() -> Iterator[list[RemovalPlan]]:
    """Inside, ``shrink`` and ``mask_removed`` go by the plan that the first of them makes."""
    plans: list[RemovalPlan] = []

    def plan(*arguments: Any, **options: Any) -> RemovalPlan:
        if not plans:
            plans.append(plan_removal(*arguments, **options))
        return plans[0]

    with mock.patch("sparsewright.structured.shrinking.plan_removal", plan):
        yield plans


def _check_statistics(masked: nn.Module, smaller: nn.Module) -> None:
    for name, module in masked.named_modules():
        if isinstance(module, NORMS) and module.running_mean is not None and module.affine:
            # The random affine parameters are nowhere zero but where they were masked.
            left = module.weight != 0
            for statistic in ("running_mean", "running_var"):
                torch.testing.assert_close(
                    getattr(smaller.get_submodule(name), statistic), getattr(module, statistic)[left]
                )


def parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
