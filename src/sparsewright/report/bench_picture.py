"""Times of inference engines as a picture."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from sparsewright.extras import explain_missing
from sparsewright.files import write_atomically
from sparsewright.report.bench_section import BenchEngine, bench_case
from sparsewright.report.palette import SERIES


def write_picture(file: Path, title: str, rows: Sequence[BenchEngine]) -> None:
    """Write a PNG: a group of bars for each batch size and number of threads, with the quartiles.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        SaveError: writing failed; a former file is intact.
    """
    try:
        figure_module = importlib.import_module("matplotlib.figure")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(explain_missing(error), name=error.name) from error
    shown = [row for row in rows if row.latency is not None]
    figure = figure_module.Figure(figsize=(8, 1.2 + 0.32 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    colours = {label: SERIES[index % len(SERIES)] for index, label in enumerate(dict.fromkeys(r.label for r in shown))}
    for place, row in enumerate(shown):
        assert row.latency is not None
        median = row.latency.median_ms
        below, above = median - row.latency.lower_quartile_ms, row.latency.upper_quartile_ms - median
        axes.barh(place, median, color=colours[row.label], xerr=[[below], [above]], capsize=2)
        speedup = "" if row.speedup is None else f"   {row.speedup:.2f}x"
        axes.text(row.latency.upper_quartile_ms, place, f"  {median:.3g} ms{speedup}", va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [f"{row.label}, {bench_case(row.batch, row.threads)}" for row in shown])
    axes.invert_yaxis()
    axes.set_xlabel("ms per batch: median and quartiles")
    axes.margins(x=0.25)
    axes.set_title(title)
    content = BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_atomically(file, lambda stream: stream.write(content.getbuffer()))
