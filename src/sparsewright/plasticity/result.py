"""What a study found: its branches against their twins, and means over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from sparsewright.analysis.plasticity import RULES
from sparsewright.plasticity.branch_result import BranchResult
from sparsewright.plasticity.plan import PlasticityPlan

_Value = TypeVar("_Value", int, float)


@dataclass(frozen=True)
class Spread:
    """A number measured with several seeds.

    Attributes:
        mean: over the seeds.
        deviation: sample standard deviation; None with one seed.
    """

    mean: float
    deviation: float | None


@dataclass(frozen=True)
class PlasticityMoment:
    """The base at the end of an epoch, and its unpruned twin a horizon later.

    Attributes:
        horizon: how long the twin trained on, such as 2ep.
        epoch, step: how far it was.
        share: of the run, in (0, 1).
        learning_rate: of its last step, with which the branches train on.
        accuracy: of the base here, in per cent.
        twin_accuracy: after training on unpruned, in per cent; None where that diverged.
    """

    horizon: str
    epoch: int
    step: int
    share: float
    learning_rate: float
    accuracy: Spread
    twin_accuracy: Spread | None


@dataclass(frozen=True)
class PlasticityCell:
    """One way to prune at one moment, over its seeds. Changes are in percentage points of accuracy.

    Attributes:
        horizon: how long it trained on, such as 2ep.
        epoch: the moment.
        rule: name of the rule.
        rate: the share that was pruned.
        sparsity: fraction of weights held at zero while training on, the mean over seeds.
        drop: change of accuracy by pruning, before any training.
        accuracy: after training on, in per cent; None where that diverged with some seed.
        change: of accuracy after training on, against the unpruned twin; None where one of the two diverged.
        gain: of accuracy after training on, against the base before pruning, which is how the paper measures it; None
            where training on diverged.
        changes: the change by seed; None where one of the two diverged.
        diverged: with how many seeds the loss, or that of the twin, was not finite any more.
    """

    horizon: str
    epoch: int
    rule: str
    rate: float
    sparsity: float
    drop: Spread
    accuracy: Spread | None
    change: Spread | None
    gain: Spread | None
    changes: Mapping[int, float | None]
    diverged: int


@dataclass(frozen=True)
class PlasticityResult:
    """What branches of a study found. Not every seed, rule and rate need be there at every moment.

    Attributes:
        recipe: name of the recipe.
        model, data: names of the network and the data set.
        evaluated_on: "test" or "validation".
        epochs: of the base.
        steps: optimizer steps of the base.
        steps_per_epoch: of an epoch.
        horizons: how long branches trained on, such as 2ep -> the same in optimizer steps, ascending.
        seeds: one base for each, ascending.
        rules: names of the rules, in the order of ``RULES``.
        rates: the shares that were pruned, ascending.
        moments: where branches left the base, ascending, for each horizon.
        cells: for each horizon, moment, rule and rate that has been trained.
        branches: every single training, for each seed, horizon and moment the twin first.
        folder: where all files are.
    """

    recipe: str
    model: str
    data: str
    evaluated_on: str
    epochs: int
    steps: int
    steps_per_epoch: int
    horizons: Mapping[str, int]
    seeds: tuple[int, ...]
    rules: tuple[str, ...]
    rates: tuple[float, ...]
    moments: tuple[PlasticityMoment, ...]
    cells: tuple[PlasticityCell, ...]
    branches: tuple[BranchResult, ...]
    folder: Path

    @property
    def horizon(self) -> str:
        """How long branches trained on, for people."""
        return " or ".join(self.horizons)

    def cell(self, epoch: int, rule: str, rate: float) -> PlasticityCell:
        """The first cell of a moment, rule and rate; raises KeyError without one."""
        found = self.find(epoch, rule, rate)
        if found is None:
            raise KeyError(f"the study has no {rule} at rate {rate} after epoch {epoch}")
        return found

    def find(self, epoch: int, rule: str, rate: float) -> PlasticityCell | None:
        """The first cell of a moment, rule and rate; None without one."""
        wanted = (epoch, rule, rate)
        return next((cell for cell in self.cells if (cell.epoch, cell.rule, cell.rate) == wanted), None)

    def learning_rates(self) -> list[float]:
        """The different learning rates of the moments, in the order of the run."""
        return list(dict.fromkeys(moment.learning_rate for moment in self.moments))

    def mean_changes(self, rule: str, rate: float) -> dict[float, Spread | None]:
        """Learning rate -> change against the twin, for each seed its mean over the moments with that learning rate.

        None where a branch diverged; learning rates without a cell are left out.
        """
        at = {(moment.horizon, moment.epoch): moment.learning_rate for moment in self.moments}
        by_seed: dict[float, dict[int, list[float | None]]] = {}
        for cell in self.cells:
            if (cell.rule, cell.rate) == (rule, rate):
                for seed, change in cell.changes.items():
                    by_seed.setdefault(at[cell.horizon, cell.epoch], {}).setdefault(seed, []).append(change)
        return {level: _spread_of_all(map(_mean_of_all, seeds.values())) for level, seeds in by_seed.items()}

    def of_horizon(self, horizon: str) -> PlasticityResult:
        """The part of it that trained on for one of ``horizons``."""
        steps = self.horizons[horizon]
        return with_branches(self, [branch for branch in self.branches if branch.horizon_steps == steps])

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in plasticity.json."""
        return {**asdict(self), "folder": str(self.folder)}


