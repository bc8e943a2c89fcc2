"""What the layer log of a run costs beside its training: time of a look and of a checkpoint, and the size of the file.

    python benchmarks/log_overhead.py [--epochs 160] [--steps 3] [--threads 2]

ResNet-50 for CIFAR with RigL at 90 %, an update every 100 steps. Steps, looks at changed masks and packed states are
timed in turn in one run; the ratio is that of all looks and checkpoints of the run to its steps. The file is written
for the whole run, with as many lines as it would have.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

import sparsewright as sw
from sparsewright.models import create_model
from sparsewright.training.layer_log import LAYERS, LayerRecorder

STEPS_PER_EPOCH = 391
INTERVAL = 100
BATCH = 128


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=160)
    parser.add_argument("--steps", type=int, default=3, help="rounds of the timing")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    total = arguments.epochs * STEPS_PER_EPOCH
    torch.manual_seed(0)
    model = create_model("resnet50-cifar", num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = sw.RigL(model, optimizer, sparsity=0.9, total_steps=total, update_interval=INTERVAL)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))

    def step() -> None:
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recorder = LayerRecorder(folder, total)
        recorder.look(0, sparsifier.masks, 0)
        step()
        times: dict[str, list[float]] = {"step": [], "look": [], "state": []}
        versions = iter(range(1, total + 1))

        def look(at: int) -> float:
            # As much changes as in the first update of the run: 30 % of the connections move.
            for mask in sparsifier.masks.values():
                mask.copy_(torch.rand(mask.shape) < mask.float().mean())
            return seconds(lambda: recorder.look(at, sparsifier.masks, next(versions)))

        for at in range(arguments.steps):
            times["step"].append(seconds(step))
            times["look"].append(look(INTERVAL * (at + 1)))
            times["state"].append(seconds(recorder.state_dict))
        for at in range(arguments.steps + 1, total // INTERVAL + 1):
            # One layer that moves is enough for a line of all.
            last = list(sparsifier.masks.values())[-1]
            last.logical_not_()
            recorder.look(INTERVAL * at, sparsifier.masks, next(versions))
        size = (folder / LAYERS).stat().st_size
        lines = len((folder / LAYERS).read_text().splitlines())
    of_step, of_look, of_state = (statistics.median(times[key]) for key in ("step", "look", "state"))
    logging = total // INTERVAL * of_look + arguments.epochs * of_state
    weights = sum(mask.numel() for mask in sparsifier.masks.values())
    print(
        f"{len(sparsifier.masks)} layers, {weights:,} weights, {arguments.threads} threads, torch {torch.__version__}"
    )
    print(f"a step {1000 * of_step:.1f} ms, a look {1000 * of_look:.1f} ms, a packed state {1000 * of_state:.1f} ms")
    print(f"{arguments.epochs} epochs: {100 * logging / (total * of_step):.4f} % of the training time")
    print(f"{LAYERS}: {size / 1e6:.2f} MB in {lines} lines")


if __name__ == "__main__":
    main()
