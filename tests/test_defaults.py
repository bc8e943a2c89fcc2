"""The table of defaults per preset, and what importing the library brings in."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

import sparsewright as sw

CLASSES = {
    "gmp": sw.GMP,
    "gmp-uniform": sw.GMP,
    "granet": sw.GraNet,
    "granet-uniform": sw.GraNet,
    "greg-1": sw.GReg1,
    "greg-2": sw.GReg2,
    "gsm": sw.GSM,
    "magnitude": sw.Magnitude,
    "rigl": sw.RigL,
    "rigl-itop": sw.RigL,
    "rpg": sw.RPG,
    "set": sw.SET,
    "snfs": sw.SNFS,
    "static": sw.Static,
}
RAMPS = ["gmp", "gmp-uniform", "granet", "granet-uniform"]
MOVING = ["granet", "granet-uniform", "rigl", "rigl-itop", "rpg", "set", "snfs"]
REPLACING = ["rigl", "rpg"]

# One entry per preset; what a preset does not have is absent.
TABLE: dict[str, dict[str, Any]] = {
    "gmp": {"update_interval": 1000, "update_end": 1.0, "prune_end": 0.5, "distribution": "global"},
    "gmp-uniform": {"update_interval": 1000, "update_end": 1.0, "prune_end": 0.5, "distribution": "uniform"},
    "granet": {"update_interval": 1000, "update_end": 1.0, "prune_end": 0.5, "distribution": "global"},
    "granet-uniform": {"update_interval": 1000, "update_end": 1.0, "prune_end": 0.5, "distribution": "uniform"},
    "rigl": {"update_interval": 100, "update_end": 0.75, "distribution": "erk"},
    "rigl-itop": {"update_interval": 1000, "update_end": 1.0, "distribution": "erk"},
    "rpg": {"update_interval": 100, "update_end": 0.901, "prune_start": 0, "prune_end": 0.9, "distribution": "global"},
    "set": {"update_interval": 1000, "update_end": 1.0, "distribution": "erk"},
    "snfs": {"update_interval": 1000, "update_end": 1.0, "distribution": "erk"},
    "static": {"distribution": "erk"},
    "magnitude": {"distribution": "global", "criterion": "magnitude", "granularity": "weight"},
}
for preset in TABLE:
    TABLE[preset] |= {
        "min_kept_per_layer": 1,
        "last_layer_density": 0.2 if preset.endswith("-uniform") else None,
    }
for preset in MOVING + RAMPS:
    TABLE[preset] |= {"update_replaces_step": preset in REPLACING}
for preset in RAMPS:
    TABLE[preset] |= {"prune_start": 0, "initial_sparsity": 0.0}
for preset in MOVING:
    TABLE[preset] |= {
        "drop_fraction": 0.3 if preset in REPLACING else 0.5,
        "drop_schedule": "cosine",
        "min_drop_fraction": 0.0 if preset in REPLACING else 0.005,
        "drop": "set" if preset == "set" else "magnitude",
        "grow": {"set": "random", "snfs": "momentum"}.get(preset, "gradient"),
        "redistribute": "momentum" if preset == "snfs" else None,
    }
TABLE["gsm"] = {}
TABLE["greg-1"] = {
    "granularity": "weight",
    "reg_step": 1e-4,
    "reg_interval": 5,
    "reg_limit": 1.0,
    "growing": True,
    "magnitude_ratio_limit": 1000.0,
    "stabilize_steps": 40_000,
}
TABLE["greg-2"] = {option: value for option, value in TABLE["greg-1"].items() if option != "growing"}
TABLE["greg-2"] |= {"pick_step": 1e-5, "pick_limit": 1e-2, "recover_penalty": -1e-4}
TABLE["rpg"] |= {
    "rank_weight": 0.5,
    "residual_energy": 0.2,
    "growth_steps": 1,
    "min_layer_sparsity": 0.0,
    "rank_linear_layers": False,
}


def model_and_optimizer() -> tuple[nn.Module, SGD]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 20), nn.Linear(20, 10))
    return model, SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)


def test_every_preset_is_in_the_table() -> None:
    assert sorted(TABLE) == [info.name for info in sw.list_methods()]


@pytest.mark.parametrize("preset", TABLE)
def test_defaults_of_a_preset(preset: str) -> None:
    (info,) = sw.list_methods(preset)
    for option, value in TABLE[preset].items():
        assert option in info.options, option
        assert info.options[option] == value, option
        assert type(info.options[option]) is type(value), option
    model, optimizer = model_and_optimizer()
    sparsifier = sw.create(preset, model, optimizer, sparsity=0.7, total_steps=100_000)
    assert type(sparsifier) is CLASSES[preset]
    assert info.cls is CLASSES[preset]


@pytest.mark.parametrize("preset", TABLE)
def test_the_records_defaults_are_those_in_use(preset: str) -> None:
    """Giving each default explicitly makes the same sparsifier as giving none."""
    (info,) = sw.list_methods(preset)
    states = []
    for options in ({}, dict(info.options)):
        model, optimizer = model_and_optimizer()
        # A threshold is refused beside another drop rule, so it cannot be spelt out.
        options.pop("drop_threshold", None)
        if options.get("masks", 0) is None:
            options = {"masks": None}
        states.append(sw.create(preset, model, optimizer, sparsity=0.7, total_steps=100_000, **options).state_dict())
    assert states[0]["settings"] == states[1]["settings"]
    for name, entry in states[0]["masks"].items():
        assert torch.equal(entry["bits"], states[1]["masks"][name]["bits"])


@pytest.mark.parametrize("preset", ["rigl", "rigl-itop", "set", "snfs", "static", "magnitude"])
def test_constant_sparsity_methods_have_no_initial_sparsity(preset: str) -> None:
    model, optimizer = model_and_optimizer()
    with pytest.raises(TypeError, match="initial_sparsity"):
        sw.create(preset, model, optimizer, sparsity=0.7, total_steps=3000, initial_sparsity=0.5)
    sparsifier = sw.create(preset, model, optimizer, sparsity=0.7, total_steps=100_000)
    assert sparsifier.masks.kept() == round((1 - 0.7) * 2000)


@pytest.mark.parametrize("preset", ["rigl", "granet", "set", "snfs", "gmp"])
def test_a_class_has_the_defaults_of_its_own_name(preset: str) -> None:
    (info,) = sw.list_methods(preset)
    model, optimizer = model_and_optimizer()
    by_class = CLASSES[preset](model, optimizer, sparsity=0.7, total_steps=100_000)
    for option, value in info.options.items():
        assert by_class.state_dict()["settings"][option] == value


def test_seed_defaults_to_zero() -> None:
    masks = []
    for options in ({}, {"seed": 0}, {"seed": 1}):
        model, optimizer = model_and_optimizer()
        masks.append(sw.RigL(model, optimizer, sparsity=0.7, total_steps=100_000, **options).masks["0.weight"].clone())
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_records_name_their_papers() -> None:
    for info in sw.list_methods():
        assert info.summary
        assert re.fullmatch(r"\d{4}\.\d{5}", info.paper)
        assert 2015 <= info.year <= 2026


def test_import_needs_torch_alone() -> None:
    heavy = ["lightning_fabric", "pydantic", "torchvision", "typer", "rich", "yaml", "timm", "safetensors", "sklearn"]
    program = (
        "import torch, sys\n"
        "before = set(sys.modules)\n"
        "import sparsewright\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        f"print(sorted(new & set({heavy!r})), sorted(n for n in sys.modules if n.startswith('sparsewright.')))\n"
    )
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, capture_output=True, text=True)
    loaded, own = (part for part in result.stdout.strip().split("] [", 1))
    assert loaded == "["
    for part in ("training", "data", "models", "cli", "report", "analysis"):
        assert f"'sparsewright.{part}" not in own


def test_all_public_names_exist() -> None:
    for name in sw.__all__:
        assert hasattr(sw, name), name
    assert {cls.__name__ for cls in CLASSES.values()} | {"MaskSet", "Sparsifier"} <= set(sw.__all__)
    assert {"create", "list_methods"} <= set(sw.__all__)
