"""Loss, top-1 and top-5 accuracy of a network on test images, and how fast it gets through them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparsewright.data.evaluation import EvaluationImages

if TYPE_CHECKING:
    from lightning_fabric import Fabric

TOP = 5


@dataclass(frozen=True)
class Scores:
    """How a network did.

    Attributes:
        loss: mean cross-entropy.
        accuracy: per cent of the images.
        top5_accuracy: per cent of the images whose class is among the best five; None with five classes or fewer.
        images: how many they were.
        seconds: of wall-clock time, with the loading of the images.
    """

    loss: float
    accuracy: float
    top5_accuracy: float | None
    images: int
    seconds: float


@torch.no_grad()
def score(fabric: Fabric, model: nn.Module, images: EvaluationImages) -> Scores:
    """Evaluates ``model``, which is on Fabric's device and stays in evaluation mode.

    Raises:
        ValueError: the loss is not finite.
    """
    model.eval()
    sums, seen = torch.zeros(3, dtype=torch.float64, device=fabric.device), 0
    start = time.perf_counter()
    for batch, labels in images.batches():
        with fabric.autocast():
            logits = model(batch)
        sums += batch_sums(logits, labels)
        seen += len(labels)
    # Waits for the device, so the clock is read after it.
    loss, first, among_best = (sums / seen).tolist()
    seconds = time.perf_counter() - start
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss comes to {loss}: the network's outputs are NaN, infinite or too large for its arithmetic, and "
            "no accuracy of such a network means anything"
        )
    return Scores(loss, 100 * first, 100 * among_best if images.num_classes > TOP else None, seen, seconds)


def batch_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """Sums over a batch of losses, of hits, and of hits among the best five.

    Args:
        logits: (images, classes), any floating-point type.
        labels: int64 (images,).

    Returns:
        float64 (3,).
    """
    loss = F.cross_entropy(logits.float(), labels, reduction="sum")
    best = logits.topk(min(TOP, logits.shape[1]), dim=1).indices == labels[:, None]
    return torch.stack([loss.double(), best[:, 0].sum().double(), best.sum().double()])
