"""A comparison as rows of text for people, and as records of plain values for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sparsewright.formats import flops, percent
from sparsewright.report.comparison import INFERENCE, SIZE, TRAINING, Comparison, Group, Spread
from sparsewright.report.run_facts import published_sentence
from sparsewright.training.method_options import DENSE

FRONT_LETTERS = {SIZE: "S", INFERENCE: "I", TRAINING: "T"}
"""How the table calls the Pareto fronts."""


@dataclass(frozen=True)
class TextTable:
    """Rows of text.

    Attributes:
        columns: their titles.
        rows: cells in the order of the columns.
        numbers: the titles of the columns to align to the right.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[str, ...]


def comparison_table(comparison: Comparison) -> TextTable:
    """One row for each group; a column is left out where it says nothing or the same of all."""
    rows = [_cells(comparison, index) for index in range(len(comparison.groups))]
    columns = [
        column
        for column in rows[0]
        if any(row[column] for row in rows) and not (column == "recipe" and len({row[column] for row in rows}) == 1)
    ]
    texts = {"recipe", "method", "settings", "Pareto front", "marks"}
    return TextTable(
        columns=tuple(columns),
        rows=tuple(tuple(row[column] for column in columns) for row in rows),
        numbers=tuple(column for column in columns if column not in texts),
    )


def accuracy_matrix(comparison: Comparison) -> TextTable | None:
    """Accuracy by configuration and target; None where it would be a single row or column."""
    sparse = [group for group in comparison.groups if group.target is not None]
    targets = list(dict.fromkeys(group.target_text for group in sparse))
    several = len({group.recipe for group in comparison.groups}) > 1
    lines = by_configuration(sparse)
    if len(targets) < 2 or len(lines) < 2:
        return None
    rows: list[tuple[str, ...]] = []
    for groups in lines:
        cells = {group.target_text: spread(group.accuracy) for group in groups}
        rows.append((row_name(groups[0], several), *(cells.get(target, "") for target in targets)))
    return TextTable(("method", *targets), tuple(rows), tuple(targets))


def by_configuration(groups: Iterable[Group]) -> list[list[Group]]:
    """Those that differ in their target alone together, in the order of their first."""
    lines: dict[tuple[Any, ...], list[Group]] = {}
    for group in groups:
        lines.setdefault(group.configuration, []).append(group)
    return list(lines.values())


def dense_sentences(comparison: Comparison) -> list[str]:
    """How accurate the dense networks are."""
    several = len({group.recipe for group in comparison.groups}) > 1
    return [
        f"{row_name(group, several)}: {spread(group.accuracy)} %"
        for group in comparison.groups
        if group.method == DENSE
    ]


def published_sentences(comparison: Comparison) -> list[str]:
    """Where published numbers come from, and what was not as they have it."""
    found = [group.published for group in comparison.groups if group.published is not None]
    return list(dict.fromkeys(map(published_sentence, found)))


def comparison_remarks(comparison: Comparison) -> list[str]:
    """What the table needs to be read right, and what is not in it."""
    names = {SIZE: "parameters left" if comparison.has_shrunk else "sparsity"}
    letters = ", ".join(f"{letter} {names.get(front, front)}" for front, letter in FRONT_LETTERS.items())
    of_network = " of its network" if comparison.has_networks else ""
    return [
        f"On the Pareto front{of_network} of accuracy, by the means, against: {letters}.",
        *published_sentences(comparison),
        *comparison.notes,
        *left_out_sentences(comparison),
    ]


def left_out_sentences(comparison: Comparison) -> list[str]:
    """Which folders are not among the runs, and why."""
    return [f"left out: {item.folder}, {item.reason}" for item in comparison.left_out]


def comparison_records(comparison: Comparison) -> list[dict[str, str | float | int | None]]:
    """One record for each group, all with the same keys; accuracy in per cent, sparsity as a fraction.

    Each setting that tells groups apart has a key of its own, empty for the groups of other methods.
    """
    settings = list(dict.fromkeys(key for group in comparison.groups for key in group.settings))
    return [_record(comparison, index, settings) for index in range(len(comparison.groups))]


def row_name(group: Group, with_recipe: bool) -> str:
    """The method with its settings, and where there are several recipes, that of the group."""
    return f"{group.recipe} {group.name}" if with_recipe else group.name


def spread(value: Spread) -> str:
    """Mean and sample standard deviation, such as 97.44 ± 0.17."""
    return f"{value.mean:.2f}" if value.deviation is None else f"{value.mean:.2f} ± {value.deviation:.2f}"


def _cells(comparison: Comparison, index: int) -> dict[str, str]:
    group = comparison.groups[index]
    fronts = " ".join(FRONT_LETTERS[name] for name in comparison.fronts_of(index))
    return {
        "recipe": group.recipe,
        "method": group.method,
        "settings": group.settings_text,
        "asked for": group.target_text,
        "seeds": str(len(group.seeds)),
        "accuracy, %": spread(group.accuracy),
        "sparsity": _sparsity(group),
        "parameters": f"{group.kept.mean:,.0f} ({percent(group.kept_share)})",
        "inference FLOPs": _flops(group.inference_flops, group.dense_inference_flops),
        "training FLOPs": _flops(group.training_flops, group.dense_training_flops),
        "published, %": "" if group.published is None else f"{group.published.accuracy:.2f}",
        "marks": ", ".join(group.marks),
        "Pareto front": fronts,
    }


def _sparsity(group: Group) -> str:
    """Empty where a network got smaller without zeros that masks hold: its parameters say it."""
    if group.shrunk and not group.sparsity.mean:
        return ""
    deviation = group.sparsity.deviation
    apart = f" ± {percent(deviation)}" if deviation is not None and deviation >= 5e-5 else ""
    return f"{percent(group.sparsity.mean)}{apart}"


def _flops(sparse: Spread, dense: float) -> str:
    return f"{flops(sparse.mean)} ({percent(sparse.mean / dense)})" if dense else flops(sparse.mean)


def _record(comparison: Comparison, index: int, settings: Sequence[str]) -> dict[str, str | float | int | None]:
    group = comparison.groups[index]
    return {
        "images": comparison.images,
        "recipe": group.recipe,
        "method": group.method,
        **{f"setting:{key}": group.settings.get(key) for key in settings},
        "target_sparsity": None if group.target is None else json.dumps(group.target),
        "seeds": _joined(group.seeds),
        "accuracy_mean": _digits(group.accuracy.mean),
        "accuracy_std": _digits(group.accuracy.deviation),
        "sparsity_mean": _digits(group.sparsity.mean),
        "sparsity_std": _digits(group.sparsity.deviation),
        "shrunk": int(group.shrunk),
        "kept_parameters": round(group.kept.mean),
        "dense_parameters": group.dense_parameters,
        "inference_flops": round(group.inference_flops.mean),
        "inference_flops_dense": round(group.dense_inference_flops),
        "training_flops": round(group.training_flops.mean),
        "training_flops_dense": round(group.dense_training_flops),
        "published_accuracy": None if group.published is None else group.published.accuracy,
        "published_source": None if group.published is None else group.published.source,
        "pareto_fronts": _joined(comparison.fronts_of(index), "; "),
        "marks": _joined(group.marks, "; "),
        "folders": _joined([run.folder for run in group.runs], "; "),
    }


def _digits(value: float | None) -> float | None:
    """Without what sums of binary fractions leave at the end, such as 98.36999999999999."""
    return None if value is None else float(f"{value:.10g}")


def _joined(values: Sequence[object], separator: str = " ") -> str:
    return separator.join(map(str, values))
