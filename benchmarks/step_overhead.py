"""What a method costs: the time of a training step, of a topology update, and memory, beside dense training.

    python benchmarks/step_overhead.py [--models resnet50-cifar vgg19] [--methods granet rigl] [--threads 2]

Three things are measured in one run, dense and method always in turn on twins of one network with the same weights,
gradients and optimizer state:

- whole training steps (forward, backward, ``optimizer.step()``), dense, method, dense, ...: ``--repeats`` times;
- ``optimizer.step()`` alone, where all the work of a method happens, ``--hook-repeats`` times each for dense steps,
  ordinary steps and steps with a topology update: every second step updates, along a ramp that lasts the whole run, so
  that ramp methods prune and regrow in each of them;
- memory that creation leaves behind, and the peak above it inside ``optimizer.step()``.

GSM has no updates: it selects in every step, which therefore counts as ordinary. An update of GReg is a step in which
its penalty grows and it measures how far magnitudes are apart; GReg-2 is timed while it picks, which costs more.

The ratio is that of mean step times over an update interval: 99 ordinary steps and one update against 100 dense steps,
and for GReg, with its default interval, 4 and one against 5. Forward and backward compute the same thing with and
without masks, so their median stands for both, and the difference that is left is measured on ``optimizer.step()``,
which can be timed often; the ratio of the whole steps beside it is direct, but as noisy as the machine. The cost of an
update counts the whole call of ``optimizer.step()`` in which it happens.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD

import sparsewright as sw
from sparsewright.methods.registry import method_info
from sparsewright.models import create_model
from sparsewright.penalty import PenaltySparsifier

INTERVAL = 100
GREG_INTERVAL = 5
NEVER = 10**6
MIB = 2**20


@dataclass
class Twin:
    """A network with its optimizer and the gradients of one batch."""

    model: nn.Module
    optimizer: SGD
    gradients: list[Tensor] = field(default_factory=list)

    def keep_gradients(self) -> None:
        self.gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]

    def restore_gradients(self) -> None:
        """Undo what a step did to the gradients: GSM gates them, an update that replaces the step takes them away."""
        for parameter, gradient in zip(self.model.parameters(), self.gradients, strict=True):
            parameter.grad = gradient.clone()

    def copy(self) -> Twin:
        model = copy.deepcopy(self.model)
        optimizer = make_optimizer(model)
        optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        twin = Twin(model, optimizer, [gradient.clone() for gradient in self.gradients])
        twin.restore_gradients()
        return twin


@dataclass(frozen=True)
class Memory:
    """Bytes that a piece of work leaves allocated, and the most that it had above the level at its start."""

    kept: int
    peak: int


@dataclass
class Row:
    """What was measured of one method; times in seconds, memory in bytes."""

    method: str
    weights: int
    ordinary: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)
    dense: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    whole_dense: list[float] = field(default_factory=list)
    creation: Memory = Memory(0, 0)
    ordinary_memory: Memory = Memory(0, 0)
    update_memory: Memory | None = None


class Bench:
    """The device and clock of a run, and how something is timed and weighed on them."""

    def __init__(self, device: torch.device, clock: str) -> None:
        self.device = device
        self._clock = time.perf_counter if clock == "wall" else time.process_time

    def seconds(self, work: Callable[[], Any]) -> float:
        self._wait()
        start = self._clock()
        work()
        self._wait()
        return self._clock() - start

    def memory(self, work: Callable[[], Any]) -> Memory:
        gc.collect()
        return self._memory_cuda(work) if self.device.type == "cuda" else self._memory_cpu(work)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _memory_cuda(self, work: Callable[[], Any]) -> Memory:
        self._wait()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        work()
        self._wait()
        after, peak = torch.cuda.memory_allocated(self.device), torch.cuda.max_memory_allocated(self.device)
        return Memory(after - before, peak - before)

    def _memory_cpu(self, work: Callable[[], Any]) -> Memory:
        """Add up the profiler's record of every allocation and release of torch's CPU allocator."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
            work()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(path))
            events = json.loads(path.read_text())["traceEvents"]
        changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
        level = peak = 0
        for _, change in changes:
            level += change
            peak = max(peak, level)
        return Memory(level, peak)


def make_optimizer(model: nn.Module) -> SGD:
    # A tiny learning rate: the same gradients are stepped along many times, and the weights must stay finite.
    return SGD(model.parameters(), lr=1e-6, momentum=0.9, nesterov=True, weight_decay=5e-4)


