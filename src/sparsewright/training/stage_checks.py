"""What must fit together within a stage, and between stages, of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparsewright.checks import join_names
from sparsewright.training.auto_duration import AUTO, methods_with_own_length
from sparsewright.training.lr_schedule import ConstantSchedule
from sparsewright.training.method_options import (
    known_methods,
    removes_structures,
    with_granularity,
)
from sparsewright.training.sparsity_setting import describe_sparsity

if TYPE_CHECKING:
    from sparsewright.training.recipe import Stage


def check_stages(stages: Sequence[Stage], options: Sequence[Mapping[str, Any]]) -> None:
    """Refuses stages that cannot do what they say.

    Args:
        stages: of a recipe, with all they inherit.
        options: those that each gives to its method.

    Raises:
        ValueError: ratios for a method that takes one number, a sparsity without effect, a duration of ``auto`` for
            a method without a length of its own or with a learning rate that moves, or a shrink stage that does not
            follow one that removes filters or channels.
    """
    for index, stage in enumerate(stages):
        _check_ratios(stage)
        _check_auto(stage)
        if stage.kind == "shrink":
            _check_shrink(stage, stages[:index], options)


def sparsity_without_method(sparsity: Any) -> str:
    """The sentence about a sparsity that nothing would reach."""
    example = known_methods()[0]
    return (
        f"sparsity={describe_sparsity(sparsity)} has no effect with method dense; choose a method, for example "
        f"method={example}"
    )


def _check_ratios(stage: Stage) -> None:
    if not stage.needs_sparsity or not isinstance(stage.sparsity, (dict, list)):
        return
    if stage.method.name not in with_granularity():
        raise ValueError(
            f"stage {stage.name}: method {stage.method.name} takes one number as its sparsity, not "
            f"{describe_sparsity(stage.sparsity)}; ratios by pattern or stage are for {join_names(with_granularity())}"
        )


def _check_auto(stage: Stage) -> None:
    if stage.kind != "train" or stage.duration != AUTO:
        return
    if stage.method.name not in methods_with_own_length():
        raise ValueError(
            f"stage {stage.name}: duration auto is for methods with a length of their own "
            f"({join_names(methods_with_own_length())}), not {stage.method.name}; give one such as 160ep"
        )
    if not isinstance(stage.schedule, ConstantSchedule):
        raise ValueError(
            f"stage {stage.name}: duration auto needs schedule constant, not {stage.schedule.name}, whose rate depends "
            "on a length that is only known in the end"
        )


def _check_shrink(stage: Stage, before: Sequence[Stage], options: Sequence[Mapping[str, Any]]) -> None:
    earlier = [index for index, other in enumerate(before) if other.kind != "evaluate"]
    last = earlier[-1] if earlier else None
    if last is not None and before[last].needs_sparsity:
        if removes_structures(before[last].method.name, options[last]):
            return
        found = f"method {before[last].method.name} of stage {before[last].name} removes single weights"
    else:
        found = "it is the first" if last is None else f"stage {before[last].name} comes in between"
    raise ValueError(
        f"stage {stage.name}: a shrink stage follows right after one that removes filters or channels "
        f"({join_names(with_granularity())} with granularity filter or channel), and here {found}"
    )
