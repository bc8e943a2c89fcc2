"""How fast a run's network is on several inference engines, from the record that ``bench --report`` leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import plotly.graph_objects as go
from pydantic import BaseModel, ConfigDict, ValidationError

from sparsewright.formats import percent
from sparsewright.report.blocks import Block, Paragraph, Plot, Section, Table
from sparsewright.report.palette import SERIES
from sparsewright.training.folder import BENCH


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class BenchLatency(_Part):
    """Milliseconds of a call."""

    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float


class BenchEngine(_Part):
    """One engine at one batch size and number of threads."""

    engine: str
    label: str
    batch: int
    threads: int
    latency: BenchLatency | None
    speedup: float | None
    difference: float | None
    failure: str


class BenchSizes(_Part):
    """Bytes of the weights."""

    dense: int
    sparse: int
    sparse_float16: int | None


class BenchRecord(_Part):
    """What ``bench`` measured."""

    kind: Literal["bench"]
    date: str
    machine: str
    sizes: BenchSizes
    rows: list[BenchEngine]


def read_bench(folder: Path) -> BenchRecord | None:
    """The record in a run folder; None where there is none.

    Raises:
        ValueError: it is damaged.
    """
    path = folder / BENCH
    if not path.is_file():
        return None
    try:
        return BenchRecord.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise ValueError(f"{path} is damaged; delete it, or measure again with bench --report") from error


def bench_section(record: BenchRecord) -> Section:
    """A plot of the medians with a table, and the sizes of the files."""
    about = f"Measured on {record.date} on {record.machine}, all engines in turn in one run, on random images."
    blocks: list[Block] = [Paragraph(about), _plot(record.rows), _sizes(record.sizes)]
    failures = [f"{row.label}: {row.failure}." for row in record.rows if row.failure]
    if failures:
        blocks.append(Paragraph(" ".join(dict.fromkeys(failures))))
    return Section("Inference", blocks)


def _plot(rows: Sequence[BenchEngine]) -> Plot:
    cases = list(dict.fromkeys((row.batch, row.threads) for row in rows))
    figure = go.Figure()
    for index, label in enumerate(dict.fromkeys(row.label for row in rows if row.latency)):
        found = {(row.batch, row.threads): row.latency for row in rows if row.label == label and row.latency}
        shown = [case for case in cases if case in found]
        medians = [found[case].median_ms for case in shown]
        figure.add_bar(
            name=label,
            x=[bench_case(*case) for case in shown],
            y=medians,
            marker_color=SERIES[index % len(SERIES)],
            error_y={
                "type": "data",
                "array": [found[case].upper_quartile_ms - median for case, median in zip(shown, medians, strict=True)],
                "arrayminus": [
                    median - found[case].lower_quartile_ms for case, median in zip(shown, medians, strict=True)
                ],
            },
        )
    figure.update_layout(barmode="group")
    # Ticks at 1, 2 and 5.
    figure.update_yaxes(title="ms per batch (logarithmic)", type="log", dtick="D2")
    return Plot("Time per batch", figure, "Medians, with bars from the lower to the upper quartile.", _table(rows))


def _table(rows: Sequence[BenchEngine]) -> Table:
    columns = ["engine", "batch", "threads", "median ms", "lower quartile", "upper quartile", "speed-up", "difference"]
    return Table(columns, [_cells(row) for row in rows], "Milliseconds per batch", columns[3:])


def _cells(row: BenchEngine) -> list[Any]:
    start: list[Any] = [row.label, row.batch, row.threads]
    if row.latency is None:
        return [*start, *[None] * 5]
    times = [row.latency.median_ms, row.latency.lower_quartile_ms, row.latency.upper_quartile_ms]
    speedup = None if row.speedup is None else f"{row.speedup:.2f}x"
    difference = None if row.difference is None else f"{row.difference:.0e}"
    return [*start, *(f"{value:.3f}" for value in times), speedup, difference]


def _sizes(sizes: BenchSizes) -> Table:
    found = {"dense": sizes.dense, "sparse": sizes.sparse, "sparse, 16-bit values": sizes.sparse_float16}
    rows = [[name, size, percent(size / sizes.dense)] for name, size in found.items() if size is not None]
    return Table(["file", "bytes", "of dense"], rows, "Sizes of the weights as files", ["of dense"])


def bench_case(batch: int, threads: int) -> str:
    """What was measured, in words."""
    return f"batch {batch}, {threads} thread{'' if threads == 1 else 's'}"
