"""Small models, optimizers and gradients that several test files share. Deterministic, and fast enough for one core."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

import sparsewright as sw

# Those that hold masks while they train; the others have tests of their own.
METHODS = [info.name for info in sw.list_methods() if not info.cls.prunes_at_end]
DYNAMIC = [info.name for info in sw.list_methods() if "update_interval" in info.options]
RAMPS = ["gmp", "gmp-uniform", "granet", "granet-uniform"]  # cubic ones
DENSE_START = [*RAMPS, "rpg"]
GROWING = [name for name in DYNAMIC if not name.startswith("gmp")]
CONSTANT = ["rigl", "rigl-itop", "set", "snfs"]
TOTAL = 12
READ = ("momentum_buffer", "exp_avg", "exp_avg_sq")


class OddNet(nn.Module):
    """A network without batch norm whose layers have odd, tiny and grouped shapes; input (batch, 2, 6, 5)."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv1 = nn.Conv2d(2, 5, (3, 1))
        self.conv2 = nn.Conv2d(5, 7, 3, bias=False)
        self.depthwise = nn.Conv2d(7, 7, 3, padding=1, groups=7)
        self.narrow = nn.Linear(7, 3)
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv1(x))
        x = F.leaky_relu(self.conv2(x))
        x = F.leaky_relu(self.depthwise(x)).mean(dim=(2, 3))
        return self.fc(F.leaky_relu(self.narrow(x)))


def odd_batch(step: int, size: int = 8) -> tuple[Tensor, Tensor]:
    """Images and labels that depend on the step alone."""
    generator = torch.Generator().manual_seed(1000 + step)
    return torch.randn(size, 2, 6, 5, generator=generator), torch.randint(0, 4, (size,), generator=generator)


def backward(model: nn.Module, step: int, size: int = 8) -> Tensor:
    """Loss of one batch, with its gradients in place."""
    x, y = odd_batch(step, size)
    loss = F.cross_entropy(model(x).float(), y)
    loss.backward()
    return loss


def train(model: nn.Module, optimizer: Optimizer, steps: Iterable[int]) -> None:
    """The plain loop of the README, one batch a step."""
    for step in steps:
        optimizer.zero_grad()
        backward(model, step)
        optimizer.step()


