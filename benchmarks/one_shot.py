"""What one-shot pruning costs a trained network, without any fine-tuning, as a Markdown table.

python benchmarks/one_shot.py --data-dir DATA RUN [RUN ...]      (dense runs of one recipe, one per seed)
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

import sparsewright as sw
from sparsewright.data import open_data
from sparsewright.training import load_run

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)


def accuracy_of(model: torch.nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Test accuracy in per cent."""
    with torch.no_grad():
        hits = sum(int((model(images).argmax(1) == labels).sum()) for images, labels in batches)
    return 100.0 * hits / sum(len(labels) for _, labels in batches)


def pruned_accuracy(run: Path, criterion: str, sparsity: float, batches: list, seed: int) -> float:
    """Accuracy of a run's final network after one-shot pruning."""
    model = load_run(run).model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sw.Magnitude(model, optimizer, sparsity=sparsity, criterion=criterion, seed=seed).finalize()
    return accuracy_of(model, batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("runs", type=Path, nargs="+")
    arguments = parser.parse_args()
    recipe = load_run(arguments.runs[0]).recipe
    data = open_data(
        recipe.data.name,
        data_dir=arguments.data_dir,
        batch_size=1000,
        seed=0,
        device=torch.device("cpu"),
        augment=None,
        download=False,
    )
    batches = list(data.test.epoch(0))
    dense = [accuracy_of(load_run(run).model, batches) for run in arguments.runs]
    print(f"dense: {statistics.mean(dense):.2f} over {len(dense)} seeds\n")
    print("| criterion | " + " | ".join(f"{sparsity:.0%}" for sparsity in SPARSITIES) + " |")
    print("|---|" + "---|" * len(SPARSITIES))
    for criterion in ("magnitude", "random", "largest"):
        cells = []
        for sparsity in SPARSITIES:
            runs = enumerate(arguments.runs)
            values = [pruned_accuracy(run, criterion, sparsity, batches, seed) for seed, run in runs]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}")
        print(f"| {criterion} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