def summarise(plan: PlasticityPlan, branches: Sequence[BranchResult], folder: Path) -> PlasticityResult:
    """Joins ``branches`` of the base of a plan, be they planned or not."""
    nothing = PlasticityResult(
        recipe=plan.recipe.name,
        model=plan.recipe.model.name,
        data=plan.recipe.data.name,
        evaluated_on="validation" if plan.recipe.data.validation else "test",
        epochs=plan.epochs,
        steps=plan.total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        horizons={},
        seeds=(),
        rules=(),
        rates=(),
        moments=(),
        cells=(),
        branches=(),
        folder=folder,
    )
    return with_branches(nothing, branches)


def with_branches(study: PlasticityResult, branches: Sequence[BranchResult]) -> PlasticityResult:
    """The same study with other branches; one whose twin is not among them is in no cell."""
    found: dict[tuple[int, int, str | None, float | None], dict[int, BranchResult]] = {}
    ordered = sorted(branches, key=_place)
    for branch in ordered:
        key = (branch.horizon_steps, branch.epoch, branch.rule, branch.rate)
        found.setdefault(key, {})[branch.seed] = branch
    horizons = {_horizon_name(study, steps): steps for steps in _ascending(branch.horizon_steps for branch in branches)}
    rules = tuple(rule for rule in RULES if any(branch.rule == rule for branch in branches))
    rates = _ascending(branch.rate for branch in branches if branch.rate is not None)
    moments, cells = [], []
    for (name, steps), epoch in product(horizons.items(), _ascending(branch.epoch for branch in branches)):
        twins = found.get((steps, epoch, None, None), {})
        if twins:
            moments.append(_moment(study, name, list(twins.values())))
        for rule, rate in product(rules, rates):
            pairs = {
                seed: (branch, twins[seed])
                for seed, branch in found.get((steps, epoch, rule, rate), {}).items()
                if seed in twins
            }
            if pairs:
                cells.append(_cell(name, pairs))
    return replace(
        study,
        horizons=horizons,
        seeds=_ascending(branch.seed for branch in branches),
        rules=rules,
        rates=rates,
        moments=tuple(moments),
        cells=tuple(cells),
        branches=tuple(ordered),
    )


def spread(values: Iterable[float]) -> Spread:
    """Mean and sample standard deviation of at least one value."""
    given = list(values)
    return Spread(statistics.fmean(given), statistics.stdev(given) if len(given) > 1 else None)


def _moment(study: PlasticityResult, horizon: str, twins: Sequence[BranchResult]) -> PlasticityMoment:
    return PlasticityMoment(
        horizon=horizon,
        epoch=twins[0].epoch,
        step=twins[0].step,
        share=twins[0].step / study.steps,
        learning_rate=twins[0].learning_rate,
        accuracy=spread(twin.accuracy_before for twin in twins),
        twin_accuracy=_spread_of_all(twin.accuracy_after for twin in twins),
    )


def _cell(horizon: str, pairs: Mapping[int, tuple[BranchResult, BranchResult]]) -> PlasticityCell:
    """The cell of some branches and their twins by seed."""
    branches = [branch for branch, _ in pairs.values()]
    first = branches[0]
    assert first.rule is not None
    assert first.rate is not None
    changes = {seed: _difference(branch.accuracy_after, twin.accuracy_after) for seed, (branch, twin) in pairs.items()}
    return PlasticityCell(
        horizon=horizon,
        epoch=first.epoch,
        rule=first.rule,
        rate=first.rate,
        sparsity=statistics.fmean(branch.sparsity for branch in branches),
        drop=spread(branch.accuracy_pruned - branch.accuracy_before for branch in branches),
        accuracy=_spread_of_all(branch.accuracy_after for branch in branches),
        change=_spread_of_all(changes.values()),
        gain=_spread_of_all(_difference(branch.accuracy_after, branch.accuracy_before) for branch in branches),
        changes=changes,
        diverged=sum(change is None for change in changes.values()),
    )


def _mean_of_all(values: Sequence[float | None]) -> float | None:
    found = _spread_of_all(values)
    return found.mean if found is not None else None


def _place(branch: BranchResult) -> tuple[int, int, int, int, float]:
    """The order of the branches of a study: for each seed, horizon and moment the twin first."""
    rule = [None, *RULES].index(branch.rule)
    return branch.seed, branch.horizon_steps, branch.epoch, rule, branch.rate or 0.0


def _horizon_name(study: PlasticityResult, steps: int) -> str:
    epochs, rest = divmod(steps, study.steps_per_epoch)
    return f"{steps}it" if rest else f"{epochs}ep"


def _ascending(values: Iterable[_Value]) -> tuple[_Value, ...]:
    """Each value once."""
    return tuple(sorted(set(values)))


def _difference(after: float | None, reference: float | None) -> float | None:
    return after - reference if after is not None and reference is not None else None


def _spread_of_all(values: Iterable[float | None]) -> Spread | None:
    """The spread of values of which none is missing, else None: a mean of those left would flatter."""
    given = list(values)
    present = [value for value in given if value is not None]
    return spread(present) if len(present) == len(given) else None
