"""Tensors that go into a network and come out of it."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_SEED = 0


def tensors_in(outputs: Any) -> Iterator[Tensor]:
    """The tensors in what a network returns: itself, or those in its tuples, lists and mappings, in their order."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from tensors_in(value)
    elif isinstance(outputs, (list, tuple)):
        for value in outputs:
            yield from tensors_in(value)


@contextmanager
def fixed_randomness(network: nn.Module) -> Generator[None, None, None]:
    """What the network draws at random is the same each time, and the user's random state is as before."""
    devices = sorted({parameter.get_device() for parameter in network.parameters() if parameter.is_cuda})
    with torch.random.fork_rng(devices):
        torch.manual_seed(_SEED)
        yield
