"""Does growing a penalty beat removing in one shot? The same filters' number removed, the same fine-tuning behind.

    python benchmarks/greg.py --data-dir DATA --root runs/greg [--recipe mnist/lenet5] [--ratios 0.5 0.7 0.9]
        [--seeds 0 1 2] [--base 4ep] [--finetune 1ep] [--reg-step 2.5e-3] [--stabilize 67] [--jobs 2]

For each seed one dense base is trained; from its weights each method removes the same share of filters of each layer
(of those that can be removed alone), the network is shrunk, and fine-tuned:

- l1: the filters with the smallest L1 norms, in one shot;
- greg-1, greg-2: GReg with a schedule short enough for a CPU (the penalty grows at every step, up to 1);
- l1-long: l1, fine-tuned for as many steps more as GReg-2 trains before it removes. The paper does not have it; it asks
  whether the growing or merely the training pays.

Every cell is an ordinary run folder of one process with one thread; called again, it does only what is missing. The
table has the accuracy after the last epoch, and what the removal alone left of it before the fine-tuning.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grid import Cell, folder_name, train_all

import sparsewright as sw

METHODS = ("l1", "l1-long", "greg-1", "greg-2")
Key = tuple[str, float]


def greg_options(method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """The short schedule: growing at every step."""
    options: dict[str, Any] = {
        "reg_interval": 1,
        "reg_step": arguments.reg_step,
        "stabilize_steps": arguments.stabilize,
    }
    if method == "greg-2":
        options |= {"pick_step": arguments.pick_step, "pick_limit": arguments.pick_limit}
    return options


def stages(method: str, ratio: float, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The stages behind the base."""
    remove: dict[str, Any] = {
        "kind": "prune",
        "sparsity": ratio,
        "method": {"name": "magnitude", "granularity": "filter"},
    }
    if method.startswith("greg"):
        settings = {"name": method, "granularity": "filter", **greg_options(method, arguments)}
        remove = {"name": "greg", "duration": "auto", "sparsity": ratio, "method": settings}
        remove |= {"optimizer": {"lr": arguments.lr}, "schedule": "constant"}
    finetune = {"name": "finetune", "duration": arguments.finetune, "optimizer": {"lr": arguments.lr}}
    extra: list[dict[str, Any]] = []
    if method == "l1-long":
        steps = sw.GReg2.steps_needed(greg_options("greg-2", arguments))
        extra = [{"name": "more", "duration": f"{steps}it", "optimizer": {"lr": arguments.lr}, "schedule": "constant"}]
    return [remove, {"kind": "shrink"}, *extra, finetune]


def base(seed: int, arguments: argparse.Namespace) -> Cell:
    settings = ("method=dense", f"duration={arguments.base}")
    return Cell(arguments.root / f"base-seed{seed}", arguments.recipe, settings, seed)


def removal(key: Key, seed: int, arguments: argparse.Namespace) -> Cell:
    method, ratio = key
    settings = ("method=dense", f"stages={json.dumps(stages(method, ratio, arguments))}")
    folder = arguments.root / folder_name(method, ratio, seed)
    return Cell(folder, arguments.recipe, settings, seed, weights=base(seed, arguments).folder)


def summary(cell: Cell) -> dict[str, Any]:
    return json.loads((cell.folder / "summary.json").read_text(encoding="utf-8"))


def accuracy_without_finetuning(cell: Cell) -> float:
    """Test accuracy of the shrunk network before it is fine-tuned."""
    lines = [json.loads(line) for line in (cell.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return next(line["test_accuracy"] for line in lines if line["kind"] == "shrink")


def spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def table(cells: dict[Key, list[Cell]], bases: Sequence[Cell]) -> str:
    """One line per method and ratio, the base first."""
    dense = [summary(cell) for cell in bases]
    columns = (
        "filters removed | method | parameters | speed-up, FLOPs | removed, not fine-tuned | fine-tuned | of each seed"
    )
    lines = [f"| {columns} |", "|---|---|---|---|---|---|---|"]
    each = " / ".join(f"{item['test_accuracy']:.2f}" for item in dense)
    accuracy = spread([item["test_accuracy"] for item in dense])
    lines.append(f"| 0 | base | {dense[0]['parameters']:,} | 1.00 | - | {accuracy} | {each} |")
    for (method, ratio), runs in cells.items():
        found = [summary(cell) for cell in runs]
        each = " / ".join(f"{item['test_accuracy']:.2f}" for item in found)
        before = spread([accuracy_without_finetuning(cell) for cell in runs])
        after = spread([item["test_accuracy"] for item in found])
        sizes = f"{found[0]['parameters']:,} | {found[0]['theoretical_speedup']:.2f}"
        lines.append(f"| {ratio:g} | {method} | {sizes} | {before} | {after} | {each} |")
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="GReg against one-shot removal of filters.")
    add = parser.add_argument
    add("--data-dir", type=Path, required=True)
    add("--root", type=Path, required=True, help="folder of the run folders")
    add("--recipe", default="mnist/lenet5")
    add("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    add("--ratios", type=float, nargs="+", default=[0.5, 0.7, 0.9], help="of the filters of each layer")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--base", default="4ep", help="training of the base (default: 4ep)")
    add("--finetune", default="1ep", help="fine-tuning (default: 1ep)")
    add("--lr", type=float, default=0.01, help="of GReg and of the fine-tuning (default: 0.01)")
    add("--reg-step", type=float, default=2.5e-3)
    add("--pick-step", type=float, default=1e-3)
    add("--pick-limit", type=float, default=0.2)
    add("--stabilize", type=int, default=67, help="steps at the last penalty (default: 67)")
    add("--jobs", type=int, default=2, help="runs at a time (default: 2)")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    start = time.time()
    bases = [base(seed, arguments) for seed in arguments.seeds]
    train_all(bases, arguments.data_dir, arguments.jobs)
    keys: list[Key] = [(method, ratio) for ratio in arguments.ratios for method in arguments.methods]
    cells = {key: [removal(key, seed, arguments) for seed in arguments.seeds] for key in keys}
    train_all([cell for runs in cells.values() for cell in runs], arguments.data_dir, arguments.jobs)
    print(table(cells, bases))
    steps = {name: cls.steps_needed(greg_options(name, arguments)) for name, cls in GREG.items()}
    print(f"\n{len(arguments.seeds)} seeds; steps of GReg: {steps}; {time.time() - start:.0f} s for this call")


GREG = {"greg-1": sw.GReg1, "greg-2": sw.GReg2}


if __name__ == "__main__":
    main()
