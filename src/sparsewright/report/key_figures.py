"""The numbers of a run that matter most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsewright.formats import flops, percent, ratios, seconds
from sparsewright.report.page import KeyFigure
from sparsewright.report.planned_length import PlannedLength, planned_length
from sparsewright.report.run_data import RunData
from sparsewright.report.run_facts import counted


def key_figures(run: RunData) -> dict[str, KeyFigure]:
    """Accuracy, sparsity, FLOPs, parameters and time of a finished run; how far another one is."""
    return _finished(run, run.summary) if run.summary is not None else _so_far(run)


def _finished(run: RunData, summary: Mapping[str, Any]) -> dict[str, KeyFigure]:
    figures = {f"{run.tested_on.capitalize()} accuracy": _accuracy(run, summary), **_size(run, summary)}
    for kind, per in (("inference", " per image"), ("training", "")):
        dense, sparse = summary.get(f"{kind}_flops_dense"), summary.get(f"{kind}_flops_sparse")
        if dense and sparse is not None:
            notes = [f"of dense: {flops(sparse)} of {flops(dense)}{per}"]
            if kind == "training" and run.uncounted_start:
                notes.append(f"what the {run.uncounted_start} it started from cost is not counted")
            figures[f"{kind.capitalize()} FLOPs"] = KeyFigure(percent(sparse / dense), "; ".join(notes))
    if summary.get("shrunk") and summary.get("theoretical_speedup"):
        figures["Speed-up in theory"] = KeyFigure(f"{summary['theoretical_speedup']:.2f}x", "ratio of inference FLOPs")
    figures["Trained for"] = KeyFigure(seconds(summary["train_seconds"]), _length(summary["epochs"], summary["steps"]))
    return figures


def _accuracy(run: RunData, summary: Mapping[str, Any]) -> KeyFigure:
    if summary["test_accuracy"] is None:
        return KeyFigure("not measured")
    notes = ["after the last epoch"]
    if summary.get("test_accuracy_before_pruning") is not None:
        notes.append(f"{summary['test_accuracy_before_pruning']:.2f} % before pruning")
    if run.published is not None:
        changed = run.published.changed
        apart = f", with another {', '.join(changed)}" if changed else ""
        notes.append(f"published{apart}: {run.published.accuracy:.2f} %")
    return KeyFigure(f"{summary['test_accuracy']:.2f} %", "; ".join(notes))


def _size(run: RunData, summary: Mapping[str, Any]) -> dict[str, KeyFigure]:
    if summary.get("shrunk"):
        left, dense = summary["parameters"], summary.get("parameters_dense", summary["parameters"])
        asked = f"; asked for ratios {ratios(run.target)}" if run.target else ""
        removed = KeyFigure(percent(1 - left / dense), "with whole filters or channels")
        figures = {"Parameters removed": removed, "Parameters": KeyFigure(f"{left:,}", f"of {dense:,}{asked}")}
        if summary["sparsity"]:
            figures["Sparsity of the rest"] = KeyFigure(percent(summary["sparsity"]), "zeros that masks hold")
        return figures
    asked = "dense" if run.target is None else f"asked for {ratios(run.target)}"
    return {
        "Sparsity": KeyFigure(percent(summary["sparsity"]), asked),
        "Parameters": _parameters(summary),
    }


def _parameters(summary: Mapping[str, Any]) -> KeyFigure:
    """Those that masks keep, as the sparsity counts them; a kept weight can be zero."""
    nonzero, total = summary["nonzero_parameters"], summary["parameters"]
    kept = summary.get("kept_parameters")
    if kept is None:
        return KeyFigure(f"{nonzero:,}", f"non-zero of {total:,}")
    zeros = f"; {kept - nonzero:,} of them are zero" if kept > nonzero else ""
    return KeyFigure(f"{kept:,}", f"kept of {total:,}{zeros}")


def _so_far(run: RunData) -> dict[str, KeyFigure]:
    line = run.last_line
    if not line:
        return {"State": KeyFigure("not finished", "no epoch has ended yet")}
    spent = sum(line["seconds"] for line in run.lines)
    accuracy = line.get("test_accuracy")
    return {
        "State": KeyFigure("not finished", f"in stage {line['stage']}"),
        f"{run.tested_on.capitalize()} accuracy": KeyFigure(
            "not measured" if accuracy is None else f"{accuracy:.2f} %", "so far"
        ),
        "Sparsity": KeyFigure(percent(line["sparsity"]), "so far"),
        "Trained for": KeyFigure(seconds(spent), _length(line["epoch"], line["step"], planned_length(run))),
    }


def _length(epochs: int, steps: int, planned: PlannedLength | None = None) -> str:
    if planned is None:
        return f"{counted(epochs, 'epoch')}, {counted(steps, 'step')}"
    of = "of up to" if planned.at_most else "of"
    return f"{epochs:,} {of} {counted(planned.epochs, 'epoch')}, {steps:,} {of} {counted(planned.steps, 'step')}"
