"""Promise 4: the ranks of a distributed run are bit-identical, and the run is the single process's on the joint batch.

Run as a script, this file is one rank: ``python test_promise_ranks.py FOLDER RANK THREADS``.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, Adam, Optimizer

import sparsewright as sw

RANKS, STEPS, INTERVAL, BATCH = 2, 24, 4, 64

HOLD = {"reg_interval": 2, "stabilize_steps": 5}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "gmp": ("gmp", {}),
    "gmp-uniform": ("gmp-uniform", {"last_layer_density": None}),
    "granet": ("granet", {}),
    "granet-random": ("granet", {"grow": "random", "initial_sparsity": 0.5}),
    "granet-uniform": ("granet-uniform", {"initial_sparsity": 0.5}),
    "greg-1-filter": ("greg-1", {"granularity": "filter", "reg_step": 0.2, **HOLD}),
    "greg-2": ("greg-2", {"reg_step": 0.3, "pick_step": 0.01, "pick_limit": 0.03, **HOLD}),
    "gsm": ("gsm", {}),
    "magnitude-filter": ("magnitude", {"granularity": "filter", "criterion": "random"}),
    "rigl": ("rigl", {}),
    "rigl-itop": ("rigl-itop", {}),
    "rpg": ("rpg", {"growth_steps": 2}),
    "set": ("set", {}),
    "snfs": ("snfs", {}),
    "static": ("static", {}),
    "magnitude-random": ("magnitude", {"criterion": "random"}),
}


class Net(nn.Module):
    """Convolutions and linear layers without batch norm; input (batch, 3, 8, 8)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv1 = nn.Conv2d(3, 16, 3)
        self.conv2 = nn.Conv2d(16, 24, 3, stride=2)
        self.fc1 = nn.Linear(24 * 4, 40)
        self.fc2 = nn.Linear(40, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def joint_batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(BATCH, 3, 8, 8, generator=generator), torch.randint(0, 10, (BATCH,), generator=generator)


def attach(run: str, model: nn.Module, optimizer: Optimizer, seed: int, **options: Any) -> sw.Sparsifier:
    method, own = RUNS[run]
    (info,) = sw.list_methods(method)
    interval = {"update_interval": INTERVAL} if "update_interval" in info.options else {}
    arguments = {**interval, **own, **options}
    return sw.create(method, model, optimizer, sparsity=0.8, total_steps=STEPS, seed=seed, **arguments)


def snapshot(model: nn.Module, sparsifier: sw.Sparsifier, optimizer: Optimizer) -> dict[str, Tensor]:
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    result = {f"mask {name}": mask.clone() for name, mask in sparsifier.masks.items()}
    result |= {f"weight {name}": value.detach().clone() for name, value in inner.named_parameters()}
    for index, entry in optimizer.state_dict()["state"].items():
        result |= {f"state {index} {key}": value.clone() for key, value in entry.items() if isinstance(value, Tensor)}
    return result


def train(run: str, model: nn.Module, optimizer: Optimizer, seed: int, rows: slice) -> list[dict[str, Tensor]]:
    """Snapshots at creation and after each update; the last is of the end where the method prunes only there."""
    sparsifier = attach(run, model, optimizer, seed)
    snapshots = [snapshot(model, sparsifier, optimizer)]
    for step in range(STEPS):
        x, y = joint_batch(step)
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
        if (step + 1) % INTERVAL == 0:
            snapshots.append(snapshot(model, sparsifier, optimizer))
    if sparsifier.prunes_at_end:
        sparsifier.finalize()
        snapshots[-1] = snapshot(model, sparsifier, optimizer)
    return snapshots


def optimizer_of(model: nn.Module) -> Optimizer:
    return SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)


