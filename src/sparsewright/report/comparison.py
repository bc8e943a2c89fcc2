"""Runs beside each other: those of the same settings together, over their seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sparsewright.formats import ratios
from sparsewright.report.common_settings import common_settings
from sparsewright.report.compared_run import ComparedRun, LeftOut, find_runs, read_runs
from sparsewright.report.configuration import configurations, settings_key
from sparsewright.report.pareto import pareto_front
from sparsewright.report.run_facts import counted
from sparsewright.report.settings_apart import settings_apart
from sparsewright.training.method_options import DENSE, known_methods
from sparsewright.training.published_results import Published

FEWEST_SEEDS = 3
MISSED, FEW_SEEDS, VERSIONS, DEVICES = "missed target", f"<{FEWEST_SEEDS} seeds", "versions", "devices"
STARTED = "started"
SIZE, INFERENCE, TRAINING = "size", "inference FLOPs", "training FLOPs"
"""What accuracy is weighed against: what is left of the network, and what it costs."""


@dataclass(frozen=True)
class Spread:
    """A figure over the seeds.

    Attributes:
        mean: over them.
        deviation: the sample standard deviation; None of a single one.
    """

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """That of ``values``, of which there is at least one."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but the seed.

    Attributes:
        recipe, method: their names; "dense" where nothing makes the network sparse.
        target: the sparsity that was asked for: a number, or ratios by pattern or stage; None for dense.
        target_text: the same as people read it; empty for dense.
        settings: further settings, besides the target, that tell it from groups with the same recipe and method.
        runs: by rising seed.
        accuracy: in per cent, after the last epoch.
        sparsity: fraction of zeros that masks hold in the layers' weights, of the network as it ended.
        kept: parameters that are neither masked nor taken out.
        dense_parameters: of the network before anything was removed.
        inference_flops, training_flops: of one image, and of the whole training; with what masks leave out left out.
        dense_inference_flops, dense_training_flops: the same with nothing left out.
        published: the number from the literature that the recipe names; None without one.
        marks: what a reader has to know, of MISSED, FEW_SEEDS, VERSIONS, DEVICES and STARTED.
    """

    recipe: str
    method: str
    target: Any
    target_text: str
    settings: Mapping[str, str]
    runs: tuple[ComparedRun, ...]
    accuracy: Spread
    sparsity: Spread
    kept: Spread
    dense_parameters: int
    inference_flops: Spread
    training_flops: Spread
    dense_inference_flops: float
    dense_training_flops: float
    published: Published | None
    marks: tuple[str, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the runs."""
        return tuple(run.seed for run in self.runs)

    @property
    def shrunk(self) -> bool:
        """Whether the network got smaller."""
        return any(run.shrunk for run in self.runs)

    @property
    def kept_share(self) -> float:
        """The parameters that are left, of those of the dense network."""
        return self.kept.mean / self.dense_parameters

    @property
    def configuration(self) -> tuple[Any, ...]:
        """What it has in common with those that differ in their target alone."""
        return self.recipe, self.method, *self.settings.items()

    @property
    def network(self) -> tuple[Any, ...]:
        """What groups have in common whose figures can be weighed against each other: images and network."""
        recipe = self.runs[0].recipe
        return recipe.data.name, recipe.data.image_size, recipe.model

    def left(self, *, parameters: bool) -> float:
        """What is left: of all parameters, or of the weights in the layers that masks sparsify."""
        return self.kept_share if parameters else 1 - self.sparsity.mean

    @property
    def name(self) -> str:
        """The method with the settings that tell it apart."""
        return f"{self.method} {self.settings_text}".rstrip()

    @property
    def settings_text(self) -> str:
        """The settings that tell it apart; of keys such as method.drop_fraction the last part, where that is clear."""
        last = [key.rpartition(".")[2] for key in self.settings]
        return " ".join(
            f"{name if last.count(name) == 1 and not name.isdigit() else key}={value}"
            for name, (key, value) in zip(last, self.settings.items(), strict=True)
        )


