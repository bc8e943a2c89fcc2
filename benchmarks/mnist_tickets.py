"""Winning tickets on MNIST: base, GSM, and the tickets of GSM and of magnitude, as a Markdown table.

    python benchmarks/mnist_tickets.py --data-dir DATA --root runs/tickets [--recipe mnist/lenet300/gsm-ticket-60x]
        [--finds gsm magnitude] [--seeds 0 1 2] [--jobs 2] [--set KEY=VALUE ...]

Every cell is an ordinary run folder of one process with one thread; called again, it does only what is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Stages = dict[str, dict[str, Any]]


def run(seed: int, arguments: argparse.Namespace) -> Stages:
    """The stages of all experiments of one seed by name."""
    stages: Stages = {}
    for find in arguments.finds:
        command = [sys.executable, "-m", "sparsewright", "ticket", arguments.recipe, *arguments.set, "--find", find]
        command += ["--seed", str(seed), "--root", str(arguments.root), "--data-dir", str(arguments.data_dir)]
        command += ["--device", "cpu", "--no-download", "--quiet", "--json"]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)}\nfailed:\n{done.stderr}")
        stages |= {stage["name"]: stage for stage in json.loads(done.stdout)["stages"]}
        print(f"seed {seed}: {find} done", file=sys.stderr, flush=True)
    return stages


def spread(values: Sequence[float]) -> str:
    """Mean, and the standard deviation where there are several."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def rows(results: Sequence[Stages], finds: Sequence[str]) -> list[list[str]]:
    """Lines of the table: what, sparsity, kept weights, accuracy, accuracy of each seed."""
    wanted: list[tuple[str, str, str]] = [("base", "base", "test_accuracy")]
    for find in finds:
        if find in results[0]:
            wanted.append((f"{find}, before its prune", find, "test_accuracy_before_pruning"))
            wanted.append((f"{find}, pruned, no fine-tuning", find, "test_accuracy"))
        wanted.append((f"{find} ticket, trained alone", f"ticket-{find}", "test_accuracy"))
    return [_row(title, [stages[stage] for stages in results], key) for title, stage, key in wanted]


def _row(title: str, stages: Sequence[dict[str, Any]], key: str) -> list[str]:
    before = key == "test_accuracy_before_pruning"
    accuracies = [stage[key] for stage in stages]
    sparsities = {0.0 if before else stage["sparsity"] for stage in stages}
    kept = {stage["kept_weights"] for stage in stages}
    return [
        title,
        ", ".join(f"{sparsity:.5f}" for sparsity in sorted(sparsities)),
        "-" if before else ", ".join(f"{count:,}" for count in sorted(kept)),
        spread(accuracies),
        " / ".join(f"{accuracy:.2f}" for accuracy in accuracies),
    ]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Winning tickets of GSM and magnitude on MNIST.")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--recipe", default="mnist/lenet300/gsm-ticket-60x")
    parser.add_argument("--finds", nargs="+", default=["gsm", "magnitude"], choices=["gsm", "magnitude", "iterative"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: 2)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the recipe to change")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = list(pool.map(lambda seed: run(seed, arguments), arguments.seeds))
    seeds = " / ".join(str(seed) for seed in arguments.seeds)
    print(f"| {arguments.recipe} | sparsity | kept weights | test accuracy, % | seeds {seeds} |\n|---|---|---|---|---|")
    for cells in rows(results, arguments.finds):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
