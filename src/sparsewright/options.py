"""Options of the methods that hold masks: one frozen record, checked once, with errors that name the option."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sparsewright.checks import (
    check_bool,
    check_choice,
    check_count,
    check_moment,
    check_number,
    check_positive,
    check_sparsity,
    did_you_mean,
)
from sparsewright.groups import GRANULARITIES, Granularity

_CHOICES: dict[str, tuple[str | None, ...]] = {
    "criterion": ("magnitude", "random", "largest"),
    "drop": ("magnitude", "set", "threshold"),
    "drop_rounding": ("up", "down"),
    "drop_schedule": ("cosine", "linear", "constant"),
    "granularity": GRANULARITIES,
    "grow": ("gradient", "momentum", "random", None),
    "redistribute": (None, "magnitude", "nonzeros", "momentum"),
}
# Defaults that the methods share; each method's table starts from these.
MOVING: Mapping[str, Any] = {
    "update_interval": 1000,
    "update_end": 1.0,
    "update_replaces_step": False,
    "drop_fraction": 0.5,
    "drop_schedule": "cosine",
    "min_drop_fraction": 0.005,
    "drop_rounding": "up",
    "drop": "magnitude",
    "drop_threshold": 1e-3,
    "grow": "gradient",
    "redistribute": None,
}
RAMP: Mapping[str, Any] = {"prune_start": 0, "prune_end": 0.5, "initial_sparsity": 0.0}
SHARING: Mapping[str, Any] = {
    "distribution": "erk",
    "min_kept_per_layer": 1,
    "last_layer_density": None,
    "dense_first_layer": False,
}
RANK: Mapping[str, Any] = {
    "rank_weight": 0.5,
    "residual_energy": 0.2,
    "growth_steps": 1,
    "min_layer_sparsity": 0.0,
    "rank_linear_layers": False,
}
PENALTY: Mapping[str, Any] = {
    "granularity": "weight",
    "reg_step": 1e-4,
    "reg_interval": 5,
    "reg_limit": 1.0,
    "magnitude_ratio_limit": 1000.0,
    "stabilize_steps": 40_000,
}
PICKING: Mapping[str, Any] = {"pick_step": 1e-5, "pick_limit": 1e-2, "recover_penalty": -1e-4}
# What the options that a method does not take stand at: nothing moves unless a method's table says so.
_NEUTRAL: Mapping[str, Any] = {
    **MOVING,
    **RAMP,
    "initial_distribution": "erk",
    **SHARING,
    **RANK,
    **PENALTY,
    **PICKING,
    "growing": True,
    "criterion": "magnitude",
    "grow": None,
}
# Of a term of a score: large enough for any use, small enough for single precision to add the others to.
_LARGEST_WEIGHT = 1e6
# With a learning rate of 1e-3 or more, a step with such a penalty already overshoots zero.
_LARGEST_PENALTY = 1e4
_RULES = ("uniform", "er", "erk", "global")


class _Required:
    """The default of an argument that has none, so that a misspelt one is named before this one is missed."""

    def __repr__(self) -> str:
        return "required"


REQUIRED: Any = _Required()
# What every method takes besides its table.
COMMON = ("sparsity", "total_steps", "include", "exclude", "seed", "process_group")


@dataclass(frozen=True)
class Options:
    """Every option of the methods that hold masks; a method takes those that its ``defaults`` name.

    A moment is a float (fraction of total_steps) or an int (steps).

    Args:
        update_interval: steps between topology updates.
        update_end: moment after which the topology is frozen (inclusive).
        update_replaces_step: on an update step the optimizer does not move (RigL, algorithm 1).
        prune_start, prune_end: moments between which the sparsity rises.
        initial_sparsity: sparsity where the ramp starts.
        initial_distribution: how the random start masks before a ramp are shared among layers; a dense start has none.
        drop_fraction: fraction of a layer's kept weights that the first update would drop.
        drop_schedule: its decay over 0..update_end, "cosine", "linear" or "constant".
        min_drop_fraction: where the decay ends; a constant drop fraction does not decay.
        drop_rounding: "up" drops ceil(p * n) of a layer's n weights, "down" int(p * n).
        drop: "magnitude"; "set": nearest to zero from each sign; "threshold": magnitude, but only weights below
            ``drop_threshold``.
        drop_threshold: magnitude below which the rule "threshold" may drop, in the weights' unit.
        grow: "gradient", "momentum", "random", or None: then nothing is dropped either.
        redistribute: how dropped weights are shared among layers when they regrow: None (each layer its own), or in
            proportion to the mean "magnitude", the number of "nonzeros" or the mean "momentum" of its kept weights.
        distribution: how the scheduled sparsity is shared: "global", "uniform", "er", "erk", or a mapping of glob
            patterns to sparsities.
        min_kept_per_layer: every layer keeps at least this many weights (or all, if it has fewer).
        last_layer_density: density of the last layer in scope once the sparsity reaches 0.8; None: as the others.
        dense_first_layer: keep the first layer in scope dense and share the sparsity among the others.
        rank_weight: weight of the rank loss beside the task loss in the growth score; 0 leaves it out.
        residual_energy: energy that the rank loss's low-rank approximation leaves out, in [0, 1].
        growth_steps: the growth score is the mean gradient of this many steps, the last of which is the update's.
        min_layer_sparsity: sparsity below which a layer has no rank loss, in [0, 1].
        rank_linear_layers: whether weights with 2 dimensions have a rank loss, too.
        granularity: what is removed together: single "weight"s, "filter"s (output channels) or input "channel"s.
        reg_step: by how much the penalty of what is chosen grows at a time.
        reg_interval: optimizer steps between two such times.
        reg_limit: penalty above which a layer is pushed no further.
        growing: False: what is chosen has the penalty ``reg_limit`` from the first step on, for as many steps.
        magnitude_ratio_limit: mean magnitude of the kept groups over that of the chosen ones at which pushing ends.
        stabilize_steps: optimizer steps that the last penalties are held after the last layer is pushed.
        pick_step: by how much the penalty of everything grows at a time before the choice.
        pick_limit: penalty of everything at which the choice is made.
        recover_penalty: fixed penalty of what is kept after the choice; a negative one lets it grow back.
        criterion: what one-shot pruning removes: the smallest "magnitude", "random" weights, or the "largest".
    """

    update_interval: int
    update_end: float | int
    update_replaces_step: bool
    prune_start: float | int
    prune_end: float | int
    initial_sparsity: float
    initial_distribution: str | Mapping[str, float]
    drop_fraction: float
    drop_schedule: str
    min_drop_fraction: float
    drop_rounding: str
    drop: str
    drop_threshold: float
    grow: str | None
    redistribute: str | None
    distribution: str | Mapping[str, float]
    min_kept_per_layer: int
    last_layer_density: float | None
    dense_first_layer: bool
    rank_weight: float
    residual_energy: float
    growth_steps: int
    min_layer_sparsity: float
    rank_linear_layers: bool
    granularity: Granularity
    reg_step: float
    reg_interval: int
    reg_limit: float
    growing: bool
    magnitude_ratio_limit: float
    stabilize_steps: int
    pick_step: float
    pick_limit: float
    recover_penalty: float
    criterion: str

    def __post_init__(self) -> None:
        checked: dict[str, Any] = {
            "update_interval": check_count(self.update_interval, "update_interval"),
            "min_kept_per_layer": check_count(self.min_kept_per_layer, "min_kept_per_layer", least=0),
            "initial_sparsity": check_sparsity(self.initial_sparsity, "initial_sparsity"),
            "drop_fraction": check_number(self.drop_fraction, "drop_fraction", highest=1.0),
            "min_drop_fraction": check_number(self.min_drop_fraction, "min_drop_fraction", highest=1.0),
            "drop_threshold": check_number(self.drop_threshold, "drop_threshold"),
            "rank_weight": check_number(self.rank_weight, "rank_weight", highest=_LARGEST_WEIGHT),
            "residual_energy": check_number(self.residual_energy, "residual_energy", highest=1.0),
            "growth_steps": check_count(self.growth_steps, "growth_steps"),
            "min_layer_sparsity": check_number(self.min_layer_sparsity, "min_layer_sparsity", highest=1.0),
            "reg_step": check_positive(self.reg_step, "reg_step"),
            "reg_interval": check_count(self.reg_interval, "reg_interval"),
            "reg_limit": check_number(self.reg_limit, "reg_limit", highest=_LARGEST_PENALTY),
            "magnitude_ratio_limit": check_positive(self.magnitude_ratio_limit, "magnitude_ratio_limit"),
            "stabilize_steps": check_count(self.stabilize_steps, "stabilize_steps", least=0),
            "pick_step": check_positive(self.pick_step, "pick_step"),
            "pick_limit": check_number(self.pick_limit, "pick_limit", highest=_LARGEST_PENALTY),
            "recover_penalty": _check_recover_penalty(self.recover_penalty),
            "distribution": check_distribution(self.distribution, "distribution"),
            "initial_distribution": check_distribution(self.initial_distribution, "initial_distribution"),
        }
        if self.last_layer_density is not None:
            checked["last_layer_density"] = check_number(self.last_layer_density, "last_layer_density", highest=1.0)
        for name in ("update_end", "prune_start", "prune_end"):
            checked[name] = check_moment(getattr(self, name), name)
        for name in ("update_replaces_step", "dense_first_layer", "rank_linear_layers", "growing"):
            check_bool(getattr(self, name), name)
        for name, choices in _CHOICES.items():
            check_choice(getattr(self, name), name, choices)
        # The checks turn numpy's and other numbers into plain ones, which a saved state must consist of.
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def resolve_options(method: str, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> Options:
    """A method's defaults with the user's options on top.

    Raises:
        TypeError: an option that the method does not have; the nearest one is suggested.
        ValueError, TypeError: a value that is not allowed.
    """
    for name in given:
        refuse_unknown(method, name, defaults)
    merged = {**_NEUTRAL, **defaults, **given}
    if "min_drop_fraction" not in given and "drop_fraction" in given:
        # A small drop_fraction alone is a clear wish; only an explicit minimum above it is a contradiction.
        start = check_number(given["drop_fraction"], "drop_fraction", highest=1.0)
        merged["min_drop_fraction"] = min(merged["min_drop_fraction"], start)
    options = Options(**merged)
    _refuse_useless(options, given)
    if options.min_drop_fraction > options.drop_fraction:
        raise ValueError(
            f"min_drop_fraction={options.min_drop_fraction} is above drop_fraction={options.drop_fraction}: the drop "
            "fraction decays from the one to the other"
        )
    return options


def _refuse_useless(options: Options, given: Mapping[str, Any]) -> None:
    """Raise a ValueError for an option that another one leaves without effect."""
    if "drop_threshold" in given and options.drop != "threshold":
        raise ValueError(f"drop_threshold is only used by drop='threshold', and drop is {options.drop!r}")
    if given.get("redistribute") is not None and options.grow is None:
        raise ValueError(f"redistribute={options.redistribute!r} shares regrown weights, and grow=None regrows none")
    _refuse_useless_rank(options, given)
    layer_rules = [rule for rule in _RULES if rule != "global"]
    if options.distribution in layer_rules:
        return
    for name, off in (("last_layer_density", None), ("dense_first_layer", False)):
        if getattr(options, name) is not off:
            raise ValueError(
                f"{name}={getattr(options, name)} needs a distribution by a rule for layers "
                f"({', '.join(map(repr, layer_rules))}); with {options.distribution!r} set it to {off}"
            )


def _refuse_useless_rank(options: Options, given: Mapping[str, Any]) -> None:
    if options.growth_steps > options.update_interval:
        raise ValueError(
            f"growth_steps={options.growth_steps} is more than the update_interval={options.update_interval} steps "
            "between two updates"
        )
    if options.grow == "gradient":
        return
    # A recipe may set rank_linear_layers to suit its network, whatever grows.
    for name in (name for name in RANK if name != "rank_linear_layers"):
        if name in given and given[name] != RANK[name] and not (name == "rank_weight" and given[name] == 0):
            raise ValueError(f"{name}={given[name]!r} is only used by grow='gradient', and grow is {options.grow!r}")


def refuse_unknown(method: str, name: str, allowed: Mapping[str, Any]) -> None:
    """Raise a TypeError for an option that a method does not have.

    Raises:
        TypeError: always, unless the name is allowed; names the nearest option and lists all.
    """
    if name in allowed:
        return
    known = any(field.name == name for field in fields(Options))
    hint = did_you_mean(name, [*allowed, *COMMON])
    reason = "has no use for the option" if known else "has no option"
    raise TypeError(f"{method} {reason} {name!r}{hint} (allowed: {', '.join([*COMMON, *sorted(allowed)])})")


def _check_recover_penalty(value: Any) -> float:
    """Return a penalty in [-1, 1], the one that may be negative.

    Raises:
        TypeError: not a number.
        ValueError: outside [-1, 1].
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"recover_penalty must be a number, got {value!r}")
    if not -1 <= float(value) <= 1:
        raise ValueError(f"recover_penalty must be in [-1, 1], got {value}")
    return float(value)


def check_distribution(value: Any, option: str) -> str | dict[str, float]:
    """Return the name of a rule, or a mapping of patterns to sparsities as plain values.

    Raises:
        ValueError, TypeError: neither of them.
    """
    if isinstance(value, Mapping):
        if not value:
            raise ValueError(f"{option} is an empty mapping: give glob patterns and their sparsities")
        return {str(pattern): check_sparsity(sparsity, f"{option}[{pattern!r}]") for pattern, sparsity in value.items()}
    if isinstance(value, str) and ":" in value:
        raise ValueError(f"{option}={value!r}: N:M patterns are not supported yet")
    if value not in _RULES:
        allowed = f"{', '.join(map(repr, _RULES))} or a mapping of patterns to sparsities"
        raise ValueError(f"{option} must be one of {allowed}, got {value!r}")
    return value
