"""LeNet-300-100 on MNIST: every method at several sparsities and seeds with one recipe, as a Markdown table.

    python benchmarks/mnist_dst.py --data-dir DATA --out runs/mnist-dst [--jobs 2] [--epochs 30] [--seeds 0 1 2]

Each cell is an ordinary run folder of one process with one thread; called again, it does only what is missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from grid import Cell, folder_name, train_all

METHODS: dict[str, list[str]] = {
    "Static": ["method=static"],
    "SET": ["method=set"],
    "SNFS": ["method=snfs"],
    "RigL-ITOP": ["method=rigl-itop"],
    "GMP": ["method=gmp"],
    "GraNet": ["method=granet"],
    "GraNet (sparse-to-sparse)": ["method=granet", "method.initial_sparsity=0.5"],
}


def cells(sparsities: list[float], seeds: list[int]) -> list[tuple[str, float, int]]:
    """(method, sparsity, seed) of every run; dense has sparsity 0."""
    sparse = [(method, sparsity, seed) for seed in seeds for sparsity in sparsities for method in METHODS]
    return [("Dense", 0.0, seed) for seed in seeds] + sparse


def folder_of(out: Path, cell: tuple[str, float, int]) -> Path:
    return out / folder_name(*cell)


def training(cell: tuple[str, float, int], arguments: argparse.Namespace) -> Cell:
    """The run of one cell."""
    method, sparsity, seed = cell
    settings = ["method=dense"] if method == "Dense" else [*METHODS[method], f"sparsity={sparsity}"]
    settings = (f"duration={arguments.epochs}ep", *settings)
    return Cell(folder_of(arguments.out, cell), "mnist/lenet300", settings, seed)


def table(arguments: argparse.Namespace) -> str:
    """Mean and standard deviation of the last epoch's test accuracy over seeds, and the achieved sparsity."""
    rows: dict[tuple[str, float], list[dict]] = {}
    for cell in cells(arguments.sparsities, arguments.seeds):
        summary = json.loads((folder_of(arguments.out, cell) / "summary.json").read_text())
        rows.setdefault(cell[:2], []).append(summary)
    lines = ["| method | sparsity asked | achieved | test accuracy, % | error, % | training FLOPs | inference FLOPs |"]
    lines.append("|---|---|---|---|---|---|---|")
    for (method, sparsity), runs in sorted(rows.items(), key=lambda item: item[0][1]):
        accuracy = [one["test_accuracy"] for one in runs]
        spread = f" ± {statistics.stdev(accuracy):.2f}" if len(accuracy) > 1 else ""
        achieved = {f"{one['sparsity']:.5f}" for one in runs}
        training = statistics.mean(one["training_flops_sparse"] / one["training_flops_dense"] for one in runs)
        inference = statistics.mean(one["inference_flops_sparse"] / one["inference_flops_dense"] for one in runs)
        mean = statistics.mean(accuracy)
        lines.append(
            f"| {method} | {sparsity:g} | {', '.join(sorted(achieved))} | {mean:.2f}{spread} | {100 - mean:.2f} "
            f"| {training:.3f} x | {inference:.3f} x |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/mnist-dst"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.9, 0.95, 0.98, 0.99])
    arguments = parser.parse_args()
    start = time.time()
    grid = [training(cell, arguments) for cell in cells(arguments.sparsities, arguments.seeds)]
    train_all(grid, arguments.data_dir, arguments.jobs)
    print(table(arguments))
    print(f"\n{len(arguments.seeds)} seeds, {arguments.epochs} epochs; {time.time() - start:.0f} s for this call")


if __name__ == "__main__":
    main()
