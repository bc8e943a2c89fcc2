"""Does a penalty that grows on everything tell filters apart? Their L1 norms over the steps of GReg-2's pick phase.

    python benchmarks/greg_separation.py --run RUN --data-dir DATA --out results/greg-separation.png
        [--layers 'conv*'] [--ratio 0.5] [--lr 0.01] [--pick-step 1e-3] [--pick-limit 0.2]

``RUN`` is the folder of a finished dense run. Its network is trained on as its recipe feeds it, with GReg-2 attached,
until GReg-2 has picked. The picture has a panel per layer: the mean magnitude of each filter over the steps, relative
to the mean of all at the start, coloured by the choice at the end. The table says how far the magnitudes are apart at
both ends (standard deviation over mean), and how many filters a choice at the start would have had otherwise.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD

import sparsewright as sw
from sparsewright.data import Data
from sparsewright.training import LoadedRun, load_run
from sparsewright.training.opening import open_recipe_data


@dataclass(frozen=True)
class Picking:
    """What happened to the filters of each layer.

    Attributes:
        norms: parameter name -> mean magnitude of each filter, (steps + 1, filters), the first row before any step.
        picked: parameter name -> indices of the filters chosen at the end.
    """

    norms: dict[str, Tensor]
    picked: dict[str, Tensor]


def open_data(run: LoadedRun, folder: Path, seed: int) -> Data:
    return open_recipe_data(
        run.recipe, folder, seed=seed, device=torch.device("cpu"), rank=0, world_size=1, validation=0, download=False
    )


def watch_picking(run: LoadedRun, data: Data, arguments: argparse.Namespace) -> Picking:
    """Train until GReg-2 has picked in every layer."""
    model = run.model.train()
    optimizer = SGD(model.parameters(), lr=arguments.lr, momentum=0.9, weight_decay=5e-4)
    options = {"pick_step": arguments.pick_step, "pick_limit": arguments.pick_limit, "reg_interval": arguments.interval}
    sparsifier = sw.GReg2(model, optimizer, sparsity=arguments.ratio, granularity="filter", **options)
    watched = [
        name
        for name in sparsifier.parameters
        if fnmatchcase(name, arguments.layers) and name not in sparsifier.left_whole
    ]
    rows = {name: [mean_magnitudes(sparsifier.parameters[name])] for name in watched}
    for epoch in range(10**6):
        for images, labels in data.train.epoch(epoch):
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            if sparsifier.phase != "pick":
                sparsifier.detach()
                norms = {name: torch.stack(history) for name, history in rows.items()}
                return Picking(norms, {name: sparsifier.pruned_groups[name] for name in watched})
            for name, history in rows.items():
                history.append(mean_magnitudes(sparsifier.parameters[name]))
    raise AssertionError("the pick phase has an end")


def mean_magnitudes(weight: Tensor) -> Tensor:
    """Of each filter; its L1 norm over its number of weights."""
    return weight.detach().abs().flatten(1).mean(dim=1)


def spread(norms: Tensor) -> float:
    """Standard deviation over mean."""
    return float(norms.std() / norms.mean())


def table(picking: Picking) -> str:
    lines = ["| layer | filters | spread before | spread when picked | picked | of them not the smallest before |"]
    lines.append("|---|---|---|---|---|---|")
    for name, norms in picking.norms.items():
        picked = picking.picked[name]
        smallest = set(norms[0].argsort()[: len(picked)].tolist())
        others = len(set(picked.tolist()) - smallest)
        first, last = spread(norms[0]), spread(norms[-1])
        lines.append(f"| {name} | {norms.shape[1]} | {first:.3f} | {last:.3f} | {len(picked)} | {others} |")
    return "\n".join(lines)


def plot(picking: Picking, title: str, path: Path) -> None:
    """One panel per layer, written as PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    count = len(picking.norms)
    figure, axes = plt.subplots(1, count, figsize=(5 * count, 4), squeeze=False, layout="constrained")
    for axis, (name, norms) in zip(axes[0], picking.norms.items(), strict=True):
        picked = set(picking.picked[name].tolist())
        for index in range(norms.shape[1]):
            colour, width = ("tab:red", 0.9) if index in picked else ("tab:blue", 0.6)
            axis.plot(norms[:, index] / norms[0].mean(), color=colour, linewidth=width, alpha=0.7)
        axis.set_title(f"{name}: {len(picked)} of {norms.shape[1]} filters picked")
        axis.set_xlabel("optimizer step of the pick phase")
    axes[0][0].set_ylabel("L1 norm of a filter / mean of the layer at step 0")
    figure.suptitle(f"{title}; red: picked for removal")
    figure.savefig(path, dpi=110, metadata={"Software": None})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="L1 norms of filters over GReg-2's pick phase.")
    add = parser.add_argument
    add("--run", type=Path, required=True, help="folder of a finished dense run")
    add("--data-dir", type=Path, required=True)
    add("--out", type=Path, required=True, help="PNG to write")
    add("--layers", default="*", help="glob pattern of the layers to show (default: all that lose filters)")
    add("--ratio", type=float, default=0.5, help="filters of each layer that are picked (default: 0.5)")
    add("--lr", type=float, default=0.01)
    add("--interval", type=int, default=1, help="steps between two growths of the penalty (default: 1)")
    add("--pick-step", type=float, default=1e-3)
    add("--pick-limit", type=float, default=0.2)
    add("--seed", type=int, default=0, help="of the order of the data (default: 0)")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    run = load_run(arguments.run)
    picking = watch_picking(run, open_data(run, arguments.data_dir, arguments.seed), arguments)
    print(table(picking))
    steps = len(next(iter(picking.norms.values()))) - 1
    plot(picking, f"{run.recipe.name}, {steps} steps to a penalty of {arguments.pick_limit:g}", arguments.out)


if __name__ == "__main__":
    main()
