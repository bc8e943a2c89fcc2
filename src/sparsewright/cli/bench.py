"""``sparsewright bench``: a network on several inference engines, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparsewright.cli.options import AsJson, Target


def bench(
    target: Target,
    batch: Annotated[str, typer.Option(metavar="N,...", help="Images at a time.")] = "1",
    threads: Annotated[
        str | None, typer.Option(metavar="N,...", help="CPU threads.", show_default="torch's number")
    ] = None,
    engines: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Engines to measure.", show_default="all that are installed"),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Show the kernel of each layer and its times.")] = False,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="How long to measure each batch size and number of threads.")
    ] = 5.0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write what was measured: .png or .json.")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Keep it as bench.json in the run folder, and show it in report.html.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace that file if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Milliseconds per batch of a run's network on the CPU: torch, torch.compile, ONNX Runtime, OpenVINO, sparsewright.

    All run the same weights, zeros included, on random images, in turn in one run: the median, the quartiles, and how
    many times as fast as torch's eager mode. sparsewright alone leaves the zeros out. Sizes of the weights as files
    come with them.

    Engines: eager, compile, onnxruntime, openvino, openvino-bf16, sparsewright.

    \b
    Examples:
      sparsewright bench runs/first
      sparsewright bench runs/first --batch 1,8,64 --threads 1,2
      sparsewright bench runs/first --engines eager,sparsewright --layers
      sparsewright bench runs/first --out bench.png --report
    """
    from sparsewright.cli.bench_output import run_bench

    run_bench(
        target,
        batch=batch,
        threads=threads,
        engines=engines,
        layers=layers,
        seconds=seconds,
        out=out,
        report=report,
        force=force,
        as_json=as_json,
    )
