"""What a ticket experiment will do, with everything checked that would else fail only after hours of training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

import sparsewright as sw
from sparsewright.checks import check_choice, check_count, check_sparsity
from sparsewright.data import Data
from sparsewright.training.duration import Duration
from sparsewright.training.errors import RecipeError
from sparsewright.training.fading import warn_of_slow_fading
from sparsewright.training.opening import create_recipe_model, data_facts, open_recipe_data
from sparsewright.training.recipe import Recipe
from sparsewright.training.sparsity_setting import describe_sparsity
from sparsewright.training.ticket_recipes import (
    FINDS,
    GSM,
    ITERATIVE,
    MAGNITUDE,
    base_recipe,
    gsm_recipe,
    method_stage,
    prune_recipe,
    recipe_sparsity,
    warn_of_unused_stages,
)

WEIGHTS_REWINDING = "weights"
REWINDS = (WEIGHTS_REWINDING, "learning-rate")
DEFAULT_ROUNDS = 5


@dataclass(frozen=True)
class TicketPlan:
    """The runs of a ticket experiment.

    Attributes:
        find: how masks are found: "gsm", "magnitude" or "iterative".
        sparsity: of the ticket.
        rewind: what is rewound: "weights" or "learning-rate".
        rewind_step: optimizer step of the base that is rewound to.
        base: the recipe of the dense network, and of all training with masks.
        searches: the recipes that find masks, one per round; each is followed by training with its masks.
    """

    find: str
    sparsity: float
    rewind: str
    rewind_step: int
    base: Recipe
    searches: tuple[Recipe, ...]

    def rewound_to(self) -> str:
        """Where trainings with masks begin, as part of a folder's name; empty for the initial weights."""
        rewound = self.rewind if self.rewind != WEIGHTS_REWINDING else ""
        return "-".join(part for part in (rewound, f"step-{self.rewind_step}" if self.rewind_step else "") if part)

    def search_name(self, round_: int) -> str:
        """The stage that finds masks in ``round_``, counted from 1."""
        return f"round-{round_}-prune" if self.find == ITERATIVE else self.find

    def training_name(self, round_: int) -> str:
        """The stage that trains with the masks of ``round_``, counted from 1."""
        return f"ticket-{self.find}" if round_ == len(self.searches) else f"round-{round_}"


def plan_ticket(
    recipe: Recipe,
    *,
    find: str | None,
    sparsity: float | None,
    rewind: str,
    rewind_step: int | str,
    rounds: int | None,
    data_dir: Path,
    seed: int,
    devices: int,
    download: bool,
) -> TicketPlan:
    """Plans an experiment; the arguments are those of ``find_ticket``.

    Raises:
        RecipeError: no sparsity, or not exactly one dense train stage to start with.
        ValueError, TypeError, FileNotFoundError: an argument, an option of the method or the data are not usable.
    """
    chosen = find if find is not None else GSM if method_stage(recipe, GSM) is not None else MAGNITUDE
    check_choice(chosen, "find", FINDS)
    check_choice(rewind, "rewind", REWINDS)
    if rounds is not None and chosen != ITERATIVE:
        raise ValueError(f"rounds={rounds} has no effect with find={chosen}; it is for find={ITERATIVE}")
    count = check_count(DEFAULT_ROUNDS if rounds is None else rounds, "rounds")
    base = base_recipe(recipe)
    target = _sparsity(recipe, chosen, sparsity)
    data = open_recipe_data(
        base,
        Path(data_dir),
        seed=seed,
        device=torch.device("cpu"),
        rank=0,
        world_size=devices,
        validation=base.data.validation,
        download=download,
    )
    step = _steps(rewind_step, len(data.train), base.stage_steps(base.resolved_stages()[0], len(data.train)))
    searches = _searches(recipe, chosen, target, count)
    _check_search(searches[-1], data, seed)
    warn_of_unused_stages(recipe)
    warn_of_slow_fading(searches[0], len(data.train))
    return TicketPlan(chosen, target, rewind, step, base, searches)


def round_sparsities(sparsity: float, rounds: int) -> list[float]:
    """The sparsity after each of ``rounds`` that remove the same share of what is left; the last is ``sparsity``."""
    return [*(1 - (1 - sparsity) ** (number / rounds) for number in range(1, rounds)), sparsity]


def _sparsity(recipe: Recipe, find: str, given: float | None) -> float:
    if given is not None:
        return check_sparsity(given)
    sparsity = recipe_sparsity(recipe, GSM if find == GSM else MAGNITUDE)
    if sparsity is None:
        raise RecipeError(f"recipe {recipe.name} gives no sparsity; say which the ticket shall have, for example 0.9")
    if not isinstance(sparsity, float):
        raise RecipeError(
            f"recipe {recipe.name} gives ratios by layer, {describe_sparsity(sparsity)}, and a ticket has one "
            "sparsity; say which, for example 0.9"
        )
    return sparsity


def _searches(recipe: Recipe, find: str, sparsity: float, rounds: int) -> tuple[Recipe, ...]:
    if find == GSM:
        return (gsm_recipe(recipe, sparsity),)
    reached = round_sparsities(sparsity, rounds) if find == ITERATIVE else [sparsity]
    return tuple(prune_recipe(recipe, value) for value in reached)


def _check_search(search: Recipe, data: Data, seed: int) -> None:
    """Makes the method's sparsifier once, which refuses options and budgets that do not suit the network."""
    stage = search.resolved_stages()[-1]
    model = create_recipe_model(search, data_facts(data), seed, load_weights=False)
    # What GSM needs of an optimizer is told when the stage's own is made.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-4)
    options = search.method_options(stage)
    sw.create(stage.method.name, model, optimizer, sparsity=stage.sparsity, total_steps=1, **options).detach()


def _steps(rewind_step: int | str, steps_per_epoch: int, total: int) -> int:
    if not isinstance(rewind_step, str):
        step = check_count(rewind_step, "rewind_step", least=0)
    elif rewind_step.strip().isdecimal():
        step = int(rewind_step)
    else:
        step = _parsed(rewind_step).steps(steps_per_epoch)
    if step >= total:
        raise ValueError(
            f"rewind_step {rewind_step} must come before the base's end, which has {total} optimizer steps"
        )
    return step


def _parsed(rewind_step: str) -> Duration:
    try:
        return Duration.parse(rewind_step)
    except ValueError as error:
        raise ValueError(f"rewind_step must be a number of steps or a duration: {error}") from error
