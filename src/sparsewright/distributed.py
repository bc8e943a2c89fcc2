"""Making every rank hold the same masks and weights, by copying those of the first rank."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def resolve_group(process_group: Any) -> Any | None:
    """The group to synchronise over; None if there is nothing to synchronise.

    Args:
        process_group: None for the default group wherever ``torch.distributed`` is initialised, a process group, or
            False to leave every rank alone.

    Raises:
        ValueError: a group is given, but ``torch.distributed`` is not initialised.
    """
    if process_group is False:
        return None
    ready = dist.is_available() and dist.is_initialized()
    if process_group is None:
        return dist.group.WORLD if ready and dist.get_world_size() > 1 else None
    if not ready:
        raise ValueError("process_group is given, but torch.distributed is not initialised")
    return process_group if dist.get_world_size(process_group) > 1 else None


@torch.no_grad()
def broadcast(tensors: Iterable[Tensor], group: Any | None) -> None:
    """Overwrite each tensor with the first rank's, in place; does nothing without a group."""
    if group is None:
        return
    source = dist.get_global_rank(group, 0)
    for tensor in tensors:
        payload = tensor.detach().contiguous()
        # Not every backend sends bools; the same bytes travel as uint8.
        dist.broadcast(payload.view(torch.uint8) if payload.dtype == torch.bool else payload, src=source, group=group)
        if payload.data_ptr() != tensor.data_ptr():
            tensor.copy_(payload)
