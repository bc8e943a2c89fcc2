"""Methods by name: what each is, where it comes from, and its defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sparsewright.checks import did_you_mean
from sparsewright.methods.gmp import GMP, UNIFORM
from sparsewright.methods.granet import GraNet
from sparsewright.methods.greg import GReg1, GReg2
from sparsewright.methods.gsm import GSM
from sparsewright.methods.magnitude import Magnitude
from sparsewright.methods.rigl import ITOP, RigL
from sparsewright.methods.rpg import RPG
from sparsewright.methods.set import SET
from sparsewright.methods.snfs import SNFS
from sparsewright.methods.static import Static
from sparsewright.options import COMMON, refuse_unknown
from sparsewright.sparsifier import Sparsifier


@dataclass(frozen=True)
class MethodInfo:
    """What a registry name stands for.

    Attributes:
        name: the name that ``create`` takes.
        cls: the class that it makes.
        paper: arXiv number of the paper.
        year: year of the paper.
        summary: the method in one line.
        preset: options in which the name differs from the class's own defaults.
        extra: options of the class that are not in its table of defaults, with their default.
    """

    name: str
    cls: type[Sparsifier]
    paper: str
    year: int
    summary: str
    preset: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """Every option besides the common ones, with its default under this name."""
        return {**self.cls.defaults, **self.extra, **self.preset}


_METHODS = (
    MethodInfo("gmp", GMP, "1710.01878", 2017, "gradual magnitude pruning, all layers jointly"),
    MethodInfo("gmp-uniform", GMP, "1710.01878", 2017, "gradual magnitude pruning, each layer alike", preset=UNIFORM),
    MethodInfo("granet", GraNet, "2106.10404", 2021, "gradual pruning with regrowth by gradient, all layers jointly"),
    MethodInfo(
        "granet-uniform", GraNet, "2106.10404", 2021, "gradual pruning with regrowth, each layer alike", preset=UNIFORM
    ),
    MethodInfo("greg-1", GReg1, "2012.09243", 2021, "chooses first, then pushes to zero with a growing penalty"),
    MethodInfo("greg-2", GReg2, "2012.09243", 2021, "a growing penalty shows what to choose, and pushes it to zero"),
    MethodInfo("gsm", GSM, "1909.12778", 2019, "the most salient weights learn, the others fade until the end"),
    MethodInfo("magnitude", Magnitude, "1506.02626", 2015, "one-shot pruning of a trained network"),
    MethodInfo("rigl", RigL, "1911.11134", 2020, "constant sparsity, regrowth by gradient; the paper's settings"),
    MethodInfo(
        "rigl-itop", RigL, "2102.02887", 2021, "RigL that explores slowly and until the end of training", preset=ITOP
    ),
    MethodInfo("rpg", RPG, "2311.17493", 2023, "exponential pruning with regrowth that keeps the rank of the weights"),
    MethodInfo("set", SET, "1707.04780", 2018, "constant sparsity, random regrowth"),
    MethodInfo("snfs", SNFS, "1907.04840", 2019, "constant sparsity, regrowth by momentum, within and across layers"),
    MethodInfo("static", Static, "2202.02643", 2022, "fixed masks, random or given", extra={"masks": None}),
)


def list_methods(filter: str = "*") -> list[MethodInfo]:  # noqa: A002 - timm's word for the same argument
    """Records of all methods, or of those whose name matches a glob pattern, sorted by name."""
    from fnmatch import fnmatchcase

    return sorted((info for info in _METHODS if fnmatchcase(info.name, filter)), key=lambda info: info.name)


def method_info(name: str) -> MethodInfo:
    """The record of one method.

    Raises:
        ValueError: no such method; the nearest name is suggested.
    """
    by_name = {info.name: info for info in _METHODS}
    if name not in by_name:
        hint = did_you_mean(name, by_name)
        raise ValueError(f"unknown method {name!r}{hint} (known: {', '.join(sorted(by_name))})")
    return by_name[name]


def create(name: str, model: nn.Module, optimizer: Optimizer | Sequence[Optimizer], **options: Any) -> Sparsifier:
    """Make a sparsifier by registry name.

    Args:
        name: a method's name, see :func:`list_methods`.
        model: the model to sparsify.
        optimizer: its optimizer, or all optimizers that are stepped together.
        **options: arguments of the class (``sparsity``, ``total_steps``, ...), on top of the preset of this name.

    Raises:
        ValueError, TypeError: an unknown name or option, or a value that is not allowed.
    """
    info = method_info(name)
    for option in options:
        if option not in COMMON:
            refuse_unknown(f"method {name!r}", option, info.options)
    return info.cls(model, optimizer, **{**info.preset, **options})
