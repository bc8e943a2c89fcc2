"""What a recipe says: data, model, optimizer, schedule, method and stages, checked by pydantic."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from sparsewright.training.auto_duration import StageDuration, WrittenDuration, method_steps, share_of
from sparsewright.training.duration import Duration, Share, moment_to_steps
from sparsewright.training.lr_schedule import AnySchedule, ConstantSchedule
from sparsewright.training.merging import Tree, as_section, merge
from sparsewright.training.method_options import (
    DENSE,
    check_method,
    check_method_defaults,
    one_shot_methods,
    options_in_force,
)
from sparsewright.training.optimizers import AnyOptimizer, SGDSettings
from sparsewright.training.published_results import Published, find_published
from sparsewright.training.sparsity_setting import SparsitySetting
from sparsewright.training.stage_checks import check_stages, sparsity_without_method
from sparsewright.training.stage_errors import named_stage

WITHOUT_EFFECT = frozenset({"name", "summary", "published"})
"""The keys of a recipe that change nothing about a run."""


class StageError(ValueError):
    """A stage whose settings are wrong once what it inherits is filled in."""

    def __init__(self, error: ValidationError, tree: Mapping[str, Any], written: frozenset[str], index: int) -> None:
        super().__init__(f"stages.{index}: {error.errors(include_url=False)[0]['msg']}")
        self.error = error
        self.tree = tree
        self.written = written
        self.index = index


def _positive(value: Any) -> Any:
    if isinstance(value, Duration) and value.amount <= 0:
        raise ValueError(f"a duration is longer than zero, got {value}")
    return value


PositiveDuration = Annotated[Duration, AfterValidator(_positive)]


class DataSettings(BaseModel):
    """The data set and how it is fed.

    Attributes:
        name: a name from ``list_datasets()`` or ``imagefolder:PATH``.
        batch_size: images per optimizer step, all ranks together.
        validation: images split off the training set and evaluated instead of the test set.
        crop_padding: pixels of padding for random crops; 0 for none.
        padding_mode: what the padding is filled with.
        flip: random horizontal flips.
        random_resized_crop: random crops of random size (image folders).
        image_size: side of the square images of an image folder; None for the default of the data set.
        workers: processes that decode an image folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    batch_size: int = Field(default=128, ge=1)
    validation: int = Field(default=0, ge=0)
    crop_padding: int = Field(default=0, ge=0)
    padding_mode: Literal["zero", "reflect"] = "zero"
    flip: bool = False
    random_resized_crop: bool = False
    image_size: int | None = Field(default=None, ge=1)
    workers: int = Field(default=2, ge=0)


class ModelSettings(BaseModel):
    """The network: a name from ``list_models()``; other keys go to ``create_model`` as its options."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The keys besides the name."""
        return dict(self.model_extra or {})


class MethodSettings(BaseModel):
    """How to make it sparse: "dense" or a name from ``sparsewright.list_methods()``; other keys are its options.

    An option that is a moment may be a fraction, a number of steps, or a duration such as 80ep.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = DENSE

    @property
    def options(self) -> dict[str, Any]:
        """The keys besides the name."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _known(self) -> MethodSettings:
        check_method(self.name, self.options)
        return self