def stack(shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> nn.Module:
    """Unconnected Linear (2 dimensions) and Conv (3 to 5) layers without bias, for tests that write gradients."""
    torch.manual_seed(seed)
    model = nn.Module()
    convolutions = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    for name, (out, inputs, *kernel) in shapes.items():
        layer = convolutions[2 + len(kernel)](inputs, out, tuple(kernel), bias=False) if kernel else None
        model.add_module(name, layer or nn.Linear(inputs, out, bias=False))
    return model


def random_gradients(model: nn.Module, step: int) -> None:
    """Give each parameter a random gradient that depends on the step alone."""
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters by name."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


class Orthogonalised(Optimizer):
    """Muon-like: the momentum of a matrix is orthogonalised, so that each entry moves by all the others."""

    def __init__(self, params: Iterable, lr: float = 0.02, momentum: float = 0.9, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                buffer = self.state[parameter].setdefault("buffer", torch.zeros_like(parameter))
                buffer.mul_(group["momentum"]).add_(parameter.grad)
                update = buffer
                if parameter.dim() >= 2:
                    u, _, v = torch.linalg.svd(buffer.flatten(1).float(), full_matrices=False)
                    update = (u @ v).reshape(buffer.shape).to(buffer.dtype)
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
        return loss


class TrustRatio(Optimizer):
    """LAMB-like: Adam's direction scaled per layer by the norm of the weight over that of the step."""

    def __init__(self, params: Iterable, lr: float = 0.02, weight_decay: float = 0.01) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                first = state.setdefault("first", torch.zeros_like(parameter))
                second = state.setdefault("second", torch.zeros_like(parameter))
                first.lerp_(parameter.grad, 0.1)
                second.lerp_(parameter.grad.square(), 0.01)
                step = first / (second.sqrt() + 1e-6) + group["weight_decay"] * parameter
                ratio = float(parameter.norm() / step.norm().clamp_min(1e-6)) or 1.0
                parameter.add_(step, alpha=-group["lr"] * ratio)
        return loss


OPTIMIZERS: dict[str, Callable[[Iterable], Optimizer]] = {
    "sgd": lambda params: SGD(params, lr=0.1, weight_decay=5e-4),
    "momentum": lambda params: SGD(params, lr=0.05, momentum=0.9, weight_decay=5e-4),
    "nesterov": lambda params: SGD(params, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "adam": lambda params: Adam(params, lr=0.01, weight_decay=1e-3, amsgrad=True),
    "adamw": lambda params: AdamW(params, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda params: RMSprop(params, lr=0.005, momentum=0.9, centered=True),
    "adagrad": lambda params: Adagrad(params, lr=0.05, initial_accumulator_value=0.1),
    "lamb-like": TrustRatio,
    "muon-like": Orthogonalised,
}


def budget(sparsity: float, weights: int) -> int:
    """Promise 1, written out."""
    return round((1 - sparsity) * weights)


def cosine(start: float, minimum: float, step: int, end: int) -> float:
    """Drop fraction of the cosine schedule over 0..end."""
    return minimum + (start - minimum) * (1 + math.cos(math.pi * min(step / end, 1.0))) / 2


def assert_masks_hold(
    model: nn.Module,
    optimizers: Optimizer | list[Optimizer],
    masks: Mapping[str, Tensor],
    unmasked: tuple[str, ...] = (),
) -> None:
    """Every masked weight is exactly 0, and so is the optimizer state that has one value per weight."""
    parameters = dict(model.named_parameters())
    states = [item.state for item in (optimizers if isinstance(optimizers, list) else [optimizers])]
    for name, mask in masks.items():
        parameter = parameters[name]
        assert not parameter[~mask].count_nonzero(), f"masked weights of {name} moved"
        for state in states:
            for key, value in state.get(parameter, {}).items():
                if isinstance(value, Tensor) and value.shape == parameter.shape and key not in unmasked:
                    assert not value[~mask].count_nonzero(), f"{key} of masked weights of {name} is alive"


def options_of(method: str, **options: Any) -> dict[str, Any]:
    """The options among these that the method has; an update every second step and no last-layer rule by default."""
    (info,) = sw.list_methods(method)
    wanted = {"update_interval": 2, "last_layer_density": None, **options}
    return {key: value for key, value in wanted.items() if key in info.options}


def odd(method: str = "rigl", sparsity: float = 0.7, **options: Any) -> tuple[OddNet, SGD, sw.Sparsifier]:
    """A small network under a method, 20 steps with an update every second."""
    model = OddNet()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9)
    arguments = options_of(method, **options)
    return model, optimizer, sw.create(method, model, optimizer, sparsity=sparsity, total_steps=20, **arguments)


def one_layer(rows: int = 20, columns: int = 30) -> tuple[nn.Module, nn.Parameter]:
    """A single matrix, and the model that holds it as ``layer.weight``."""
    model = stack({"layer": (rows, columns)})
    return model, model.get_parameter("layer.weight")


def copies(sparsifier: sw.Sparsifier) -> dict[str, Tensor]:
    """Copies of the masks as they are now."""
    return {name: mask.clone() for name, mask in sparsifier.masks.items()}


def changed(before: Mapping[str, Tensor], sparsifier: sw.Sparsifier) -> bool:
    """Whether any mask differs from its copy."""
    return any(not torch.equal(mask, before[name]) for name, mask in sparsifier.masks.items())


def moment(value: float, total: int) -> int:
    """A moment in steps: an int is steps, a float a fraction of the run."""
    return value if isinstance(value, int) else math.floor(value * total + 1e-9)


def grow_elsewhere(model: nn.Module, masks: Mapping[str, Tensor], generator: torch.Generator) -> None:
    """Gradients that are large on dropped weights and 0 on kept ones, so that nothing dropped regrows at once."""
    for name, parameter in model.named_parameters():
        values = 1 + torch.rand(parameter.shape, generator=generator)
        parameter.grad = values.masked_fill(masks[name], 0.0)


def attach(method: str, model: nn.Module, optimizer: Any, sparsity: float = 0.7, **options: Any) -> sw.Sparsifier:
    """A sparsifier for TOTAL steps, an update every second, none of which replaces the optimizer's step."""
    arguments = options_of(method, **{"update_replaces_step": False, **options})
    return sw.create(method, model, optimizer, sparsity=sparsity, total_steps=TOTAL, **arguments)


def unmasked(method: str) -> tuple[str, ...]:
    """State that the method reads for dropped weights too, and that only the weight mask keeps in check."""
    return READ if method == "snfs" else ()
