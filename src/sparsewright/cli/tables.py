"""What the commands print: tables for people, plain values for ``--json``."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sparsewright.analysis import LayerRow, RankAverages, RankRow, rank_averages, table_totals
from sparsewright.formats import flops, percent, ratios, seconds, share

PIPE_WIDTH = 160
"""Columns when the output is no terminal: rich's 80 would fold names that scripts look for."""

WIDEST = 1000


def console() -> Console:
    """A console on standard output."""
    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=PIPE_WIDTH, file=sys.stdout)


def print_json(value: object) -> None:
    """Standard JSON; numbers that are not finite become null."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[str] = ()) -> None:
    """A table with the ``right`` columns aligned to the right; only a last column of text is folded."""
    aligned, cells = set(right), [list(row) for row in rows]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for index, column in enumerate(columns):
        whole = index < len(columns) - 1 or column in aligned
        # Rich would cut cells off to fit a narrow terminal; lines that the terminal breaks lose nothing.
        width = max(len(column), *(len(row[index]) for row in cells), 1) if whole else None
        table.add_column(Text(column), justify="right" if column in aligned else "left", no_wrap=whole, min_width=width)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    output = console()
    output.width = max(output.width, Measurement.get(output, output.options.update(max_width=WIDEST), table).minimum)
    output.print(table)


def print_layers(rows: Sequence[LayerRow], totals: Sequence[LayerRow] | None = None, *, title: str = "layer") -> None:
    """One line per layer and one for each of ``totals``, by default that of all; FLOPs where they are known."""
    columns = [title, "shape", "weights", "non-zero", "sparsity", "FLOPs dense", "FLOPs sparse", "share of FLOPs"]
    with_flops = all(row.flops_sparse is not None for row in rows)
    shown = columns if with_flops else columns[:5]
    cells = [_layer_cells(row)[: len(shown)] for row in rows]
    sums = [_layer_cells(row)[: len(shown)] for row in ([table_totals(rows)] if totals is None else totals)]
    print_table(shown, [*cells, [""] * len(shown), *sums], right=columns[2:])


def print_ranks(rows: Sequence[RankRow]) -> None:
    """One line per layer, and one for the means over the layers."""
    energies = [f"rank {percentage} %" for percentage in (90, 95, 99)]
    columns = ["layer", "shape", "full rank", "sparsity", "rank", "ratio", *energies, "stable rank", "effective rank"]
    cells = [
        [row.name, _shape(row.shape), f"{row.full_rank:,}", percent(row.sparsity), *_rank_cells(row, ",.0f")]
        for row in rows
    ]
    means = rank_averages(rows)
    mean = ["mean", "", f"{means.full_rank:,.1f}", "", *_rank_cells(means, ",.1f")]
    print_table(columns, [*cells, [""] * len(columns), mean], right=columns[2:])


def print_pairs(pairs: Mapping[str, str]) -> None:
    """Names and values, one pair a line."""
    width = max(len(name) for name in pairs)
    for name, value in pairs.items():
        print(f"{name:<{width}}  {value}")


def summary_pairs(summary: Mapping[str, Any]) -> dict[str, str]:
    """The lines of a run's summary that people look at first; what the summary lacks is left out."""
    pairs: dict[str, str] = {}
    for key, label in (("recipe", "recipe"), ("method", "method"), ("seed", "seed")):
        if key in summary:
            pairs[label] = str(summary[key])
    if summary.get("test_accuracy_before_pruning") is not None:
        pairs["before pruning"] = f"{summary['test_accuracy_before_pruning']:.2f} %"
    if summary.get("test_accuracy") is not None:
        pairs["test accuracy"] = f"{summary['test_accuracy']:.2f} %"
    if summary.get("test_loss") is not None:
        pairs["test loss"] = f"{summary['test_loss']:.4f}"
    if summary.get("shrunk"):
        pairs |= _removed_pairs(summary)
    elif "sparsity" in summary:
        target = summary.get("target_sparsity")
        asked = f" (asked for {ratios(target)})" if target and summary.get("method") != "dense" else ""
        pairs["sparsity"] = f"{percent(summary['sparsity'])}{asked}"
        if "nonzero_parameters" in summary and "parameters" in summary:
            pairs["parameters"] = f"{summary['nonzero_parameters']:,} non-zero of {summary['parameters']:,}"
    for kind in ("inference", "training"):
        dense, sparse = summary.get(f"{kind}_flops_dense"), summary.get(f"{kind}_flops_sparse")
        if dense and sparse is not None:
            pairs[f"{kind} FLOPs"] = f"{flops(sparse)} of {flops(dense)} dense ({percent(sparse / dense)})"
    if summary.get("shrunk") and summary.get("theoretical_speedup"):
        held = ", with the zeros that masks hold" if summary["sparsity"] else ""
        pairs["speed-up in theory"] = f"{summary['theoretical_speedup']:.2f}x{held}"
    if "train_seconds" in summary:
        pairs["trained for"] = seconds(summary["train_seconds"])
    return pairs


