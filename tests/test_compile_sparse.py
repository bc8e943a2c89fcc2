"""Sparse inference: the same results as the dense network, for any layer, network and instruction set."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune as prune
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sparsewright as sw
from sparsewright.models import create_model
from sparsewright.runtime import compiled, library
from sparsewright.runtime.choosing import choose, kernel_names
from sparsewright.runtime.compiled import LARGEST_DIFFERENCE, CompiledSparse, compile_sparse
from sparsewright.runtime.engine import Engine
from sparsewright.runtime.fusion import fuse
from sparsewright.runtime.graph import (
    Affine,
    Convolution,
    Flatten,
    GlobalAverage,
    Join,
    Limits,
    Linear,
    Network,
    Pool,
    Step,
    TorchCall,
    Value,
    Weighted,
)
from sparsewright.runtime.lowering import lower
from sparsewright.runtime.operations import PlannedOperation
from sparsewright.runtime.planning import WeightedTask, plan
from sparsewright.runtime.torch_engine import CSR, TorchEngine

KERNELS = [*library.available(), "torch"]


@pytest.fixture(params=KERNELS)
def instructions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(library.ENVIRONMENT, request.param)
    return request.param


def needs_kernels() -> None:
    if not library.available():
        pytest.skip("no kernels were compiled: there is no C++ compiler")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    former = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(former)


_LOWERED: dict[tuple[object, ...], Network] = {}


@pytest.fixture(autouse=True)
def _each_network_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.export takes a second or more, and the same networks are compiled for every instruction set."""

    def remembered(model: nn.Module, example_input: Tensor) -> Network:
        content = tuple(float(tensor.detach().double().sum()) for tensor in (*model.parameters(), *model.buffers()))
        key = (str(model), type(model), tuple(example_input.shape), content)
        if key not in _LOWERED:
            _LOWERED[key] = lower(model, example_input)
        return _LOWERED[key]

    monkeypatch.setattr("sparsewright.runtime.compiled.lower", remembered)


def traced(model: nn.Module, value: Tensor) -> Network:
    return fuse(compiled.lower(model, value))


