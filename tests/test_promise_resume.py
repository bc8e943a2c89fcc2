"""Promise 3: a run that is saved, loaded by a new process in any order and continued is bit-identical.

Run as a script, this file is the new process: ``python test_promise_resume.py FOLDER THREADS`` continues every run.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer, RMSprop
from toys import DYNAMIC, OddNet, train

import sparsewright as sw

HALF = 13
PARTS = ("model", "optimizer", "sparsifier")
ORDERS = list(itertools.permutations(PARTS))
# One run of each kind of state is loaded in every order; the others share its code, and are loaded both ways round.
EVERY_ORDER = ("granet-momentum", "greg-2", "gsm", "rpg", "snfs-own-average")

# The choice falls into the first half, the end of the pushing into the second.
GROWING = {"reg_interval": 2, "stabilize_steps": 5}
# Each run: method, optimizer, options. Halves end between two updates, inside the ramp.
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gmp": ("gmp", "nesterov", {}),
    "gmp-uniform": ("gmp-uniform", "adam", {"last_layer_density": None}),
    "granet": ("granet", "nesterov", {}),
    "granet-sparse-start": ("granet", "nesterov", {"initial_sparsity": 0.5}),
    "granet-random": ("granet", "adam", {"grow": "random", "initial_sparsity": 0.3}),
    "granet-uniform": ("granet-uniform", "adam", {"last_layer_density": None}),
    "granet-momentum": ("granet", "rmsprop", {"grow": "momentum"}),
    "magnitude": ("magnitude", "nesterov", {}),
    "rigl": ("rigl", "nesterov", {}),
    "rigl-itop": ("rigl-itop", "adam", {"distribution": {"conv2.*": 0.9}}),
    "rigl-momentum": ("rigl", "sgd", {"grow": "momentum"}),
    "greg-1": ("greg-1", "nesterov", {**GROWING, "reg_step": 0.2}),
    "greg-1-filter": ("greg-1", "nesterov", {**GROWING, "reg_step": 0.2, "granularity": "filter"}),
    "greg-2": ("greg-2", "nesterov", {**GROWING, "reg_step": 0.3, "pick_step": 0.01, "pick_limit": 0.05}),
    "greg-2-channel": (
        "greg-2",
        "nesterov",
        {**GROWING, "reg_step": 0.3, "pick_step": 0.01, "pick_limit": 0.02, "granularity": "channel"},
    ),
    "gsm": ("gsm", "nesterov", {}),
    "magnitude-filter": ("magnitude", "nesterov", {"granularity": "filter", "criterion": "random"}),
    "rpg": ("rpg", "nesterov", {}),
    "rpg-mean-gradient": ("rpg", "nesterov", {"growth_steps": 3, "rank_linear_layers": True}),
    "set": ("set", "nesterov", {}),
    "set-adam": ("set", "adam", {}),
    "snfs": ("snfs", "nesterov", {}),
    "snfs-adam": ("snfs", "adam", {}),
    "snfs-own-average": ("snfs", "sgd", {}),
    "static": ("static", "nesterov", {}),
}
OPTIMIZERS = {
    "sgd": lambda params: SGD(params, lr=0.1),
    "nesterov": lambda params: SGD(params, lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "adam": lambda params: Adam(params, lr=0.01),
    "rmsprop": lambda params: RMSprop(params, lr=0.005, momentum=0.5),
}


def orders(run: str) -> list[tuple[str, ...]]:
    return ORDERS if run in EVERY_ORDER else [ORDERS[0], ORDERS[-1]]


def build(run: str, model_seed: int = 0, seed: int = 3) -> tuple[OddNet, Optimizer, sw.Sparsifier]:
    method, optimizer_name, options = RUNS[run]
    (info,) = sw.list_methods(method)
    model = OddNet(model_seed)
    optimizer = OPTIMIZERS[optimizer_name](model.parameters())
    schedule = {key: value for key, value in {"update_interval": 3, "prune_end": 0.8}.items() if key in info.options}
    sparsifier = sw.create(
        method, model, optimizer, sparsity=0.7, total_steps=2 * HALF, seed=seed, **{**schedule, **options}
    )
    return model, optimizer, sparsifier


def snapshot(model: OddNet, optimizer: Optimizer, sparsifier: sw.Sparsifier) -> dict[str, Tensor]:
    """Everything that must agree, as one flat mapping of tensors."""
    result = {f"weight {name}": value.detach().clone() for name, value in model.named_parameters()}
    result |= {f"mask {name}": mask.clone() for name, mask in sparsifier.masks.items()}
    for index, entry in optimizer.state_dict()["state"].items():
        result |= {f"state {index} {key}": value.clone() for key, value in entry.items() if isinstance(value, Tensor)}
    result["step_count"] = torch.tensor(sparsifier.step_count)
    result |= flattened("sparsifier", sparsifier.state_dict())
    return result


def flattened(prefix: str, value: Any) -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {prefix: value.clone()}
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in flattened(f"{prefix} {key}", item).items()}
    return {}


def resume_all(folder: Path) -> None:
    """Load each run in each order, train its second half, and save what came out."""
    for run in RUNS:
        for order in orders(run):
            # Another seed everywhere: nothing may be left of what creation drew.
            model, optimizer, sparsifier = build(run, model_seed=77, seed=99)
            parts = {"model": model, "optimizer": optimizer, "sparsifier": sparsifier}
            for part in order:
                parts[part].load_state_dict(torch.load(folder / f"{run}.{part}.pt", weights_only=True))
            train(model, optimizer, range(HALF, 2 * HALF))
            torch.save(snapshot(model, optimizer, sparsifier), folder / f"{run}.{'-'.join(order)}.result.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """First halves trained and saved here, second halves by a new process."""
    result = tmp_path_factory.mktemp("resume")
    for run in RUNS:
        model, optimizer, sparsifier = build(run)
        train(model, optimizer, range(HALF))
        torch.save(model.state_dict(), result / f"{run}.model.pt")
        torch.save(optimizer.state_dict(), result / f"{run}.optimizer.pt")
        torch.save(sparsifier.state_dict(), result / f"{run}.sparsifier.pt")
    threads = str(torch.get_num_threads())
    subprocess.run([sys.executable, __file__, str(result), threads], check=True, timeout=300)
    return result


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Run -> snapshots at the half and at the end of training without interruption."""
    result = {}
    for run in RUNS:
        model, optimizer, sparsifier = build(run)
        train(model, optimizer, range(HALF))
        half = snapshot(model, optimizer, sparsifier)
        train(model, optimizer, range(HALF, 2 * HALF))
        result[run] = (half, snapshot(model, optimizer, sparsifier))
    return result


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return [
        key for key in sorted({*one, *other}) if key not in one or key not in other or not same(one[key], other[key])
    ]