def evaluation_pairs(result: Mapping[str, Any]) -> dict[str, str]:
    """The lines of an evaluation; its sparsity is counted on the weights that were evaluated."""
    return {
        "recipe": str(result["recipe"]),
        "accuracy": f"{result['accuracy']:.2f} % of {result['images']:,} {result['split']} images",
        "loss": f"{result['loss']:.4f}",
        "sparsity": f"{percent(result['sparsity'])} of the layers' weights are exactly zero",
    }


def metric_cells(line: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """The values of one line of ``metrics.jsonl`` in the order of ``columns``."""
    return [_metric(column, line.get(column)) for column in columns]


def columns_of(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Every key of some metrics with a plain value, in the order in which the lines bring them."""
    return list(
        dict.fromkeys(key for line in lines for key, value in line.items() if not isinstance(value, (dict, list)))
    )


def _removed_pairs(summary: Mapping[str, Any]) -> dict[str, str]:
    """The lines about a network from which filters or channels were taken out."""
    left, dense = summary["parameters"], summary["parameters_dense"]
    pairs = {"ratios": ratios(summary["target_sparsity"])} if summary["target_sparsity"] else {}
    if summary["sparsity"]:
        pairs["sparsity"] = f"{percent(summary['sparsity'])} of the layers that are left, zeros that masks hold"
    pairs["parameters"] = share(left, dense)
    if summary["not_removed"]:
        pairs["not removed"] = f"in {len(summary['not_removed'])} layers; the reasons are in summary.json"
    return pairs


def _rank_cells(row: RankRow | RankAverages, count: str) -> list[str]:
    """Ranks as the columns of ``print_ranks`` have them, those that count singular values in the format ``count``."""
    ranks = row.ranks
    return [
        format(ranks.numerical, count),
        percent(row.ratios.numerical),
        *(format(rank, count) for rank in (ranks.energy_90, ranks.energy_95, ranks.energy_99)),
        f"{ranks.stable:,.1f}",
        f"{ranks.effective:,.1f}",
    ]


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(str(size) for size in shape)


def _layer_cells(row: LayerRow) -> list[str]:
    cells = [
        row.name,
        _shape(row.shape),
        f"{row.weights:,}",
        f"{row.nonzero:,}",
        percent(row.sparsity),
    ]
    if row.flops_dense is not None and row.flops_sparse is not None and row.flops_share is not None:
        cells += [flops(row.flops_dense), flops(row.flops_sparse), percent(row.flops_share)]
    return cells


def _metric(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, int):
        return f"{value}"
    if name == "lr" or name.endswith("_lr"):
        return f"{value:.3g}"
    if "accuracy" in name or name == "seconds":
        return f"{value:.2f}"
    return f"{value:.4f}"


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    return value.__qualname__ if isinstance(value, type) else str(Path(value) if isinstance(value, Path) else value)