def pruned(model: nn.Module, sparsity: float, seed: int = 0) -> nn.Module:
    """Random zeros in every weight with two or more dimensions, and batch norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(torch.rand(parameter.shape, generator=generator) >= sparsity)
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                assert module.running_mean is not None
                assert module.running_var is not None
                for tensor in (module.weight, module.bias, module.running_mean):
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3 + 0.2)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return model.eval()


def difference(fast: Callable[[Tensor], Tensor], model: nn.Module, value: Tensor) -> float:
    with torch.no_grad():
        expected, result = model(value), fast(value)
    assert result.shape == expected.shape
    assert result.dtype == torch.float32
    return float((result - expected).abs().max()) / max(float(expected.abs().max()), 1e-6)


def on_kernels(model: nn.Module, value: Tensor, index: int = -1, **options: Any) -> CompiledSparse:
    """Compiled with choices given, since small networks are else left to torch for being small."""
    kernels = library.kernels()
    if kernels is None:
        return compile_sparse(model, value, **options)
    choices = chosen(traced(model, value), kernels, index)
    fast = compile_sparse(model, value, choices=choices, **options)
    assert fast.compilation.engine.startswith("kernels"), fast.summary()
    return fast


def chosen(network: Network, kernels: library.Kernels, index: int) -> dict[str, str]:
    """For each layer one of the kernels that it can have."""
    names = {
        task.step.layer: kernel_names(task, kernels) for task in plan(network).tasks if isinstance(task, WeightedTask)
    }
    return {layer: available[index % len(available)] for layer, available in names.items()}


def engine_of(network: Network, index: int, threads: int) -> Engine:
    """Runs a network that was put together by hand, which torch.export would take a second for."""
    kernels = library.kernels()
    assert kernels is not None
    laid_out, choices = plan(network), chosen(network, kernels, index)
    tasks = [
        choose(task, kernels, threads, choices[task.step.layer])[0] if isinstance(task, WeightedTask) else task
        for task in laid_out.tasks
    ]
    return Engine(laid_out, tasks, kernels, threads)


def run_step(step: Step, value: Tensor, index: int, threads: int) -> Tensor:
    network = Network((step,), "x", tuple(value.shape), step.name)
    return engine_of(network, index, threads).run(value, step.shape)


def seeded(draw: Callable[[Any], Any]) -> None:
    """What torch draws comes from the example, so that hypothesis can repeat and shrink it."""
    torch.manual_seed(draw(st.integers(0, 2**16)))


def random_weight(shape: tuple[int, ...], sparsity: float) -> Tensor:
    return torch.randn(shape) * (torch.rand(shape) >= sparsity)


def close(result: Tensor, expected: Tensor) -> bool:
    return torch.allclose(result, expected, rtol=1e-5, atol=1e-5 * max(1.0, float(expected.abs().max())))


SPARSITIES = st.sampled_from([0.0, 0.5, 0.9, 1.0])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_convolution(data: st.DataObject) -> None:
    needs_kernels()
    draw = data.draw
    seeded(draw)
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    of_group, outputs_of_group = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 4)))
    stride, padding, dilation = (
        (draw(st.integers(low, high)), draw(st.integers(low, high))) for low, high in ((1, 3), (0, 3), (1, 2))
    )
    size = [d * (k - 1) + 1 + draw(st.integers(0, 20)) for d, k in zip(dilation, kernel, strict=True)]
    value = torch.randn(draw(st.integers(1, 4)), groups * of_group, *size)
    weight = random_weight((groups * outputs_of_group, of_group, *kernel), draw(SPARSITIES))
    bias = torch.randn(len(weight))
    expected = F.conv2d(value, weight, bias, stride, padding, dilation, groups)
    limits = draw(st.sampled_from([Limits(), Limits(0.0), Limits(-0.5, 0.75)]))
    step = Convolution(
        name="y",
        inputs=("x",),
        shape=tuple(expected.shape),
        limits=limits,
        layer="layer",
        weight=weight,
        bias=bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )
    result = run_step(step, value, draw(st.integers(0, 9)), draw(st.integers(1, 3)))
    assert close(result, expected.clamp(limits.low, limits.high))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_linear_layer(data: st.DataObject) -> None:
    needs_kernels()
    draw = data.draw
    seeded(draw)
    samples, inputs, outputs = draw(st.integers(1, 40)), draw(st.integers(1, 70)), draw(st.integers(1, 40))
    value = torch.randn(samples, inputs)
    weight, bias = random_weight((outputs, inputs), draw(SPARSITIES)), torch.randn(outputs)
    expected = F.linear(value, weight, bias)
    step = Linear(name="y", inputs=("x",), shape=tuple(expected.shape), layer="layer", weight=weight, bias=bias)
    assert close(run_step(step, value, draw(st.integers(0, 9)), draw(st.integers(1, 3))), expected)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_pool(data: st.DataObject) -> None:
    needs_kernels()
    draw = data.draw
    seeded(draw)
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    padding = tuple(draw(st.integers(0, side // 2)) for side in kernel)
    value = torch.randn(
        draw(st.integers(1, 3)), draw(st.integers(1, 5)), *(k + draw(st.integers(0, 9)) for k in kernel)
    )
    average, counted = draw(st.booleans()), draw(st.booleans())
    if average:
        expected = F.avg_pool2d(value, kernel, stride, padding, count_include_pad=counted)
    else:
        expected = F.max_pool2d(value, kernel, stride, padding)
    divisor = kernel[0] * kernel[1] if counted else 0
    step = Pool(
        name="y",
        inputs=("x",),
        shape=tuple(expected.shape),
        average=average,
        kernel=kernel,
        stride=stride,
        padding=(padding[0], padding[1]),
        divisor=divisor,
    )
    assert close(run_step(step, value, 0, draw(st.integers(1, 3))), expected)


class Drawn:
    """A network drawn step by step: each reads values that were computed before."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self.draw = draw
        samples, channels = draw(st.integers(1, 3)), draw(st.integers(1, 6))
        self.shapes = {"x": (samples, channels, draw(st.integers(3, 14)), draw(st.integers(3, 14)))}
        self.steps: list[Step] = []

    def network(self, length: int) -> Network:
        for _ in range(length):
            kinds = [self.convolution, self.pool, self.affine, self.join, self.average, self.call]
            self.draw(st.sampled_from(kinds))(self.draw(st.sampled_from(list(self.shapes))))
        last = self.draw(st.sampled_from([self.affine, self.call, self.linear]))
        last(self.draw(st.sampled_from(list(self.shapes))))
        return Network(tuple(self.steps), "x", self.shapes["x"], self.steps[-1].name)

    def add(self, kind: type[Step], inputs: tuple[str, ...], shape: tuple[int, ...], **fields: Any) -> None:
        name = f"s{len(self.steps)}"
        if issubclass(kind, (Weighted, Affine)):
            same = [other for other, its in self.shapes.items() if its == shape]
            fields["residual"] = self.draw(st.sampled_from([None, *same]))
        if issubclass(kind, (Weighted, Affine, Pool, GlobalAverage)):
            fields["limits"] = self.draw(st.sampled_from([Limits(), Limits(0.0), Limits(0.1, 0.8)]))
        self.steps.append(kind(name=name, inputs=inputs, shape=shape, **fields))
        self.shapes[name] = shape

    def convolution(self, source: str) -> None:
        draw, (samples, channels, *size) = self.draw, self.shapes[source]
        outputs, kernel, padding = draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(st.integers(0, 2))
        stride = draw(st.integers(1, 2))
        sides = [(side + 2 * padding - kernel) // stride + 1 for side in size]
        if min(sides) < 1:
            return
        weight = random_weight((outputs, channels, kernel, kernel), draw(SPARSITIES)) / (channels**0.5 * kernel)
        fields = {"layer": f"w{len(self.steps)}", "weight": weight, "bias": torch.randn(outputs), "groups": 1}
        geometry = {"stride": (stride, stride), "padding": (padding, padding), "dilation": (1, 1)}
        self.add(Convolution, (source,), (samples, outputs, *sides), **fields, **geometry)

    def pool(self, source: str) -> None:
        samples, channels, *size = self.shapes[source]
        kernel, stride = self.draw(st.integers(1, min(3, *size))), self.draw(st.integers(1, 2))
        padding, average = self.draw(st.integers(0, kernel // 2)), self.draw(st.booleans())
        sides = [(side + 2 * padding - kernel) // stride + 1 for side in size]
        geometry = {"kernel": (kernel, kernel), "stride": (stride, stride), "padding": (padding, padding)}
        self.add(Pool, (source,), (samples, channels, *sides), average=average, **geometry)

    def affine(self, source: str) -> None:
        shape = self.shapes[source]
        self.add(Affine, (source,), shape, scale=torch.randn(shape[1]), shift=torch.randn(shape[1]))

    def join(self, source: str) -> None:
        samples, _, *size = self.shapes[source]
        same = [name for name, shape in self.shapes.items() if shape[2:] == tuple(size)]
        other = self.draw(st.sampled_from(same))
        self.add(Join, (source, other), (samples, self.shapes[source][1] + self.shapes[other][1], *size))

    def average(self, source: str) -> None:
        self.add(GlobalAverage, (source,), (*self.shapes[source][:2], 1, 1))

    def call(self, source: str) -> None:
        """Through torch: a result of its own, or a view of what it reads."""
        shape = self.shapes[source]
        if self.draw(st.booleans()):
            self.add(TorchCall, (source,), shape, target=torch.tanh, arguments=(Value(source),))
        else:
            part = (shape[0], (shape[1] + 1) // 2, *shape[2:])
            arguments = (Value(source), 1, 0, part[1])
            self.add(TorchCall, (source,), part, target=torch.narrow, arguments=arguments)

    def linear(self, source: str) -> None:
        samples, count = self.shapes[source][0], math.prod(self.shapes[source][1:])
        self.add(Flatten, (source,), (samples, count))
        for outputs in self.draw(st.lists(st.integers(1, 20), min_size=1, max_size=3)):
            weight = random_weight((outputs, count), self.draw(SPARSITIES)) / count**0.5
            fields = {"layer": f"w{len(self.steps)}", "weight": weight, "bias": torch.randn(outputs)}
            self.add(Linear, (self.steps[-1].name,), (samples, outputs), **fields)
            count = outputs


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_network_reads_nothing_that_it_has_not_written(data: st.DataObject) -> None:
    """Steps in any order on one memory, full of NaN at first: lifetimes, shared padding, copies and gaps."""
    needs_kernels()
    seeded(data.draw)
    network = Drawn(data.draw).network(data.draw(st.integers(1, 8)))
    value = torch.randn(network.input_shape)
    expected = TorchEngine(network, value).run(value)
    engine = engine_of(network, data.draw(st.integers(0, 9)), data.draw(st.integers(1, 3)))
    engine._memory.fill_(float("nan"))
    assert close(engine.run(value, expected.shape), expected)


class Everything(nn.Module):
    """What networks of the field are made of, and one operator that has no kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.left, self.right = nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 12, 1)
        self.before = nn.BatchNorm2d(24)
        self.deep = nn.Conv2d(24, 24, 5, padding=2, groups=24)
        self.down = nn.Conv2d(24, 16, 3, stride=2, padding=1)
        self.skip = nn.Conv2d(24, 16, 1, stride=2)
        self.average = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.narrow = nn.Conv2d(16, 8, 3)
        self.last, self.head = nn.Linear(8, 9), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.norm(self.stem(x))))
        x = torch.cat([self.left(x) + x, F.relu(self.right(x))], dim=1)
        x = F.relu(self.before(x))
        x = F.hardtanh(self.deep(x), -1.5, 2.0)
        x = F.relu(self.down(x) + self.skip(x))
        x = self.average(x) + x
        x = F.gelu(self.narrow(x))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.head(F.dropout(F.relu_(self.last(x)), training=self.training))


@pytest.mark.parametrize("samples", [1, 3])
def test_a_network_of_everything(instructions: str, samples: int) -> None:
    model = pruned(Everything(), 0.6)
    value = torch.randn(samples, 3, 45, 61)
    for index in (0, -1):
        fast = on_kernels(model, value, index=index)
        assert difference(fast, model, value) < 1e-5
    if instructions != "torch":
        assert fast.compilation.through_torch == ("aten.gelu.default",)
        assert "aten.gelu.default" in fast.summary()


@pytest.mark.parametrize("name", ["lenet300", "lenet5", "resnet20", "vgg19", "wrn-22-2"])
def test_the_papers_networks(instructions: str, name: str) -> None:
    size = 28 if name.startswith("lenet") else 32
    channels = 1 if size == 28 else 3
    model = create_model(name, num_classes=10, in_channels=channels, image_size=size)
    pruned(model, 0.9)
    value = torch.randn(2, channels, size, size)
    fast = compile_sparse(model, value)
    assert difference(fast, model, value) < LARGEST_DIFFERENCE
    assert not fast.compilation.reason or fast.compilation.engine in ("dense", "torch")


def test_it_is_as_exact_at_resnet50_as_at_small_networks() -> None:
    needs_kernels()
    from torchvision.models import resnet50

    model = pruned(resnet50(), 0.95)
    value = torch.randn(1, 3, 224, 224)
    fast = compile_sparse(model, value)
    assert fast.compilation.engine.startswith("kernels"), fast.summary()
    assert difference(fast, model, value) < 1e-5
    dense = sum(parameter.nbytes for parameter in model.parameters())
    assert fast.compilation.working_bytes < dense


def test_results_do_not_depend_on_calls_before_or_beside() -> None:
    needs_kernels()
    model = pruned(Everything(), 0.6)
    values = [torch.randn(1, 3, 45, 61) for _ in range(8)]
    fast = on_kernels(model, values[0], threads=2)
    alone = [fast(value).clone() for value in values]
    fast(torch.full((1, 3, 45, 61), float("nan")))
    with ThreadPoolExecutor(4) as pool:
        beside = list(pool.map(fast, values * 5))
    assert all(torch.equal(result, alone[index % 8]) for index, result in enumerate(beside))
    assert torch.get_num_threads() == 1
    assert difference(fast, model, values[0].to(memory_format=torch.channels_last)) < 1e-5


def test_nan_and_infinity_go_through_as_in_torch(instructions: str) -> None:
    model = pruned(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(75, 2)), 0.0)
    value = torch.randn(1, 2, 5, 5)
    fast = on_kernels(model, value)
    for wrong in (float("nan"), float("inf")):
        changed = value.clone()
        changed[0, 0, 2, 2] = wrong
        with torch.no_grad():
            assert torch.equal(fast(changed).isnan(), model(changed).isnan())


def test_choices_are_printed_saved_and_used_again(tmp_path: Path) -> None:
    needs_kernels()
    model = pruned(create_model("resnet20", num_classes=10, in_channels=3, image_size=32), 0.95)
    value = torch.randn(1, 3, 32, 32)
    first = on_kernels(model, value)
    first.save_choices(tmp_path / "choices.json")
    again = compile_sparse(model, value, choices=tmp_path / "choices.json")
    assert again.choices == first.choices
    assert torch.equal(again(value), first(value))
    names = [name for name, parameter in model.named_parameters() if parameter.dim() >= 2]
    assert sorted(first.choices) == sorted(names)
    summary = first.summary()
    assert all(name in summary for name in names)
    with pytest.raises(ValueError, match="the choices lack"):
        compile_sparse(model, value, choices={})
    with pytest.raises(ValueError, match="has no layer nothing"):
        compile_sparse(model, value, choices=first.choices | {"nothing": "dense"})
    with pytest.raises(ValueError, match="has no kernel 'magic' here"):
        compile_sparse(model, value, choices=dict.fromkeys(first.choices, "magic"))
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(ValueError, match=r"damaged\.json is damaged"):
        compile_sparse(model, value, choices=tmp_path / "damaged.json")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        compile_sparse(model, value, choices=tmp_path / "none.json")


def test_choices_hold_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.ENVIRONMENT, "torch")
    model, value = pruned(nn.Sequential(nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 4)), 0.5), torch.randn(3, 9)
    for choices in ({"0.weight": "dense", "2.weight": CSR}, {"0.weight": CSR, "2.weight": CSR}):
        fast = compile_sparse(model, value, choices=choices)
        assert fast.choices == choices
        assert difference(fast, model, value) < 1e-5
    with pytest.raises(ValueError, match=r"0\.weight has no kernel 'sparse 4' here; there are dense, torch CSR"):
        compile_sparse(model, value, choices=dict.fromkeys(fast.choices, "sparse 4"))
    with pytest.raises(ValueError, match=r"the choices lack 2\.weight"):
        compile_sparse(model, value, choices={"0.weight": "dense"})


def test_choices_of_a_network_left_dense_leave_it_dense(tmp_path: Path) -> None:
    model, value = Branching().eval(), torch.ones(1, 4)
    first = compile_sparse(model, value)
    first.save_choices(tmp_path / "choices.json")
    again = compile_sparse(model, value, choices=tmp_path / "choices.json")
    assert again.choices == first.choices
    assert again.compilation.engine == "dense"
    assert "so the given choices say" in again.summary()
    with pytest.raises(ValueError, match="choices were given for the layers of a network that is left dense"):
        compile_sparse(model, value, choices={"layer.weight": "dense"})


@pytest.mark.parametrize("left", ["dense", "torch", *["a call"] * bool(library.available())])
def test_threads_hold_for_what_torch_runs(left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()

    class Noting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.add(torch.get_num_threads())
            return x

    if left == "dense":
        fast = compile_sparse(nn.Sequential(Noting(), Branching()).eval(), torch.ones(1, 4), threads=3)
    else:
        monkeypatch.setenv(library.ENVIRONMENT, "torch" if left == "torch" else library.available()[0])
        model = pruned(nn.Sequential(nn.Linear(4, 4), nn.GELU()), 0.5)
        fast = compile_sparse(model, torch.ones(1, 4), threads=3, choices={"0.weight": "dense"})
        assert fast.compilation.engine.partition(" ")[0] == ("torch" if left == "torch" else "kernels")
        original = fast._run
        monkeypatch.setattr(fast, "_run", lambda value: (seen.add(torch.get_num_threads()), original(value))[1])
    seen.clear()
    fast(torch.ones(1, 4))
    assert seen == {3}
    assert torch.get_num_threads() == 1


class Twice(nn.Module):
    """One layer used at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(F.max_pool2d(F.relu(self.layer(x)), 2))


def test_a_layer_used_twice_has_two_choices() -> None:
    needs_kernels()
    model, value = pruned(Twice(), 0.5), torch.randn(1, 3, 20, 20)
    fast = on_kernels(model, value)
    assert list(fast.choices) == ["layer.weight", "layer.weight#2"]
    mixed = dict(zip(fast.choices, ("dense", fast.choices["layer.weight#2"]), strict=True))
    again = compile_sparse(model, value, choices=mixed)
    assert again.choices == mixed
    assert difference(again, model, value) < 1e-5


def test_weights_that_are_computed_from_parameters_have_kernels(instructions: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    pruned(model, 0.0)
    first, last = model[0], model[4]
    prune.l1_unstructured(first, "weight", 0.75)
    torch.nn.utils.parametrizations.weight_norm(last)
    model.eval()
    value = torch.randn(2, 3, 5, 5)
    fast = on_kernels(model, value)
    assert not fast.compilation.through_torch
    assert [round(layer.sparsity, 2) for layer in fast.compilation.layers] == [0.75, 0]
    assert difference(fast, model, value) < 1e-5


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
@pytest.mark.parametrize("layers", [1, 4])
def test_layers_without_numbers(instructions: str, layers: int) -> None:
    none, some = nn.Linear(4, 0), nn.Linear(0, 3)
    model, value = nn.Sequential(*[none, nn.ReLU(), some, nn.ReLU()][:layers]).eval(), torch.randn(2, 4)
    fast = compile_sparse(model, value, choices={})
    assert fast.compilation.engine != "dense"
    with torch.no_grad():
        assert torch.equal(fast(value), model(value))


class Sliced(nn.Module):
    """One row of a weight as the weight, one bias for all outputs, and a weight that is computed twice."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(1))

    def forward(self, x: Tensor) -> Tensor:
        one = F.linear(x, self.weight[0]).unsqueeze(1)
        hidden = F.linear(x, self.scale * self.weight, self.scale)
        return one + F.linear(hidden, self.weight.t() * self.scale)


def test_weights_that_no_kernel_takes_go_through_torch(instructions: str) -> None:
    model, value = Sliced().eval(), torch.randn(3, 5)
    choices = {"weight": "dense"}
    fast = compile_sparse(model, value, choices=choices)
    assert fast.choices == choices
    assert fast.compilation.through_torch
    assert difference(fast, model, value) < 1e-5


def test_what_becomes_of_the_model_later_does_not_reach_the_result(
    instructions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What was traced before holds the weights of another model.
    monkeypatch.setattr(compiled, "lower", lower)
    model = pruned(nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.GELU(), nn.Linear(8, 4), nn.LayerNorm(4)), 0.5)
    value = torch.randn(1, 9)
    fast = compile_sparse(model, value, choices={"0.weight": "dense", "3.weight": "dense"})
    assert fast.compilation.engine != "dense"
    before = fast(value)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert torch.equal(fast(value), before)


def test_the_callers_defaults_do_not_matter(instructions: str) -> None:
    model, value = pruned(Everything(), 0.6), torch.randn(1, 3, 45, 61)
    first = on_kernels(model, value)
    expected = first(value)
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            again = compile_sparse(model, value, choices=first.choices)
            results = [fast(value) for fast in (first, again)]
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(result, expected) for result in results)


class TwoResults(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if float(x.sum()) > 0 else -self.layer(x)


def test_what_cannot_be_traced_runs_as_it_is_and_says_why() -> None:
    model = Branching().eval()
    fast = compile_sparse(model, torch.ones(1, 4))
    assert fast.compilation.engine == "dense"
    assert "torch.export cannot trace it" in fast.summary()
    for sign in (1, -1):
        assert torch.equal(fast(torch.full((1, 4), float(sign))), model(torch.full((1, 4), float(sign))))


class Features(nn.Module):
    """An activation as the last thing that is done to features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(5, width), nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.gelu(self.norm(F.relu(self.layer(x)))))


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("width", [1, 7, 10, 16, 33])
def test_sums_and_activations_of_features(instructions: str, width: int, samples: int) -> None:
    model, value = pruned(Features(width), 0.5), torch.randn(samples, 5)
    assert difference(on_kernels(model, value), model, value) < 1e-5


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 70), st.integers(1, 3), st.booleans())
def test_nothing_is_written_behind_a_result(features: int, samples: int, summed: bool) -> None:
    needs_kernels()
    value = torch.randn(samples, features)
    unchanged = {"scale": torch.ones(features), "shift": torch.zeros(features)}
    step = Affine(
        name="y",
        inputs=("x",),
        shape=(samples, features),
        limits=Limits(0.0),
        residual="x" if summed else None,
        **unchanged,
    )
    network = Network((step,), "x", (samples, features), "y")
    kernels = library.kernels()
    assert kernels is not None
    laid_out = plan(network)
    room = torch.full((samples * features + 64,), 7.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", lambda shape, **options: room[: samples * features].view(tuple(shape)))
        engine = Engine(laid_out, [task for task in laid_out.tasks if isinstance(task, PlannedOperation)], kernels, 1)
        result = engine.run(value, (samples, features))
    assert torch.equal(result, (value + value if summed else value).clamp(min=0))
    assert bool((room[samples * features :] == 7).all())


def test_averages_leave_no_garbage_for_the_padding_of_what_reads_them(instructions: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 32, 3, padding=1))
    value = torch.randn(2, 3, 9, 9)
    fast = on_kernels(pruned(model, 0.3), torch.zeros_like(value))
    for _ in range(3):
        assert difference(fast, model, value) < 1e-5


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.BatchNorm1d(20), nn.Linear(20, 10)), (1, 20)),
        (nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU()), (2, 3, 9)),
        (nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2), nn.ReLU()), (1, 1, 5, 5, 5)),
    ],
    ids=["a norm of features", "1-D", "3-D"],
)
def test_norms_that_no_layer_takes(instructions: str, model: nn.Module, shape: tuple[int, ...]) -> None:
    value = torch.randn(shape)
    assert difference(compile_sparse(pruned(model, 0.5), value), model, value) < 1e-5


