"""What a study will do, with everything checked that would else fail only after hours of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from numbers import Real
from pathlib import Path

import torch

from sparsewright.analysis.plasticity import RULES, pruned_masks
from sparsewright.checks import check_seed
from sparsewright.data import Data
from sparsewright.plasticity.moments import Moment, moment_epochs
from sparsewright.training.duration import Duration
from sparsewright.training.errors import RecipeError
from sparsewright.training.lr_schedule import LearningRate
from sparsewright.training.method_options import DENSE
from sparsewright.training.opening import create_recipe_model, data_facts, open_recipe_data
from sparsewright.training.recipe import Recipe, Stage
from sparsewright.training.suggestions import nearest


@dataclass(frozen=True)
class Branch:
    """A training that leaves the base at a moment.

    Attributes:
        seed: of its base.
        moment: where it leaves.
        horizon_steps: optimizer steps that it trains on.
        rule: how it is pruned first, a name of ``RULES``; None for the twin, which is not.
        rate: the share that is pruned; None for the twin.
    """

    seed: int
    moment: Moment
    horizon_steps: int
    rule: str | None = None
    rate: float | None = None

    @property
    def title(self) -> str:
        """What it is, for people and as the beginning of its file's name."""
        return "twin" if self.rule is None else f"{self.rule}-{self.rate!r}"


@dataclass(frozen=True)
class PlasticityPlan:
    """The trainings of a study.

    Attributes:
        recipe: of the base: one dense train stage.
        total_steps: optimizer steps of the base.
        steps_per_epoch: of an epoch.
        moments: where branches leave it, ascending.
        rules: names of ``RULES``, in their order there.
        rates: the shares that are pruned, ascending, in (0, 1).
        horizon: how long branches train on.
        horizon_steps: the same in optimizer steps.
        seeds: one base for each.
    """

    recipe: Recipe
    total_steps: int
    steps_per_epoch: int
    moments: tuple[Moment, ...]
    rules: tuple[str, ...]
    rates: tuple[float, ...]
    horizon: Duration
    horizon_steps: int
    seeds: tuple[int, ...]

    @property
    def epochs(self) -> int:
        """Epochs of the base, of which the last may be cut short."""
        return -(-self.total_steps // self.steps_per_epoch)

    def branches(self, seed: int) -> Iterator[Branch]:
        """All branches of one base, at each moment the twin first."""
        for moment in self.moments:
            yield Branch(seed, moment, self.horizon_steps)
            for rule, rate in product(self.rules, self.rates):
                yield Branch(seed, moment, self.horizon_steps, rule, rate)


def plan_study(
    recipe: Recipe,
    *,
    at: Sequence[str] | None,
    rules: Sequence[str],
    rates: Sequence[float],
    horizon: str,
    seeds: Sequence[int],
    data_dir: Path,
    download: bool,
) -> PlasticityPlan:
    """Plans a study; the arguments are those of ``study_plasticity``.

    Raises:
        RecipeError: the recipe is not one stage of dense training.
        ValueError, TypeError, FileNotFoundError: an argument or the data are not usable.

    Warns:
        UserWarning: norms that may still output constants when filters are pruned; they are named.
    """
    stage = base_stage(recipe)
    chosen = _checked_rules(rules)
    shares = _distinct([_checked_rate(rate) for rate in rates], "rate")
    numbers = _distinct([check_seed(seed) for seed in seeds], "seed")
    data = open_recipe_data(
        recipe,
        Path(data_dir),
        seed=numbers[0],
        device=torch.device("cpu"),
        rank=0,
        world_size=1,
        validation=recipe.data.validation,
        download=download,
    )
    steps_per_epoch = len(data.train)
    moments = _moments(recipe, stage, at, steps_per_epoch)
    length = _parsed(horizon)
    if length.steps(steps_per_epoch) < 1:
        raise ValueError(f"the horizon {horizon} is less than one optimizer step")
    _check_pruning(recipe, data, chosen, shares)
    return PlasticityPlan(
        recipe=recipe,
        total_steps=recipe.stage_steps(stage, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        moments=moments,
        rules=tuple(chosen),
        rates=tuple(sorted(shares)),
        horizon=length,
        horizon_steps=length.steps(steps_per_epoch),
        seeds=tuple(numbers),
    )


def base_stage(recipe: Recipe) -> Stage:
    """The only stage of the base.

    Raises:
        RecipeError: there are others, or it is not dense training.
    """
    stages = recipe.resolved_stages()
    if len(stages) == 1 and stages[0].kind == "train" and stages[0].method.name == DENSE:
        return stages[0]
    names = ", ".join(f"{stage.name} ({stage.kind}, {stage.method.name})" for stage in stages)
    raise RecipeError(
        f"recipe {recipe.name}: the study prunes a network in its dense training, and needs a recipe of one dense "
        f"train stage; it has {names}"
    )


def _parsed(horizon: str) -> Duration:
    try:
        return Duration.parse(horizon)
    except ValueError as error:
        raise ValueError(f"the horizon is how long branches train on: {error}") from error


def _checked_rules(rules: Sequence[str]) -> list[str]:
    for rule in rules:
        if rule not in RULES:
            raise ValueError(f"there is no rule {rule!r}{nearest(rule, RULES)}")
    given = _distinct(list(rules), "rule")
    return [name for name in RULES if name in given]


def _checked_rate(rate: float) -> float:
    if not (isinstance(rate, Real) and 0 < rate < 1):
        raise ValueError(f"a rate is the share that is pruned, above 0 and below 1, got {rate!r}")
    return float(rate)


def _distinct(values: list, what: str) -> list:
    if not values:
        raise ValueError(f"at least one {what} is needed")
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ValueError(f"the {what} {twice} is given twice")
    return values


def _moments(recipe: Recipe, stage: Stage, at: Sequence[str] | None, steps_per_epoch: int) -> tuple[Moment, ...]:
    total = recipe.stage_steps(stage, steps_per_epoch)
    rates = LearningRate(stage.schedule, total, steps_per_epoch)
    return tuple(
        Moment(epoch, epoch * steps_per_epoch, stage.optimizer.lr * rates.factor(epoch * steps_per_epoch - 1))
        for epoch in moment_epochs(at, total / steps_per_epoch)
    )


def _check_pruning(recipe: Recipe, data: Data, rules: Sequence[str], rates: Sequence[float]) -> None:
    """Prunes a fresh network once in each way, which refuses what does not suit it."""
    model = create_recipe_model(recipe, data_facts(data), seed=0, load_weights=False)
    for name in dict.fromkeys(RULES[rule].without_regrowth.name for rule in rules):
        for rate in rates:
            pruned_masks(model, RULES[name], rate)
