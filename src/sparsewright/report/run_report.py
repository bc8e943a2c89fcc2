"""The page about one run."""

from __future__ import annotations

from pathlib import Path

from sparsewright.formats import ratios
from sparsewright.report.bench_section import bench_section, read_bench
from sparsewright.report.curves import curves_section
from sparsewright.report.histograms import weights_section
from sparsewright.report.key_figures import key_figures
from sparsewright.report.layers import layers_section
from sparsewright.report.page import Section, write_page
from sparsewright.report.rank_plots import rank_section
from sparsewright.report.run_data import RunData, read_run
from sparsewright.report.settings_section import settings_section
from sparsewright.report.topology_plots import topology_section
from sparsewright.training.method_options import DENSE

REPORT = "report.html"
"""The name of the page in a run folder."""


def write_run_report(folder: Path, file: Path | None = None) -> Path:
    """Writes the report of a run and returns where it is.

    It shows what the folder holds: of a run that is not finished that is how training went so far, and what a run
    did not log is left out with a sentence that says why. The page is one file of 2 to 5 MB that works without a
    network.

    Args:
        folder: the run folder.
        file: where the page goes; None for report.html in the run folder. A file that is there is replaced.

    Raises:
        FileNotFoundError: there is no run in ``folder``.
        NotADirectoryError: it is a file.
        ValueError: one of its files is damaged.
        SaveError: the page could not be written; a former one is intact.
    """
    run = read_run(Path(folder))
    target = Path(folder) / REPORT if file is None else Path(file)
    write_page(target, _title(run), sections_of(run), subtitle=_subtitle(run), headline=key_figures(run))
    return target


def sections_of(run: RunData) -> list[Section]:
    """What is on the page of a run, in this order."""
    bench = read_bench(run.folder)
    return [
        curves_section(run),
        layers_section(run),
        topology_section(run),
        rank_section(run),
        weights_section(run),
        *([] if bench is None else [bench_section(bench)]),
        settings_section(run),
    ]


def _title(run: RunData) -> str:
    return f"{run.recipe.name}, dense" if run.method == DENSE else f"{run.recipe.name} with {run.method}"


def _subtitle(run: RunData) -> str:
    parts = [f"run folder {run.folder.resolve().name}"]
    if run.target is not None:
        parts.append(f"asked for {ratios(run.target)}")
    if run.settings is not None:
        parts.append(f"seed {run.settings.seed}")
    if run.summary is None:
        parts.append("not finished")
    return " · ".join(parts)
