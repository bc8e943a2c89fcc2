"""One epoch of training and one evaluation, on Lightning Fabric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsewright.data import Loader

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Batch = tuple[Tensor, Tensor]


class TrainingError(RuntimeError):
    """Training cannot go on, for example because the loss is no number any more."""


def check_finite(loss: float, what: str) -> None:
    """Raises TrainingError when ``loss`` is no finite number; ``what`` names it in the sentence."""
    if not math.isfinite(loss):
        raise TrainingError(f"training diverged: the {what} is {loss}; try a smaller optimizer.lr or gradient_clip=1")


@dataclass(frozen=True)
class Result:
    """Mean loss, accuracy in per cent, and how many images they are over."""

    loss: float
    accuracy: float
    images: int


class RunningResult:
    """Sums of losses and hits kept on the device, so that a step never waits for it."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)
        self._images = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Counts one batch with mean ``loss``, ``logits`` of shape (images, classes) and ``labels`` (images,)."""
        hits = (logits.detach().argmax(dim=1) == labels).sum()
        self._sums += torch.stack([loss.detach().double() * len(labels), hits.double()])
        self._images += len(labels)

    def local(self) -> Result:
        """The result so far on this rank alone; waits for the device."""
        loss, hits = self._sums.tolist()
        return _as_result(loss, hits, self._images)

    def reduced(self, fabric: Fabric) -> Result:
        """The result over all ranks; every rank has to call it."""
        if fabric.world_size == 1:
            return self.local()
        mine = torch.cat([self._sums, self._sums.new_tensor([self._images])])
        total = fabric.all_reduce(mine, reduce_op="sum")
        assert isinstance(total, Tensor)
        loss, hits, images = total.tolist()
        return _as_result(loss, hits, images)


@dataclass(frozen=True)
class StepReport:
    """What is known after an optimizer step."""

    step: int
    images: int
    running: RunningResult


@dataclass
class Trainer:
    """Everything that stays the same over the epochs of one stage.

    Attributes:
        fabric: the launched Fabric.
        model: the model as Fabric set it up.
        optimizer: the plain torch optimizer that carries the sparsifier's hooks.
        set_rate: sets the learning rate of a step, counted from 0, and returns it.
        batch_size: images of a full batch over all ranks.
        label_smoothing: share of the target spread over all classes.
        gradient_clip: largest norm of the whole gradient, or None.
        after_step: called after each optimizer step.
        finished: whether to stop before the next step, whatever number it has.
    """

    fabric: Fabric
    model: Any
    optimizer: torch.optim.Optimizer
    set_rate: Callable[[int], float]
    batch_size: int
    label_smoothing: float
    gradient_clip: float | None
    after_step: Callable[[StepReport], None]
    finished: Callable[[], bool] = lambda: False

    def epoch(self, loader: Loader, number: int, first_step: int, last_step: int) -> tuple[Result, int, float]:
        """Trains on epoch ``number`` of the loader, from step ``first_step`` to before ``last_step`` at most,
        or until ``finished``.

        Returns:
            The result over all ranks, the next step, and the learning rate of the last step.

        Raises:
            TrainingError: the loss is not finite any more.
        """
        self.model.train()
        running = RunningResult(self.fabric.device)
        step, rate = first_step, 0.0
        for index, (images, labels) in enumerate(loader.epoch(number)):
            if step >= last_step or self.finished():
                break
            rate = self.set_rate(step)
            together = min(self.batch_size, loader.samples - index * self.batch_size)
            self._step(images, labels, together, running)
            step += 1
            self.after_step(StepReport(step, together, running))
        result = running.reduced(self.fabric)
        check_finite(result.loss, f"loss of epoch {number + 1}")
        return result, step, rate

    def _step(self, images: Tensor, labels: Tensor, together: int, running: RunningResult) -> None:
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        # DDP averages over ranks; with unequal shares of a batch that is not the mean over its images.
        share = len(labels) * self.fabric.world_size / together
        self.fabric.backward(loss if share == 1 else loss * share)
        if self.gradient_clip is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        running.add(loss, logits, labels)


@torch.no_grad()
def evaluate_model(fabric: Fabric, model: nn.Module, batches: Iterable[Batch]) -> Result:
    """Loss without smoothing and accuracy of the plain ``model`` over the batches of all ranks, in evaluation mode."""
    if fabric.world_size > 1:
        _share_buffers(fabric, model)
    training = model.training
    model.eval()
    running = RunningResult(fabric.device)
    with fabric.autocast():
        for images, labels in batches:
            logits = model(images)
            running.add(F.cross_entropy(logits, labels), logits, labels)
    model.train(training)
    return running.reduced(fabric)


def _share_buffers(fabric: Fabric, model: nn.Module) -> None:
    # Every rank has its own batch statistics; rank 0's are those that are saved.
    for buffer in model.buffers():
        torch.distributed.broadcast(buffer, src=0)


def _as_result(loss: float, hits: float, images: float) -> Result:
    count = max(images, 1)
    return Result(loss / count, 100.0 * hits / count, int(images))