def test_a_network_left_as_it_is_does_not_train_with_the_users(instructions: str) -> None:
    model = nn.Sequential(Branching(), nn.BatchNorm1d(4)).eval()
    fast, value = compile_sparse(model, torch.ones(2, 4)), torch.randn(2, 4).abs()
    before = fast(value)
    model.train()
    assert torch.equal(fast(value), before)
    assert model.training
    assert not list(fast.parameters())


def test_dense_weights_are_not_kept() -> None:
    needs_kernels()
    import gc
    import weakref

    from sparsewright.runtime import choosing

    made: list[weakref.ref[Tensor]] = []
    original = choosing.choose

    def noting(task: WeightedTask, *arguments: Any) -> Any:
        made.append(weakref.ref(task.step.weight))
        return original(task, *arguments)

    model = pruned(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), 0.9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sparsewright.runtime.compiled.choose", noting)
        fast = compile_sparse(model, torch.randn(1, 3, 9, 9))
    gc.collect()
    assert made
    assert all(reference() is None for reference in made)
    assert fast is not None


def test_a_network_without_zeros_works(instructions: str) -> None:
    model = pruned(Everything(), 0.0)
    value = torch.randn(1, 3, 45, 61)
    assert difference(compile_sparse(model, value), model, value) < 1e-5


