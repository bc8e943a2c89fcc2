"""``compile_sparse``: a network with zeros in it as a program for this machine's CPU."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from sparsewright.files import write_text
from sparsewright.formats import percent
from sparsewright.modules import evaluation_mode, unwrapped
from sparsewright.runtime.checking import check_choices, check_model, check_tensor, check_threads, read_choices
from sparsewright.runtime.choosing import LayerChoice, choose
from sparsewright.runtime.engine import Engine
from sparsewright.runtime.fusion import fuse
from sparsewright.runtime.graph import Network, TorchCall, Weighted
from sparsewright.runtime.library import Kernels, kernels
from sparsewright.runtime.lowering import LoweringError, lower
from sparsewright.runtime.packing import OffsetError
from sparsewright.runtime.planning import TorchTask, WeightedTask, plan
from sparsewright.runtime.torch_engine import TorchEngine

LARGEST_DIFFERENCE = 1e-4
"""Between the results of the compiled and the dense network, relative to the largest number in them."""

LEFT_DENSE = "dense"
"""The engine of a network that runs as it is."""

TIMED_ONLY = "its layers were timed with these kernels, and do not run on them:"
"""What to say above the layers of such a network."""

WHOLE_NETWORK = "the whole network"
"""Stands for the layers in the choices of such a network."""

_TORCH = threading.RLock()
"""Held while torch runs a network, since its number of threads and a module's mode are one for the whole process."""

_TIMED_ROUNDS, _TIMED_SECONDS = 30, 0.5


@dataclass(frozen=True)
class Compilation:
    """What became of a network.

    Attributes:
        engine: what runs it: "kernels (NAME)", "torch" (without kernels) or "dense" (the model itself, as it is).
        reason: why it is not the kernels; empty where it is.
        threads: that it uses.
        layers: what was chosen for each layer; of a network left dense, what it was timed with.
        through_torch: operators that torch runs among the kernels.
        milliseconds: of the compiled and of the dense network, where both were timed.
        working_bytes: memory of the kernels for weights and values.
    """

    engine: str
    reason: str = ""
    threads: int = 1
    layers: tuple[LayerChoice, ...] = ()
    through_torch: tuple[str, ...] = ()
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    working_bytes: int = 0

    @property
    def uses_torch(self) -> bool:
        """Whether torch runs the network or a part of it."""
        return self.engine in ("torch", LEFT_DENSE) or bool(self.through_torch)


def compile_sparse(
    model: nn.Module,
    example_input: Tensor,
    *,
    threads: int | None = None,
    choices: Mapping[str, str] | Path | str | None = None,
) -> CompiledSparse:
    """Make a network fast on this machine's CPU by leaving its zeros out.

    Batch norms are folded into the layers before them; activations and residual sums are done where a layer's result
    is written. Each convolution and linear layer is timed with every kernel that can run it, a dense one included, and
    keeps the fastest. What there are no kernels for runs through torch, as does a whole network that ``torch.export``
    cannot trace, or that torch runs faster; :meth:`CompiledSparse.summary` says so.

    Args:
        model: in evaluation mode, on the CPU, in float32; wrapped (DDP, ``torch.compile``) or not. It is left as it is,
            and what becomes of its weights later does not reach the result, unless it was left dense.
        example_input: a tensor as the model takes it. The result runs inputs of exactly this shape; compile again for
            another batch or picture size.
        threads: that it uses, on kernels or on torch; by default torch's number now (``torch.get_num_threads()``).
        choices: of an earlier compilation on a machine of the same kind: :attr:`CompiledSparse.choices`, or a file that
            :meth:`CompiledSparse.save_choices` wrote. Nothing is timed then.

    Returns:
        A module that maps a tensor to a tensor, for inference alone.

    Raises:
        FileNotFoundError: there is no such file of choices.
        TypeError: ``model`` is no module, ``example_input`` no tensor, or the model's result none.
        ValueError: a model in training mode, weights or input elsewhere than on the CPU or of another type than
            float32, no samples, no positive number of threads, choices that do not fit the network, or kernels that
            ``SPARSEWRIGHT_KERNELS`` names and that are not there.
    """
    network = unwrapped(model)
    check_model(network)
    check_tensor("example_input", example_input)
    if example_input.dim() == 0 or example_input.numel() == 0:
        raise ValueError(f"example_input has shape {tuple(example_input.shape)}; it needs at least one sample")
    check_threads(threads)
    given = None if choices is None else read_choices(choices)
    found = kernels()
    threads = threads or torch.get_num_threads()
    with _TORCH, torch.no_grad(), _torch_threads(threads):
        example = example_input.detach().contiguous()
        expected = network(example)
        if not isinstance(expected, Tensor):
            raise TypeError(f"{type(network).__name__} returns {type(expected).__name__}; a tensor is supported")
        return _compiled(network, example, expected, found, threads, given)


