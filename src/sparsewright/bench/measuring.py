"""Times of one network on several engines, in turn in one run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsewright.analysis import Latency, measure_latency
from sparsewright.bench.engines import ENGINES, EngineError, Subject
from sparsewright.modules import evaluation_mode
from sparsewright.runtime import Compilation, CompiledSparse
from sparsewright.runtime.checking import MOST_THREADS


@dataclass(frozen=True)
class BenchRow:
    """One engine at one batch size and number of threads.

    Attributes:
        engine: key of :data:`~sparsewright.bench.engines.ENGINES`.
        batch, threads: samples at a time, and threads of the engine.
        latency: times of a call; None where the engine failed.
        speedup: median of torch's eager mode over that of this engine; None without either.
        difference: largest difference to eager mode's result, relative to its largest number; None
            without either, and where a result is not finite.
        failure: why there are no times; empty where there are.
    """

    engine: str
    batch: int
    threads: int
    latency: Latency | None
    speedup: float | None = None
    difference: float | None = None
    failure: str = ""


@dataclass(frozen=True)
class BenchResult:
    """What was measured.

    Attributes:
        rows: engines of the first batch size and number of threads, then of the next.
        compilations: what the sparse engine made of the network, by (batch, threads).
    """

    rows: tuple[BenchRow, ...]
    compilations: dict[tuple[int, int], Compilation]


def bench_network(
    model: nn.Module,
    sample: Tensor,
    *,
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (1,),
    engines: Sequence[str] = tuple(ENGINES),
    seconds: float = 5.0,
    progress: Callable[[str], None] = lambda message: None,
) -> BenchResult:
    """Run a network on several engines, in turn, so that a busy machine disturbs all of them alike.

    Args:
        model: in evaluation mode, float32, on the CPU.
        sample: one input without its batch dimension.
        batches: samples at a time.
        threads: of the engines.
        engines: keys of :data:`~sparsewright.bench.engines.ENGINES`; those that are not installed are reported so.
        seconds: about how long to measure each combination of batch and threads.
        progress: is told what is being done.

    Raises:
        ValueError: an unknown engine, or a number of threads that cannot be.
    """
    if unknown := [name for name in engines if name not in ENGINES]:
        raise ValueError(f"there is no engine {unknown[0]!r}; there are {', '.join(ENGINES)}")
    if too_many := [count for count in threads if not 1 <= count <= MOST_THREADS]:
        raise ValueError(f"threads must be from 1 to {MOST_THREADS}, got {too_many[0]}")
    rows: list[BenchRow] = []
    compilations: dict[tuple[int, int], Compilation] = {}
    former = torch.get_num_threads()
    try:
        for count in threads:
            torch.set_num_threads(count)
            for batch in batches:
                example = sample.unsqueeze(0).repeat_interleave(batch, dim=0).contiguous()
                ready, failures = _prepared(model, example, count, engines, progress)
                progress(f"measuring batch {batch} on {count} threads")
                rows += _measured(ready, failures, example, count, engines, seconds)
                if isinstance(fast := ready.get("sparsewright"), CompiledSparse):
                    compilations[batch, count] = fast.compilation
    finally:
        torch.set_num_threads(former)
    return BenchResult(tuple(rows), compilations)


def _prepared(
    model: nn.Module, example: Tensor, threads: int, engines: Sequence[str], progress: Callable[[str], None]
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    ready: dict[str, nn.Module] = {}
    failures: dict[str, str] = {}
    subject = Subject(model, example, threads)
    with evaluation_mode(model), torch.no_grad():
        # Threads of other libraries spin for a while after a call, which would mislead the choice of kernels.
        for name in sorted(engines, key=lambda name: name != "sparsewright"):
            if not ENGINES[name].installed:
                failures[name] = f"{ENGINES[name].package} is not installed"
                continue
            progress(f"preparing {ENGINES[name].label} for batch {len(example)} on {threads} threads")
            try:
                ready[name] = ENGINES[name].prepare(subject)
                ready[name](example)
            # Whatever another library raises: the others are measured all the same, and the table says why.
            except Exception as error:
                ready.pop(name, None)
                failures[name] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
    return {name: ready[name] for name in engines if name in ready}, failures


def _measured(
    ready: dict[str, nn.Module],
    failures: dict[str, str],
    example: Tensor,
    threads: int,
    engines: Sequence[str],
    seconds: float,
) -> list[BenchRow]:
    if not ready:
        raise EngineError(f"no engine can run the network: {'; '.join(failures.values())}")
    times = measure_latency(ready, example, seconds=seconds)
    results = {}
    with torch.inference_mode():
        results = {name: network(example).clone() for name, network in ready.items()}
    rows = []
    for name in engines:
        if name in failures:
            rows.append(BenchRow(name, len(example), threads, None, failure=failures[name]))
            continue
        base, speedup, difference = times.get("eager"), None, None
        if base is not None:
            speedup = base.median_ms / times[name].median_ms
            expected = results["eager"]
            largest = float(expected.abs().max()) or 1.0
            difference = float((results[name] - expected).abs().max()) / largest
            difference = difference if math.isfinite(difference) else None
        rows.append(BenchRow(name, len(example), threads, times[name], speedup, difference))
    return rows