def test_a_network_of_other_shapes_goes_through_torch(instructions: str) -> None:
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    value = torch.randn(2, 5, 16)
    assert difference(compile_sparse(model, value), model, value) < 1e-4


def test_bad_input_is_named() -> None:
    model, value = (
        pruned(create_model("lenet5", num_classes=10, in_channels=1, image_size=28), 0.9),
        torch.randn(1, 1, 28, 28),
    )
    with pytest.raises(ValueError, match="LeNet5 is in training mode"):
        compile_sparse(copy.deepcopy(model).train(), value)
    with pytest.raises(ValueError, match=r"conv1\.weight is torch\.float16; float32 is supported"):
        compile_sparse(copy.deepcopy(model).half(), value)
    with pytest.raises(ValueError, match=r"conv1\.weight is on meta"):
        compile_sparse(copy.deepcopy(model).to("meta"), value)
    with pytest.raises(ValueError, match=r"example_input is torch\.float64"):
        compile_sparse(model, value.double())
    with pytest.raises(ValueError, match="at least one sample"):
        compile_sparse(model, value[:0])
    wrong: Any = [value]
    with pytest.raises(TypeError, match="example_input must be a tensor, got list"):
        compile_sparse(model, wrong)
    wrong = "model"
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        compile_sparse(wrong, value)
    for threads in (0, 1.5, 2**32):
        wrong = threads
        with pytest.raises(ValueError, match="threads must be a number from 1 to 1024"):
            compile_sparse(model, value, threads=wrong)
    with pytest.raises(TypeError, match="returns tuple"):
        compile_sparse(TwoResults().eval(), value)
    fast = compile_sparse(model, value)
    with pytest.raises(ValueError, match=r"has shape \(2, 1, 28, 28\), and this network was compiled for"):
        fast(torch.randn(2, 1, 28, 28))
    with pytest.raises(ValueError, match="requires a gradient"):
        fast(value.clone().requires_grad_())
    with pytest.raises(ValueError, match="cannot be trained"):
        fast.train()
    with pytest.raises(ValueError, match=r"a compiled network is float32 on the CPU, got torch\.float16 on cpu"):
        fast.half()
    with pytest.raises(ValueError, match=r"float32 on the CPU, got torch\.float32 on meta"):
        fast.to("meta")
    assert fast.to("cpu").float() is fast
    for make_copy in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="program for this process"):
            make_copy(fast)


def test_kernels_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.ENVIRONMENT, "sse9")
    with pytest.raises(ValueError, match=r"SPARSEWRIGHT_KERNELS=sse9: kernels here are .*torch"):
        sw.compile_sparse(nn.Linear(2, 2).eval(), torch.randn(1, 2))
