"""What a study found: its branches against their twins, and means over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from sparsewright.plasticity.branch_result import BranchResult
from sparsewright.plasticity.moments import Moment
from sparsewright.plasticity.plan import PlasticityPlan


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
    """The base at the end of an epoch.

    Attributes:
        epoch, step: how far it was.
        share: of the run, in (0, 1).
        learning_rate: of its last step, with which the branches train on.
        accuracy: of the base here, in per cent.
        twin_accuracy: after training on unpruned, in per cent; None where that diverged.
    """

    epoch: int
    step: int
    share: float
    learning_rate: float
    accuracy: Spread
    twin_accuracy: Spread | None


@dataclass(frozen=True)
class PlasticityCell:
    """One way to prune at one moment, over all seeds. Changes are in percentage points of accuracy.

    Attributes:
        epoch: the moment.
        rule: name of the rule.
        rate: the share that was pruned.
        sparsity: fraction of weights held at zero while training on, the mean over seeds.
        drop: change of accuracy by pruning, before any training.
        accuracy: after training on, in per cent; None where that diverged with some seed.
        change: of accuracy after training on, against the unpruned twin; None where one of the two diverged.
        gain: of accuracy after training on, against the base before pruning, which is how the paper measures it; None
            where training on diverged.
        diverged: with how many seeds the loss, or that of the twin, was not finite any more.
    """

    epoch: int
    rule: str
    rate: float
    sparsity: float
    drop: Spread
    accuracy: Spread | None
    change: Spread | None
    gain: Spread | None
    diverged: int


@dataclass(frozen=True)
class PlasticityResult:
    """A finished study.

    Attributes:
        recipe: name of the recipe.
        model, data: names of the network and the data set.
        evaluated_on: "test" or "validation".
        epochs: of the base.
        horizon: how long branches trained on, such as 2ep.
        horizon_steps: the same in optimizer steps.
        seeds: one base for each.
        rules: names of the rules.
        rates: the shares that were pruned, ascending.
        moments: where branches left the base, ascending.
        cells: for each moment, rule and rate.
        branches: every single training, for each seed and moment the twin first.
        folder: where all files are.
    """

    recipe: str
    model: str
    data: str
    evaluated_on: str
    epochs: int
    horizon: str
    horizon_steps: int
    seeds: tuple[int, ...]
    rules: tuple[str, ...]
    rates: tuple[float, ...]
    moments: tuple[PlasticityMoment, ...]
    cells: tuple[PlasticityCell, ...]
    branches: tuple[BranchResult, ...]
    folder: Path

    def cell(self, epoch: int, rule: str, rate: float) -> PlasticityCell:
        """The cell of a moment, rule and rate; raises KeyError without one."""
        for cell in self.cells:
            if (cell.epoch, cell.rule, cell.rate) == (epoch, rule, rate):
                return cell
        raise KeyError(f"the study has no {rule} at rate {rate} after epoch {epoch}")

    def learning_rates(self) -> list[float]:
        """The different learning rates of the moments, in the order of the run."""
        return list(dict.fromkeys(moment.learning_rate for moment in self.moments))

    def mean_change(self, rule: str, rate: float, learning_rate: float) -> float | None:
        """Mean change against the twin over the moments with one learning rate; None where a branch diverged."""
        epochs = [moment.epoch for moment in self.moments if moment.learning_rate == learning_rate]
        changes = [self.cell(epoch, rule, rate).change for epoch in epochs]
        means = [change.mean for change in changes if change is not None]
        return statistics.fmean(means) if means and len(means) == len(changes) else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as in plasticity.json."""
        return {**asdict(self), "folder": str(self.folder)}


def summarise(plan: PlasticityPlan, branches: Sequence[BranchResult], folder: Path) -> PlasticityResult:
    """Joins the ``branches`` of a plan, of which none may be missing."""
    found = {(branch.epoch, branch.rule, branch.rate, branch.seed): branch for branch in branches}

    def of(moment: Moment, rule: str | None, rate: float | None) -> dict[int, BranchResult]:
        return {seed: found[moment.epoch, rule, rate, seed] for seed in plan.seeds}

    twins = {moment: of(moment, None, None) for moment in plan.moments}
    return PlasticityResult(
        recipe=plan.recipe.name,
        model=plan.recipe.model.name,
        data=plan.recipe.data.name,
        evaluated_on="validation" if plan.recipe.data.validation else "test",
        epochs=plan.epochs,
        horizon=str(plan.horizon),
        horizon_steps=plan.horizon_steps,
        seeds=plan.seeds,
        rules=plan.rules,
        rates=plan.rates,
        moments=tuple(_moment(plan, moment, twins[moment].values()) for moment in plan.moments),
        cells=tuple(
            _cell(of(moment, rule, rate), twins[moment])
            for moment, rule, rate in product(plan.moments, plan.rules, plan.rates)
        ),
        branches=tuple(branches),
        folder=folder,
    )


def spread(values: Iterable[float]) -> Spread:
    """Mean and sample standard deviation of at least one value."""
    given = list(values)
    return Spread(statistics.fmean(given), statistics.stdev(given) if len(given) > 1 else None)


def _moment(plan: PlasticityPlan, moment: Moment, twins: Iterable[BranchResult]) -> PlasticityMoment:
    ended = list(twins)
    return PlasticityMoment(
        epoch=moment.epoch,
        step=moment.step,
        share=moment.step / plan.total_steps,
        learning_rate=moment.learning_rate,
        accuracy=spread(twin.accuracy_before for twin in ended),
        twin_accuracy=_spread_of_all(twin.accuracy_after for twin in ended),
    )


def _cell(branches: Mapping[int, BranchResult], twins: Mapping[int, BranchResult]) -> PlasticityCell:
    first = next(iter(branches.values()))
    assert first.rule is not None
    assert first.rate is not None

    def changes(reference: Callable[[int], float | None]) -> Spread | None:
        return _spread_of_all(_difference(branch.accuracy_after, reference(seed)) for seed, branch in branches.items())

    change = changes(lambda seed: twins[seed].accuracy_after)
    lost = [seed for seed in branches if None in (branches[seed].accuracy_after, twins[seed].accuracy_after)]
    return PlasticityCell(
        epoch=first.epoch,
        rule=first.rule,
        rate=first.rate,
        sparsity=statistics.fmean(branch.sparsity for branch in branches.values()),
        drop=spread(branch.accuracy_pruned - branch.accuracy_before for branch in branches.values()),
        accuracy=_spread_of_all(branch.accuracy_after for branch in branches.values()),
        change=change,
        gain=changes(lambda seed: branches[seed].accuracy_before),
        diverged=len(lost),
    )


def _difference(after: float | None, reference: float | None) -> float | None:
    return after - reference if after is not None and reference is not None else None


def _spread_of_all(values: Iterable[float | None]) -> Spread | None:
    """The spread of values of which none is missing, else None: a mean of those left would flatter."""
    given = list(values)
    present = [value for value in given if value is not None]
    return spread(present) if len(present) == len(given) else None