def same(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    # Bytes and not values, so that -0.0 and 0.0 differ.
    return torch.equal(one.contiguous().reshape(-1).view(torch.uint8), other.contiguous().reshape(-1).view(torch.uint8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "order"),
    [(run, order) for run in RUNS for order in orders(run)],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_promise_3_resume_is_bit_identical(
    run: str,
    order: tuple[str, ...],
    folder: Path,
    uninterrupted: dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]],
) -> None:
    half, end = uninterrupted[run]
    resumed = torch.load(folder / f"{run}.{'-'.join(order)}.result.pt", weights_only=True)
    assert not differing(resumed, end)
    # The comparison would be empty if the second half changed nothing.
    moved = {key.split()[0] for key in differing(half, end)}
    assert {"weight", "state" if "own" not in run and run != "rigl-momentum" else "weight"} <= moved
    assert ("mask" in moved) == (RUNS[run][0] in DYNAMIC)


@pytest.mark.parametrize("run", ["set", "granet-random"])
def test_random_growth_depends_on_the_saved_random_state(run: str) -> None:
    """The counterpart: with another seed the runs part, so that equality above is not for want of randomness."""
    results = []
    for seed in (3, 4):
        model, optimizer, sparsifier = build(run, seed=seed)
        train(model, optimizer, range(2 * HALF))
        results.append(dict(sparsifier.masks))
    assert any(not torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("run", RUNS)
def test_state_holds_tensors_and_plain_values_only(run: str) -> None:
    model, optimizer, sparsifier = build(run)
    train(model, optimizer, range(4))

    def check(value: Any) -> None:
        if type(value) is dict:
            for key, item in value.items():
                check(key)
                check(item)
        elif type(value) in (list, tuple):
            for item in value:
                check(item)
        else:
            assert type(value) in (Tensor, int, float, bool, str, type(None)), value

    state = sparsifier.state_dict()
    check(state)
    bits = sum(value.numel() * value.element_size() for value in flattened("", state["masks"]).values())
    assert bits <= sum((mask.numel() + 7) // 8 for mask in sparsifier.masks.values())
    json.dumps(state["settings"])


@pytest.mark.parametrize("run", ["set", "snfs-own-average", "granet"])
def test_a_state_is_a_copy(run: str) -> None:
    """Training on does not reach into a state that was taken before."""
    model, optimizer, sparsifier = build(run)
    train(model, optimizer, range(HALF))
    state = sparsifier.state_dict()
    before = flattened("", state)
    train(model, optimizer, range(HALF, 2 * HALF))
    assert not differing(before, flattened("", state))


@pytest.mark.parametrize("run", ["set", "snfs-own-average", "granet", "rigl"])
def test_going_back_within_one_process(run: str) -> None:
    """A live sparsifier that loads an earlier state repeats the same second half."""
    model, optimizer, sparsifier = build(run)
    train(model, optimizer, range(HALF))
    saved = {"model": {k: v.clone() for k, v in model.state_dict().items()}, "sparsifier": sparsifier.state_dict()}
    masks = dict(sparsifier.masks)
    optimizer_state = torch.utils._pytree.tree_map(
        lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, optimizer.state_dict()
    )
    train(model, optimizer, range(HALF, 2 * HALF))
    end = snapshot(model, optimizer, sparsifier)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(optimizer_state)
    sparsifier.load_state_dict(saved["sparsifier"])
    assert sparsifier.step_count == HALF
    assert all(sparsifier.masks[name] is mask for name, mask in masks.items()), "the masks must stay the live ones"
    train(model, optimizer, range(HALF, 2 * HALF))
    assert not differing(end, snapshot(model, optimizer, sparsifier))


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    resume_all(Path(sys.argv[1]))
