"""Whether stages of GSM are long enough for the weights that it lets fade, told before anything is trained."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from sparsewright.methods.fading import LARGEST_REMAINDER, remaining_fraction, undampened_share
from sparsewright.training.lr_schedule import LearningRate
from sparsewright.training.optimizers import SGDSettings
from sparsewright.training.recipe import Recipe, Stage

_GSM = "gsm"


class FadingWarning(UserWarning):
    """A stage of GSM in which passive weights will not fade, or whose optimizer does not let that be told."""


def warn_of_slow_fading(recipe: Recipe, steps_per_epoch: int) -> None:
    """Warns of each stage of GSM whose passive weights will not have faded by its end.

    Warns:
        FadingWarning: they would keep more than ``LARGEST_REMAINDER`` of their size under the stage's own schedule, or
            its optimizer is not SGD, so that this cannot be told.
    """
    for stage in recipe.resolved_stages():
        gsm = stage.kind == "train" and stage.method.name == _GSM
        problem = _problem(stage, recipe.stage_steps(stage, steps_per_epoch), steps_per_epoch) if gsm else None
        if problem is not None:
            warnings.warn(problem, FadingWarning, stacklevel=2)


def _problem(stage: Stage, total: int, steps_per_epoch: int) -> str | None:
    optimizer = stage.optimizer
    if not isinstance(optimizer, SGDSettings):
        return (
            "GSM is made for sgd with a momentum of 0.98 or more; how far its passive weights fade cannot be told for "
            f"optimizer {optimizer.name}, so compare the accuracies before and after the prune"
        )
    if optimizer.weight_decay == 0:
        # GSM itself says that it needs weight decay.
        return None
    schedule = LearningRate(stage.schedule, total, steps_per_epoch)
    return _problem_of_sgd(optimizer, [optimizer.lr * schedule.factor(step) for step in range(total)])


def _problem_of_sgd(sgd: SGDSettings, rates: Sequence[float]) -> str | None:
    left = abs(remaining_fraction(rates, sgd.weight_decay, sgd.momentum, sgd.dampening, sgd.nesterov))
    # More than all of it is a run that diverges, which has an error of its own.
    if not LARGEST_REMAINDER < left <= 1:
        return None
    share = undampened_share(sgd.momentum, sgd.dampening)
    exponent = sum(rates) * sgd.weight_decay * share / (1 - sgd.momentum)
    return (
        f"GSM's passive weights will keep {100 * left:.0f} % of their size over its {len(rates)} steps, so that the "
        f"prune can cost accuracy: lr * weight_decay / (1 - momentum) comes to {exponent:.2g} in sum, and 5 or more is "
        f"enough; train longer, with a momentum of 0.98 or more (now {sgd.momentum:g}), with a higher optimizer.lr "
        f"(now {sgd.lr:g}) or optimizer.weight_decay (now {sgd.weight_decay:g}), and from a trained network"
    )
