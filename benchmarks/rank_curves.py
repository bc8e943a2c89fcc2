"""Rank and accuracy against sparsity: GMP, GraNet, RigL-ITOP and RPG with one schedule, as a table and a plot.

    python benchmarks/rank_curves.py --data-dir DATA --out runs/rank [--recipe mnist/lenet5] [--epochs 2]
        [--interval 20] [--sparsities 0.9 0.98 0.995] [--seeds 0 1 2] [--jobs 2] [--plot FILE.svg]

All methods train with the recipe's optimizer, a cosine learning rate, topology updates every ``--interval`` steps and
sparsity ramps that end after 70 % of the run; the rest are the presets' defaults, but for RPG's residual energy of 0.1.
"RPG without rank loss" is RPG with ``rank_weight=0``, all else equal. Each cell is a run folder; called again, the
script does only what is missing. Ranks are those of ``sparsewright inspect --rank``, read from the final weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from grid import Cell, folder_name, train_all

from sparsewright.analysis.rank import RankRow, rank_table
from sparsewright.training import load_run

_RPG = ("method=rpg", "method.residual_energy=0.1")
METHODS: dict[str, tuple[str, ...]] = {
    "GMP": ("method=gmp",),
    "GraNet": ("method=granet",),
    "RigL-ITOP": ("method=rigl-itop",),
    "RPG without rank loss": ("method=rpg", "method.rank_weight=0"),
    "RPG": _RPG,
    "RPG, linear layers too": (*_RPG, "method.rank_linear_layers=true"),
    "RPG, linear layers too, weight 4": (*_RPG, "method.rank_linear_layers=true", "method.rank_weight=4"),
}


@dataclass(frozen=True)
class Point:
    """What one run ended with.

    Attributes:
        accuracy: test accuracy of the last epoch, in per cent.
        sparsity: counted on the masks at the end.
        rows: the ranks of each layer.
    """

    accuracy: float
    sparsity: float
    rows: Sequence[RankRow]

    def mean(self, figure: Callable[[RankRow], float]) -> float:
        """Mean of a figure over the layers."""
        return statistics.fmean(figure(row) for row in self.rows)


def training(label: str, sparsity: float, seed: int, arguments: argparse.Namespace) -> Cell:
    """The run of one cell."""
    shared = [f"duration={arguments.epochs}ep", "schedule.name=cosine"]
    shared += [f"method_defaults.update_interval={arguments.interval}", "method_defaults.prune_end=0.7"]
    folder = arguments.out / folder_name(label, sparsity, seed)
    return Cell(folder, arguments.recipe, (*shared, *METHODS[label], f"sparsity={sparsity}"), seed)


def read(cell: Cell) -> Point:
    """The result of a finished run."""
    summary = json.loads((cell.folder / "summary.json").read_text())
    return Point(summary["test_accuracy"], summary["sparsity"], rank_table(load_run(cell.folder).model))


def spread(values: Sequence[float], decimals: int) -> str:
    """Mean and standard deviation."""
    text = f"{statistics.fmean(values):.{decimals}f}"
    return f"{text} ± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else text


def table(points: dict[tuple[float, str], list[Point]]) -> str:
    """One line for each sparsity and method."""
    lines = ["| sparsity | method | test accuracy, % | mean rank | 90 % energy rank | stable rank | effective rank |"]
    lines.append("|---|---|---|---|---|---|---|")
    for (_, label), runs in points.items():
        figures = [
            spread([run.mean(lambda row: row.ranks.numerical) for run in runs], 1),
            spread([run.mean(lambda row: row.ranks.energy_90) for run in runs], 1),
            spread([run.mean(lambda row: row.ranks.stable) for run in runs], 2),
            spread([run.mean(lambda row: row.ranks.effective) for run in runs], 1),
        ]
        achieved = ", ".join(sorted({f"{run.sparsity:.5f}" for run in runs}))
        accuracy = spread([run.accuracy for run in runs], 2)
        lines.append(f"| {achieved} | {label} | {accuracy} | {' | '.join(figures)} |")
    return "\n".join(lines)


def layer_table(points: dict[tuple[float, str], list[Point]]) -> str:
    """The rank of every layer, mean over seeds."""
    names = [row.name for row in next(iter(points.values()))[0].rows]
    full = [row.full_rank for row in next(iter(points.values()))[0].rows]
    titles = " | ".join(f"{name} (of {rank})" for name, rank in zip(names, full, strict=True))
    lines = [f"| sparsity | method | {titles} |", "|---|---|" + "---|" * len(names)]
    for (sparsity, label), runs in points.items():
        means = [statistics.fmean(run.rows[index].ranks.numerical for run in runs) for index in range(len(names))]
        lines.append(f"| {sparsity:g} | {label} | {' | '.join(f'{mean:.1f}' for mean in means)} |")
    return "\n".join(lines)


def plot(points: dict[tuple[float, str], list[Point]], title: str, path: Path) -> None:
    """Mean rank, and beside it accuracy, against sparsity, with a line for each method."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4))
    sparsities = sorted({sparsity for sparsity, _ in points})
    for label in dict.fromkeys(label for _, label in points):
        runs = [points[sparsity, label] for sparsity in sparsities]
        for panel, figures in (
            (panels[0], [[run.mean(lambda row: row.ranks.numerical) for run in cell] for cell in runs]),
            (panels[1], [[run.accuracy for run in cell] for cell in runs]),
        ):
            means = [statistics.fmean(values) for values in figures]
            deviations = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in figures]
            places = [str(sparsity) for sparsity in sparsities]
            panel.errorbar(places, means, yerr=deviations, marker="o", capsize=3, label=label)
    for panel, name in zip(panels, ("mean rank of the layers", "test accuracy, %"), strict=True):
        panel.set_xlabel("sparsity")
        panel.set_ylabel(name)
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/rank"))
    parser.add_argument("--recipe", default="mnist/lenet5")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--interval", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.9, 0.98, 0.995])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--plot", type=Path, default=None)
    arguments = parser.parse_args()
    start = time.time()
    keys = [(sparsity, label) for sparsity in sorted(arguments.sparsities) for label in arguments.methods]
    cells = {(key, seed): training(key[1], key[0], seed, arguments) for seed in arguments.seeds for key in keys}
    train_all(list(cells.values()), arguments.data_dir, arguments.jobs)
    points = {key: [read(cells[key, seed]) for seed in arguments.seeds] for key in keys}
    print(table(points))
    print()
    print(layer_table(points))
    print(f"\n{len(arguments.seeds)} seeds, {arguments.epochs} epochs; {time.time() - start:.0f} s for this call")
    if arguments.plot is not None:
        plot(points, f"{arguments.recipe}, {arguments.epochs} epochs", arguments.plot)


if __name__ == "__main__":
    main()