def rank_main(folder: Path, rank: int) -> None:
    """Everything that one rank does."""
    store = dist.FileStore(str(folder / "store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=120))
    rows = slice(rank * BATCH // RANKS, (rank + 1) * BATCH // RANKS)
    results: dict[str, Any] = {}
    for run in RUNS:
        # DistributedDataParallel makes the weights equal; the sparsifier's seeds agree.
        model = DistributedDataParallel(Net(seed=rank))
        results[run] = train(run, model, optimizer_of(model), 5, rows)
        # The ranks disagree about weights and seeds, and the sparsifier is made before the wrapper.
        inner = Net(seed=100 + rank)
        optimizer = Adam(inner.parameters(), lr=1e-3)
        sparsifier = attach(run, inner, optimizer, seed=1000 + rank)
        created = {f"mask {name}": mask.clone() for name, mask in sparsifier.masks.items()}
        created |= {f"weight {name}": inner.get_parameter(name).detach().clone() for name in sparsifier.masks}
        results[f"{run} created"] = [created]
        model = DistributedDataParallel(inner)
        for step in range(STEPS):
            x, y = joint_batch(step)
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        results[f"{run} other seeds"] = [snapshot(model, sparsifier, optimizer)]
    results.update(process_group_runs(rank))
    torch.save(results, folder / f"rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def process_group_runs(rank: int) -> dict[str, Any]:
    """Start masks with each value of the option, from weights and seeds that differ between the ranks."""
    groups = {"none": None, "false": False, "world": dist.group.WORLD}
    alone = [dist.new_group([index]) for index in range(RANKS)]
    groups["alone"] = alone[rank]
    results = {}
    for name, group in groups.items():
        model = Net(seed=rank)
        sparsifier = attach("static", model, optimizer_of(model), seed=rank, process_group=group)
        results[f"group {name}"] = [snapshot(model, sparsifier, SGD(model.parameters()))]
    # A layer that has a gradient on one rank only must neither hang the update nor part the ranks.
    model = Net(seed=0)
    optimizer = SGD(model.parameters(), lr=0.0)
    sparsifier = attach("rigl", model, optimizer, seed=rank, update_replaces_step=False)
    for name, parameter in model.named_parameters():
        if name != "conv2.weight" or rank == 0:
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(rank))
    for _ in range(2 * INTERVAL):
        optimizer.step()
    results["uneven gradients"] = [{f"mask {name}": mask.clone() for name, mask in sparsifier.masks.items()}]
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    threads = str(max(torch.get_num_threads() // RANKS, 1))
    command = [sys.executable, __file__, str(folder)]
    processes = [subprocess.Popen([*command, str(rank), threads], stderr=subprocess.PIPE) for rank in range(RANKS)]
    try:
        outputs = [process.communicate(timeout=240)[1].decode() for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * RANKS, "\n".join(outputs)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(RANKS)]


def assert_identical(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


def masks_of(snapshot: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in snapshot.items() if key.startswith("mask ")}


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_promise_4_same_on_every_rank(run: str, ranks: list[dict[str, Any]]) -> None:
    assert len(ranks[0][run]) == 1 + STEPS // INTERVAL
    for one, other in zip(ranks[0][run], ranks[1][run], strict=True):
        assert_identical(one, other)
    first, last = masks_of(ranks[0][run][0]), masks_of(ranks[0][run][-1])
    moved = [key for key in last if key not in first or not torch.equal(first[key], last[key])]
    assert run.startswith(("static", "magnitude")) or moved


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_ranks_that_start_apart_become_equal(run: str, ranks: list[dict[str, Any]]) -> None:
    (one,), (other,) = ranks[0][f"{run} created"], ranks[1][f"{run} created"]
    assert_identical(one, other)
    assert not torch.equal(Net(seed=100).conv2.weight, Net(seed=101).conv2.weight)
    (one,), (other,) = ranks[0][f"{run} other seeds"], ranks[1][f"{run} other seeds"]
    assert_identical(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_ranks_agree_with_one_process_on_the_joint_batch(run: str, ranks: list[dict[str, Any]]) -> None:
    model = Net(seed=0)
    single = train(run, model, optimizer_of(model), 5, slice(None))
    distributed = ranks[0][run]
    for key, mask in masks_of(single[0]).items():
        assert torch.equal(mask, distributed[0][key]), f"start {key}"
    for key, mask in masks_of(single[1]).items():
        assert torch.equal(mask, distributed[1][key]), f"first update {key}"
    for index, (alone, joint) in enumerate(zip(single, distributed, strict=True)):
        if not masks_of(alone):
            assert run.startswith(("gsm", "greg"))
            assert index < len(single) - 1
            continue
        both = sum(int((mask & joint[key]).sum()) for key, mask in masks_of(alone).items())
        either = sum(int((mask | joint[key]).sum()) for key, mask in masks_of(alone).items())
        assert both / either >= 0.98, f"update {index}"


@pytest.mark.slow
def test_process_group_says_who_must_agree(ranks: list[dict[str, Any]]) -> None:
    for name in ("none", "world"):
        (one,), (other,) = ranks[0][f"group {name}"], ranks[1][f"group {name}"]
        assert_identical(masks_of(one), masks_of(other))
        assert torch.equal(one["weight conv2.weight"], other["weight conv2.weight"])
    for name in ("false", "alone"):
        (one,), (other,) = ranks[0][f"group {name}"], ranks[1][f"group {name}"]
        assert not torch.equal(one["mask conv2.weight"], other["mask conv2.weight"])
        assert not torch.equal(one["weight conv2.weight"], other["weight conv2.weight"])


@pytest.mark.slow
def test_gradients_on_some_ranks_only(ranks: list[dict[str, Any]]) -> None:
    (one,), (other,) = ranks[0]["uneven gradients"], ranks[1]["uneven gradients"]
    assert_identical(one, other)


def test_a_group_without_torch_distributed_is_refused() -> None:
    model = Net(seed=0)
    with pytest.raises(ValueError, match="process_group"):
        attach("static", model, optimizer_of(model), seed=0, process_group=object())


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[3]))
    rank_main(Path(sys.argv[1]), int(sys.argv[2]))