class CompiledSparse(nn.Module):
    """A network that :func:`compile_sparse` made; call it as the model.

    It holds no parameters, and cannot be copied or saved: it is a program for this process. Calls from several threads
    wait for each other.

    Attributes:
        compilation: what became of the network.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], input_shape: tuple[int, ...], compilation: Compilation) -> None:
        super().__init__()
        self._run = run
        self._input_shape = input_shape
        self._torch_threads = compilation.threads if compilation.uses_torch else None
        self.compilation = compilation
        super().eval()

    def forward(self, value: Tensor) -> Tensor:
        """The network's result.

        Raises:
            TypeError: not a tensor.
            ValueError: a tensor of another shape, type or device than the one it was compiled for, or one that requires
                a gradient while gradients are recorded.
        """
        check_tensor("the input", value)
        if tuple(value.shape) != self._input_shape:
            raise ValueError(
                f"the input has shape {tuple(value.shape)}, and this network was compiled for {self._input_shape}; "
                "compile it again for another shape"
            )
        if value.requires_grad and torch.is_grad_enabled():
            raise ValueError("the input requires a gradient, and a compiled network has none; use torch.no_grad()")
        value = value.resolve_neg().contiguous()
        if self._torch_threads is None:
            return self._run(value)
        with _TORCH, torch.no_grad(), _torch_threads(self._torch_threads):
            return self._run(value)

    def train(self, mode: bool = True) -> CompiledSparse:
        """Stays in evaluation mode.

        Raises:
            ValueError: training mode is asked for.
        """
        if mode:
            raise ValueError("a compiled network cannot be trained")
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CompiledSparse:
        # What half(), to() and cuda() come to; there are no parameters that they could change.
        changed = fn(torch.zeros(1, dtype=torch.float32, device="cpu"))
        if changed.dtype != torch.float32 or changed.device.type != "cpu":
            raise ValueError(f"a compiled network is float32 on the CPU, got {changed.dtype} on {changed.device}")
        return self

    @property
    def choices(self) -> dict[str, str]:
        """The kernel of each layer, by the name of its weight; that there are none where the network was left dense."""
        if self.compilation.engine == LEFT_DENSE:
            return {WHOLE_NETWORK: LEFT_DENSE}
        return {layer.layer: layer.kernel for layer in self.compilation.layers}

    def save_choices(self, file: Path | str) -> None:
        """Write :attr:`choices` as JSON, for ``compile_sparse(choices=...)``.

        Raises:
            SaveError: writing failed; a former file is intact.
        """
        write_text(Path(file), json.dumps(self.choices, indent=1) + "\n")

    def summary(self) -> str:
        """What runs the network and why, and for each layer its kernel and the times that decided."""
        made = self.compilation
        lines = [f"input {' x '.join(map(str, self._input_shape))}, runs on: {made.engine}, threads: {made.threads}"]
        if made.reason:
            lines.append(f"not on kernels: {made.reason}")
        if made.milliseconds:
            lines.append(", ".join(f"{name} {value:.3f} ms" for name, value in made.milliseconds.items()))
        if made.working_bytes:
            lines.append(f"memory {made.working_bytes / 2**20:.1f} MiB")
        if made.through_torch:
            lines.append(f"through torch: {', '.join(made.through_torch)}")
        if made.layers and made.engine == LEFT_DENSE:
            lines.append(TIMED_ONLY)
        rows = [("layer", "sparsity", "kernel", "milliseconds of each kernel")]
        for layer in made.layers:
            times = ", ".join(f"{name} {value:.3f}" for name, value in layer.milliseconds.items())
            rows.append((layer.layer, percent(layer.sparsity), layer.kernel, times))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        for name, sparsity, kernel, times in rows if made.layers else []:
            cells = (name.ljust(widths[0]), sparsity.rjust(widths[1]), kernel.ljust(widths[2]), times)
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def extra_repr(self) -> str:
        """Shape and engine."""
        return f"input={self._input_shape}, engine={self.compilation.engine}"

    def __getstate__(self) -> NoReturn:
        raise TypeError("a compiled network is a program for this process; save the model and compile it again")

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__getstate__()


def _compiled(
    model: nn.Module,
    example: Tensor,
    expected: Tensor,
    found: Kernels | None,
    threads: int,
    given: Mapping[str, str] | None,
) -> CompiledSparse:
    shape = tuple(example.shape)
    if given == {WHOLE_NETWORK: LEFT_DENSE}:
        return _dense(model, shape, threads, "so the given choices say")
    try:
        network = fuse(lower(model, example))
        with torch.device("cpu"):
            if found is None:
                run, made = _on_torch(network, example, threads, given)
            else:
                run, made = _on_kernels(network, found, threads, given)
    except (LoweringError, OffsetError) as error:
        if given is not None:
            raise ValueError(f"choices were given for the layers of a network that is left dense: {error}") from error
        return _dense(model, shape, threads, str(error))
    probe = torch.randn_like(example)
    difference = max(_difference(run(example), expected), _difference(run(probe), model(probe)))
    if difference > LARGEST_DIFFERENCE:
        return _dense(model, shape, threads, f"the results differ by {difference:.1g} of their largest number", made)
    if given is not None:
        return CompiledSparse(run, shape, made)
    times = _compared(run, model, example)
    made = _with_times(made, times)
    if times["dense model"] < times["compiled"]:
        return _dense(model, shape, threads, "torch runs the dense model faster", made)
    return CompiledSparse(run, shape, made)


def _on_kernels(
    network: Network, found: Kernels, threads: int, given: Mapping[str, str] | None
) -> tuple[Callable[[Tensor], Tensor], Compilation]:
    laid_out = plan(network)
    layers = [task for task in laid_out.tasks if isinstance(task, WeightedTask)]
    if given is not None:
        check_choices(given, [task.step.layer for task in layers])
    chosen = {
        task.step.name: choose(task, found, threads, given[task.step.layer] if given is not None else None)
        for task in layers
    }
    tasks = [chosen[task.step.name][0] if isinstance(task, WeightedTask) else task for task in laid_out.tasks]
    engine = Engine(laid_out, tasks, found, threads)
    output_shape = network.shapes()[network.output]
    calls = [str(task.step.target) for task in tasks if isinstance(task, TorchTask)]
    made = Compilation(
        engine=f"kernels ({found.instructions})",
        threads=threads,
        layers=tuple(choice for _, choice in chosen.values()),
        through_torch=tuple(dict.fromkeys(calls)),
        working_bytes=engine.working_bytes,
    )
    return lambda value: engine.run(value, output_shape), made


def _on_torch(
    network: Network, example: Tensor, threads: int, given: Mapping[str, str] | None
) -> tuple[Callable[[Tensor], Tensor], Compilation]:
    if given is not None:
        check_choices(given, [step.layer for step in network.steps if isinstance(step, Weighted)])
    engine = TorchEngine(network, example, given)
    calls = [str(step.target) for step in network.steps if isinstance(step, TorchCall)]
    reason = "they were not compiled when the package was installed, or were switched off"
    made = Compilation("torch", reason, threads, tuple(engine.layers), tuple(dict.fromkeys(calls)))
    return engine.run, made


def _dense(
    model: nn.Module, shape: tuple[int, ...], threads: int, reason: str, tried: Compilation | None = None
) -> CompiledSparse:
    tried = tried or Compilation(LEFT_DENSE)

    def run(value: Tensor) -> Tensor:
        # The user's own module, which may have been switched to training since.
        with evaluation_mode(model):
            return model(value)

    made = Compilation(LEFT_DENSE, reason, threads, tried.layers, milliseconds=tried.milliseconds)
    return CompiledSparse(run, shape, made)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """So many threads for torch meanwhile."""
    former = torch.get_num_threads()
    if threads == former:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(former)


def _with_times(made: Compilation, times: Mapping[str, float]) -> Compilation:
    return Compilation(**{**made.__dict__, "milliseconds": {name: 1000 * value for name, value in times.items()}})


def _difference(result: Tensor, expected: Tensor) -> float:
    if not expected.is_floating_point():
        return 0.0 if torch.equal(result, expected) else float("inf")
    if result.shape != expected.shape or not torch.equal(result.isnan(), expected.isnan()):
        return float("inf")
    finite = expected.isfinite()
    if not torch.equal(result[~finite].nan_to_num(), expected[~finite].nan_to_num()):
        return float("inf")
    result, expected = result[finite], expected[finite]
    if not expected.numel():
        return 0.0
    return float((result - expected).abs().max()) / (float(expected.abs().max()) or 1.0)


def _compared(run: Callable[[Tensor], Tensor], model: nn.Module, example: Tensor) -> dict[str, float]:
    """Shortest seconds of both, in turn; the shortest, since whatever else the machine does only adds to it."""
    networks: dict[str, Callable[[Tensor], Tensor]] = {"compiled": run, "dense model": model}
    times = dict.fromkeys(networks, float("inf"))
    begin = time.perf_counter()
    for _ in range(_TIMED_ROUNDS):
        for name, network in networks.items():
            start = time.perf_counter()
            network(example)
            times[name] = min(times[name], time.perf_counter() - start)
        if time.perf_counter() - begin > _TIMED_SECONDS:
            break
    return times