@dataclass(frozen=True)
class Comparison:
    """Groups of runs on the same images.

    Attributes:
        images: what accuracy is measured on.
        settings: those of all runs that are not the recipe's own; key -> value as text.
        groups: by recipe, then dense first and by rising target, then in the order of the registry of methods.
        left_out: folders that are not among the runs.
        notes: what a reader has to know, in sentences.
        fronts: what accuracy is weighed against -> the indices of the groups on the Pareto front of each network, by
            rising cost.
    """

    images: str
    settings: Mapping[str, str]
    groups: tuple[Group, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    fronts: Mapping[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)

    @property
    def settings_text(self) -> str:
        """The settings of all runs that are not the recipe's own, such as duration=10ep."""
        return " ".join(f"{key}={value}" for key, value in self.settings.items())

    @property
    def has_shrunk(self) -> bool:
        """Whether a network got smaller, so that sparsity alone does not say what was removed."""
        return any(group.shrunk for group in self.groups)

    @property
    def has_networks(self) -> bool:
        """Whether there are several networks, which have fronts of their own."""
        return len({group.network for group in self.groups}) > 1

    def fronts_of(self, index: int) -> list[str]:
        """The fronts that a group is on."""
        return [name for name, fronts in self.fronts.items() if any(index in front for front in fronts)]


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Puts finished runs side by side.

    Args:
        folders: run folders, or folders of them.

    Raises:
        FileNotFoundError: a folder is not there.
        ValueError: a path is no folder or holds no run, no run is finished, or the runs were evaluated on different
            images.
    """
    runs, left_out = read_runs(find_runs(folders))
    if not runs:
        reasons = "; ".join(f"{item.folder}: {item.reason}" for item in left_out[:3])
        raise ValueError(f"there is no finished run to compare ({reasons})")
    images = _common_images(runs)
    keyed, duplicates = _without_duplicates(_grouped(runs))
    groups = sorted(_with_clear_targets(_told_apart([_make_group(members) for members in keyed])), key=_order)
    return Comparison(
        images=images,
        settings=common_settings([group.runs[0] for group in groups]),
        groups=tuple(groups),
        left_out=tuple(left_out),
        notes=(*duplicates, *_notes(groups)),
        fronts=_fronts(groups),
    )


def _common_images(runs: Iterable[ComparedRun]) -> str:
    folders: dict[str, list[Path]] = {}
    for run in runs:
        folders.setdefault(run.images, []).append(run.folder)
    if len(folders) > 1:
        found = "; ".join(
            f"{images} ({of[0]}{f' and {len(of) - 1} more' if len(of) > 1 else ''})" for images, of in folders.items()
        )
        raise ValueError(f"runs that were evaluated on different images cannot be compared: {found}")
    return next(iter(folders))


def _grouped(runs: Iterable[ComparedRun]) -> list[list[ComparedRun]]:
    """Runs of the same settings together.

    Runs that start from weights or masks usually start from others for each seed, so that these do not count, but where
    a seed is there with several of them.
    """
    groups: dict[tuple[Any, ...], list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault(settings_key(run), []).append(run)
    result: list[list[ComparedRun]] = []
    for members in groups.values():
        by_start: dict[str, list[ComparedRun]] = {}
        for run in members:
            by_start.setdefault(run.start.content(), []).append(run)
        starts_of_seed = {(run.seed, run.start.content()) for run in members}
        result += by_start.values() if len(starts_of_seed) > len({run.seed for run in members}) else [members]
    return result


def _without_duplicates(groups: Iterable[list[ComparedRun]]) -> tuple[list[list[ComparedRun]], list[str]]:
    """Every seed once, and sentences about the others."""
    kept: list[list[ComparedRun]] = []
    notes: list[str] = []
    for members in groups:
        by_seed: dict[int, ComparedRun] = {}
        for run in members:
            first = by_seed.setdefault(run.seed, run)
            if first is not run:
                notes.append(
                    f"{run.folder} has the settings and the seed ({run.seed}) of {first.folder}, and does not count"
                )
        kept.append([by_seed[seed] for seed in sorted(by_seed)])
    return kept, notes


def _make_group(runs: Sequence[ComparedRun]) -> Group:
    first = runs[0]

    def spread(key: str) -> Spread:
        return Spread.of([run.summary[key] for run in runs])

    return Group(
        recipe=first.recipe.name,
        method=first.summary["method"],
        target=first.target,
        target_text="" if first.target is None else ratios(first.target),
        settings={},
        runs=tuple(runs),
        accuracy=spread("test_accuracy"),
        sparsity=spread("sparsity"),
        kept=spread("kept_parameters"),
        dense_parameters=first.dense_parameters,
        inference_flops=spread("inference_flops_sparse"),
        training_flops=spread("training_flops_sparse"),
        dense_inference_flops=first.summary["inference_flops_dense"],
        dense_training_flops=spread("training_flops_dense").mean,
        published=next((run.published for run in runs if run.published is not None), None),
        marks=_marks(runs),
    )


def _marks(runs: Sequence[ComparedRun]) -> tuple[str, ...]:
    marks = {
        MISSED: any(run.missed_target() for run in runs),
        FEW_SEEDS: len(runs) < FEWEST_SEEDS,
        VERSIONS: len(_versions(runs)) > 1,
        DEVICES: len({run.settings.device for run in runs if run.settings is not None}) > 1,
        STARTED: any(run.uncounted_start for run in runs),
    }
    return tuple(mark for mark, holds in marks.items() if holds)


def _told_apart(groups: Sequence[Group]) -> list[Group]:
    """The groups, with the settings that those of the same recipe and method do not share."""
    alike: dict[tuple[str, str], list[Group]] = {}
    for group in groups:
        alike.setdefault((group.recipe, group.method), []).append(group)
    return [
        replace(group, settings=settings)
        for same in alike.values()
        for group, settings in zip(same, configurations([group.runs[0] for group in same]), strict=True)
    ]


def _with_clear_targets(groups: Sequence[Group]) -> list[Group]:
    """The groups, with targets in all their digits where the usual ones do not tell those of a configuration apart."""
    clear = len({(*group.configuration, group.target_text) for group in groups}) == len(groups)
    return list(groups) if clear else [replace(group, target_text=_in_full(group.target)) for group in groups]


def _in_full(target: Any) -> str:
    if target is None:
        return ""
    return f"{100 * target:.12g} %" if isinstance(target, float) else str(target)


def _order(group: Group) -> tuple[Any, ...]:
    methods = [DENSE, *known_methods()]
    number = group.target if isinstance(group.target, float) else 1.0
    position = methods.index(group.method) if group.method in methods else len(methods)
    return group.recipe, group.method != DENSE, number, group.target_text, position, group.name


def _fronts(groups: Sequence[Group]) -> dict[str, tuple[tuple[int, ...], ...]]:
    shrunk = any(group.shrunk for group in groups)
    networks: dict[Any, list[int]] = {}
    for index, group in enumerate(groups):
        networks.setdefault(group.network, []).append(index)
    counted = [[index for index in members if STARTED not in groups[index].marks] for members in networks.values()]
    return {
        SIZE: _front_of_each(groups, networks.values(), lambda group: group.left(parameters=shrunk)),
        INFERENCE: _front_of_each(groups, networks.values(), lambda group: group.inference_flops.mean),
        TRAINING: _front_of_each(groups, counted, lambda group: group.training_flops.mean),
    }


def _front_of_each(
    groups: Sequence[Group], networks: Iterable[Sequence[int]], cost: Callable[[Group], float]
) -> tuple[tuple[int, ...], ...]:
    fronts: list[tuple[int, ...]] = []
    for members in networks:
        points = [(cost(groups[index]), groups[index].accuracy.mean) for index in members]
        fronts.append(tuple(members[place] for place in pareto_front(points)))
    return tuple(fronts)


def _notes(groups: Sequence[Group]) -> list[str]:
    devices = any(DEVICES in group.marks for group in groups)
    notes = ["devices: runs of a group were trained on CPUs and on GPUs, which round differently"] if devices else []
    notes += [
        f"{run.folder} missed its target: {missed}"
        for group in groups
        for run in group.runs
        if (missed := run.missed_target())
    ]
    if any(STARTED in group.marks for group in groups):
        notes.append(
            "started: runs that began with weights or masks made elsewhere have the training FLOPs of their own steps "
            "alone, and are on no Pareto front of training FLOPs"
        )
    versions = _versions([run for group in groups for run in group.runs])
    if len(versions) > 1:
        found = "; ".join(f"{text} ({counted(count, 'run')})" for text, count in versions.items())
        notes.append(f"the runs were made with several versions: {found}")
    return notes


def _versions(runs: Iterable[ComparedRun]) -> dict[str, int]:
    """Every combination of versions, those parts in which the runs differ, with its number of runs."""
    found = [run.summary.get("versions", {}) for run in runs]
    counts: dict[str, int] = {}
    for apart in settings_apart(found):
        text = ", ".join(f"{package} {version}" for package, version in apart.items())
        counts[text] = counts.get(text, 0) + 1
    return counts