class Defaults(BaseModel):
    """The keys that every stage inherits and may override.

    Attributes:
        duration: length of a train stage; "auto" for as long as the schedule of its method needs.
        optimizer: which optimizer, its base learning rate and its settings.
        schedule: the learning rate over a train stage.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        gradient_clip: largest norm of the whole gradient; None for no clipping.
        method: how the model gets sparse.
        sparsity: fraction of zeros among the sparsified weights at the end, or of what each layer removes by pattern
            over names or by stage of the network; needed by every method but dense.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    duration: Annotated[StageDuration, AfterValidator(_positive)]
    optimizer: AnyOptimizer = SGDSettings()
    schedule: AnySchedule = ConstantSchedule()
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    gradient_clip: float | None = Field(default=None, gt=0)
    method: MethodSettings = MethodSettings()
    sparsity: SparsitySetting | None = None


StageKind = Literal["train", "prune", "shrink", "evaluate"]


class Stage(Defaults):
    """One stage with everything it inherits filled in.

    Attributes:
        kind: "train", "prune" (one shot; later dense stages hold its masks), "shrink" (a smaller network without the
            filters or channels that the stage before removed) or "evaluate".
        name: how metrics call it.
    """

    kind: StageKind = "train"
    name: str

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        if self.kind == "prune" and self.method.name not in one_shot_methods():
            allowed = " or ".join(one_shot_methods())
            raise ValueError(f"method of a prune stage must be {allowed}, not {self.method.name}")
        if self.needs_sparsity and self.sparsity is None:
            raise ValueError(f"sparsity is needed by method {self.method.name}, for example sparsity=0.9")
        return self

    @property
    def needs_sparsity(self) -> bool:
        """Whether this stage makes the model sparse itself."""
        return self.kind == "prune" or (self.kind == "train" and self.method.name != DENSE)

    @property
    def removes_connections(self) -> bool:
        """Whether the network has fewer connections after this stage."""
        return self.needs_sparsity or self.kind == "shrink"


class StageOverrides(BaseModel):
    """A stage as it is written: what it is, and the inherited keys that it changes.

    Its duration may be a share of the recipe's, such as 50%.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: StageKind = "train"
    name: str | None = None
    duration: WrittenDuration | None = None
    optimizer: dict[str, Any] | None = None
    schedule: dict[str, Any] | None = None
    label_smoothing: float | None = None
    gradient_clip: float | None = None
    method: dict[str, Any] | None = None
    sparsity: SparsitySetting | None = None

    @field_validator("optimizer", "schedule", "method", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return as_section(value)

    @model_validator(mode="after")
    def _usable(self) -> StageOverrides:
        used = {
            "train": set(type(self).model_fields),
            "prune": {"method", "sparsity"},
            "shrink": set(),
            "evaluate": {"label_smoothing"},
        }
        for key in sorted(self.model_fields_set - {"kind", "name"} - used[self.kind]):
            raise ValueError(f"{key} has no meaning in a stage of kind {self.kind}")
        return self


class Recipe(Defaults):
    """A whole recipe; load one with ``load_recipe``.

    Attributes:
        name: how runs call it; the shipped name such as cifar10/resnet50, or the file's stem.
        summary: one line for lists.
        data: the data set.
        model: the network.
        method_defaults: values for options of whichever method is chosen, used where it has an option of that name.
        log_rank_every: how often the average ranks of the weights go into the metrics, at the end of an epoch; None
            for never.
        published: accuracies from the literature that this recipe is meant to reach; they count in no digest.
        stages: what happens in which order, each starting from the model that the one before left.
    """

    name: str = "recipe"
    summary: str = ""
    data: DataSettings
    model: ModelSettings
    method_defaults: dict[str, Any] = Field(default_factory=dict)
    log_rank_every: PositiveDuration | None = None
    published: tuple[Published, ...] = ()
    stages: tuple[StageOverrides, ...] = Field(default=(StageOverrides(),), min_length=1)

    _resolved: tuple[Stage, ...] = PrivateAttr(default=())

    @field_validator("method_defaults")
    @classmethod
    def _known_defaults(cls, value: dict[str, Any]) -> dict[str, Any]:
        check_method_defaults(value)
        return value

    @model_validator(mode="after")
    def _resolve(self) -> Recipe:
        inherited = self.model_dump(mode="json", include=set(Defaults.model_fields))
        stages = tuple(self._resolve_stage(index, stage, inherited) for index, stage in enumerate(self.stages))
        check_stages(stages, [self.method_options(stage) for stage in stages])
        if self.sparsity is not None and not any(stage.needs_sparsity for stage in stages):
            raise ValueError(sparsity_without_method(self.sparsity))
        self._resolved = stages
        return self

    def _resolve_stage(self, index: int, stage: StageOverrides, inherited: Tree) -> Stage:
        if stage.kind == "prune" and inherited["method"]["name"] not in one_shot_methods():
            inherited = merge(inherited, {"method": "magnitude"})
        written = stage.model_dump(mode="json", exclude_unset=True)
        if isinstance(stage.duration, Share):
            written["duration"] = share_of(stage.duration, inherited["duration"])
        tree = merge(inherited, {**written, "kind": stage.kind, "name": stage.name or self._stage_name(index)})
        try:
            resolved = Stage.model_validate(tree)
        except ValidationError as error:
            raise StageError(error, tree, frozenset(written), index) from error
        if written.get("sparsity") is not None and not resolved.needs_sparsity:
            raise ValueError(f"in stages.{index}: {sparsity_without_method(written['sparsity'])}")
        return resolved

    def _stage_name(self, index: int) -> str:
        kinds = [stage.kind for stage in self.stages]
        kind = kinds[index]
        return kind if kinds.count(kind) == 1 else f"{kind}-{kinds[: index + 1].count(kind)}"

    def resolved_stages(self) -> tuple[Stage, ...]:
        """Every stage with what it inherits filled in."""
        return self._resolved

    def method_options(self, stage: Stage) -> dict[str, Any]:
        """The options that ``stage`` gives its method: the recipe's ``method_defaults`` it has, then its own."""
        return options_in_force(stage.method.name, self.method_defaults, stage.method.options)

    def method_options_in_steps(self, stage: Stage, steps_per_epoch: int) -> dict[str, Any]:
        """The same with durations turned into steps."""
        return {key: moment_to_steps(value, steps_per_epoch) for key, value in self.method_options(stage).items()}

    def stage_steps(self, stage: Stage, steps_per_epoch: int) -> int:
        """Optimizer steps of ``stage`` at most; 0 if it does not train.

        Raises:
            ValueError, TypeError: its duration is auto, and its method refuses an option that decides it.
        """
        if stage.kind != "train":
            return 0
        if isinstance(stage.duration, Duration):
            return stage.duration.steps(steps_per_epoch)
        with named_stage(stage):
            return method_steps(stage.method.name, self.method_options_in_steps(stage, steps_per_epoch))

    def published_for(self, method: str, sparsity: float | None) -> Published | None:
        """The published number for ``method`` ("dense" for a network without one) at ``sparsity``; None without one."""
        return find_published(self.published, method, sparsity)

    def resolved(self) -> dict[str, Any]:
        """Plain values from which the same recipe can be loaded again, with nothing left to extend."""
        tree = self.model_dump(mode="json", exclude_none=True)
        # A null in a stage switches an inherited setting off, so there it has to be kept.
        tree["stages"] = [{"kind": s.kind, **s.model_dump(mode="json", exclude_unset=True)} for s in self.stages]
        return tree

    def digest(self, seed: int = 0) -> str:
        """Eight hexadecimal digits over all settings that differ from the defaults, and the seed.

        The name, the summary and published numbers do not count. Defaults do not either, so that a new setting keeps
        old digests.
        """
        settings = self.model_dump(mode="json", exclude_defaults=True, exclude=set(WITHOUT_EFFECT))
        settings["named"] = [self.optimizer.name, self.schedule.name]
        # Of patterns the first that matches counts, and the text below is sorted.
        orders = [list(level.sparsity) for level in (self, *self.stages) if isinstance(level.sparsity, dict)]
        if orders:
            settings["orders"] = orders
        text = json.dumps({"settings": settings, "seed": seed}, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:8]