def make_twin(name: str, batch: tuple[Tensor, Tensor]) -> Twin:
    model = create_model(name, num_classes=10, seed=0).to(batch[0].device).train()
    twin = Twin(model, make_optimizer(model))
    forward_backward(twin, batch)
    twin.optimizer.step()
    twin.keep_gradients()
    return twin


def forward_backward(twin: Twin, batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    twin.optimizer.zero_grad()
    F.cross_entropy(twin.model(images), labels).backward()


def attach(name: str, twin: Twin, sparsity: float, updates: int | None) -> sw.Sparsifier:
    """The method on a network: an update at every second step, ``updates`` of them, or none at all if None."""
    known = method_info(name).options
    total = NEVER if updates is None else 2 * (updates + 1)
    options: dict[str, Any] = {}
    if issubclass(method_info(name).cls, PenaltySparsifier):
        # Slowly enough that it neither picks nor ends while it is timed.
        slow = {option: 1e-6 for option in ("reg_step", "pick_step") if option in known}
        interval = NEVER if updates is None else 2
        return sw.create(name, twin.model, twin.optimizer, sparsity=sparsity, reg_interval=interval, **slow)
    if "update_interval" in known:
        options = {"update_interval": NEVER // 2 if updates is None else 2, "update_end": 1.0}
    if "prune_end" in known:
        options["prune_end"] = 1.0
    return sw.create(name, twin.model, twin.optimizer, sparsity=sparsity, total_steps=total, **options)


def time_optimizer_steps(bench: Bench, dense: Twin, twin: Twin, sparsifier: sw.Sparsifier, pairs: int) -> Row:
    """Dense, ordinary, dense and updating calls of ``optimizer.step()`` in turn."""
    row = Row("", sum(parameter.numel() for parameter in sparsifier.parameters.values()))
    for _ in range(2 * pairs):
        dense.restore_gradients()
        twin.restore_gradients()
        row.dense.append(bench.seconds(dense.optimizer.step))
        before = updates_of(sparsifier)
        elapsed = bench.seconds(twin.optimizer.step)
        (row.update if updates_of(sparsifier) > before else row.ordinary).append(elapsed)
    return row


def updates_of(sparsifier: sw.Sparsifier) -> int:
    """How many updates it has done so far."""
    if isinstance(sparsifier, PenaltySparsifier):
        return -(-sparsifier.step_count // sparsifier.options.reg_interval)
    return sparsifier.topology_version


def weigh(bench: Bench, name: str, dense: Twin, sparsity: float) -> tuple[Memory, Memory, Memory | None]:
    """Memory of creation, of an ordinary step and of a step with an update."""
    twin = dense.copy()
    made: list[sw.Sparsifier] = []
    creation = bench.memory(lambda: made.append(attach(name, twin, sparsity, updates=2)))
    steps: dict[bool, Memory] = {}
    for _ in range(2):
        before = updates_of(made[0])
        step = bench.memory(twin.optimizer.step)
        steps[updates_of(made[0]) > before] = step
        twin.restore_gradients()
    made[0].detach()
    return creation, steps[False], steps.get(True)


def time_whole_steps(
    bench: Bench, dense: Twin, twin: Twin, batch: tuple[Tensor, Tensor], repeats: int, row: Row
) -> list[float]:
    """Whole steps in turn; returns the times of all their forward and backward passes."""
    passes: list[float] = []
    for _ in range(repeats):
        for one, whole in ((dense, row.whole_dense), (twin, row.whole)):
            elapsed = bench.seconds(lambda one=one: forward_backward(one, batch))
            passes.append(elapsed)
            whole.append(elapsed + bench.seconds(one.optimizer.step))
    for one in (dense, twin):
        one.keep_gradients()
    return passes


def measure(bench: Bench, model: str, options: argparse.Namespace) -> tuple[list[Row], list[float], Memory]:
    """All methods on one network, its forward and backward times, and the memory of a dense optimizer step."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(options.batch, 3, 32, 32, generator=generator).to(bench.device)
    batch = (images, torch.randint(10, (options.batch,), generator=generator).to(bench.device))
    dense = make_twin(model, batch)
    rows: list[Row] = []
    passes: list[float] = []
    while len(passes) < options.passes:
        passes.append(bench.seconds(lambda: forward_backward(dense, batch)))
    dense.keep_gradients()
    for name in options.methods:
        twin = dense.copy()
        sparsifier = attach(name, twin, options.sparsity, updates=options.hook_repeats)
        row = time_optimizer_steps(bench, dense, twin, sparsifier, options.hook_repeats)
        sparsifier.detach()
        row.method = name
        if name in options.whole:
            sparsifier = attach(name, twin, options.sparsity, updates=None)
            passes += time_whole_steps(bench, dense, twin, batch, options.repeats, row)
            sparsifier.detach()
        row.creation, row.ordinary_memory, row.update_memory = weigh(bench, name, dense, options.sparsity)
        rows.append(row)
        print(f"  {model}: {name} measured", file=sys.stderr, flush=True)
    return rows, passes, bench.memory(dense.optimizer.step)


def ratio(row: Row, forward_backward_time: float) -> float:
    """Mean step time over one update interval, in dense steps."""
    ordinary = forward_backward_time + median(row.ordinary)
    update = forward_backward_time + median(row.update) if row.update else ordinary
    interval = GREG_INTERVAL if row.method.startswith("greg") else INTERVAL
    return ((interval - 1) * ordinary + update) / (interval * (forward_backward_time + median(row.dense)))


def print_table(model: str, rows: Sequence[Row], passes: Sequence[float], dense_memory: Memory) -> None:
    forward_backward_time = median(passes)
    optimizer_time = median([elapsed for row in rows for elapsed in row.dense])
    weights = rows[0].weights
    print(f"\n### {model}: {weights:,} weights in scope\n")
    print(
        f"Forward and backward {forward_backward_time:.3f} s (median of {len(passes)}, {min(passes):.3f} to "
        f"{max(passes):.3f}), dense optimizer step {1e3 * optimizer_time:.1f} ms with "
        f"{dense_memory.peak / weights:.2f} bytes per weight of its own transients.\n"
    )
    columns = [
        "method",
        "ordinary step, added",
        "step() with update",
        "ratio over an interval",
        "update, dense steps",
        "whole steps, ratio",
        "kept, bytes/weight",
        "peak, creation",
        "peak, ordinary",
        "peak, update",
    ]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(cells(row, forward_backward_time, forward_backward_time + optimizer_time))} |")


def cells(row: Row, forward_backward_time: float, step: float) -> list[str]:
    """A line of the table; what was not measured is a dash."""
    return [
        row.method,
        f"{1e3 * (median(row.ordinary) - median(row.dense)):.1f} ms",
        f"{1e3 * median(row.update):.0f} ms" if row.update else "-",
        f"{ratio(row, forward_backward_time):.4f}",
        f"{median(row.update) / step:.4f}" if row.update else "-",
        f"{median(row.whole) / median(row.whole_dense):.3f}" if row.whole else "-",
        f"{row.creation.kept / row.weights:.2f}",
        f"{row.creation.peak / row.weights:.2f}",
        f"{row.ordinary_memory.peak / row.weights:.2f}",
        f"{row.update_memory.peak / row.weights:.2f}" if row.update_memory else "-",
    ]


def parse_arguments() -> argparse.Namespace:
    names = [info.name for info in sw.list_methods()]
    parser = argparse.ArgumentParser(description="Time and memory of every method beside dense training.")
    add = parser.add_argument
    add("--models", nargs="+", default=["resnet50-cifar", "vgg19"])
    add("--methods", nargs="+", default=names, choices=names, metavar="METHOD")
    add("--whole", nargs="*", default=names, choices=names, metavar="METHOD", help="whose whole steps are timed too")
    add("--sparsity", type=float, default=0.9)
    add("--batch", type=int, default=128, help="images per batch (default: 128)")
    add("--repeats", type=int, default=1, help="whole steps per method (default: 1)")
    add("--passes", type=int, default=3, help="further forward and backward passes (default: 3)")
    add("--hook-repeats", type=int, default=10, help="updates timed per method (default: 10)")
    add("--device", default="cpu", help="cpu or cuda (default: cpu)")
    add("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: all)")
    add("--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time, for a machine in use")
    options = parser.parse_args()
    if options.clock == "cpu" and (options.threads != 1 or options.device != "cpu"):
        parser.error("--clock cpu adds up the time of all threads: it needs --threads 1 and --device cpu")
    return options


def main() -> None:
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    bench = Bench(torch.device(options.device), options.clock)
    device = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else platform.machine()
    print(
        f"sparsewright {sw.__version__}, torch {torch.__version__}, Python {platform.python_version()}, {device}, "
        f"{torch.get_num_threads()} threads, {options.clock} clock, batch {options.batch}, sparsity "
        f"{options.sparsity}, SGD with Nesterov momentum; load average {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    for model in options.models:
        rows, passes, dense_memory = measure(bench, model, options)
        print_table(model, rows, passes, dense_memory)
    print(f"\nLoad average at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
