"""The shrink stage: a network rebuilt without the filters or channels that the stage before it removed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsewright.analysis.flops import layer_flops
from sparsewright.export import is_hdf5, read_hdf5_metadata
from sparsewright.groups import PrunedGroups
from sparsewright.sparsifier import Sparsifier
from sparsewright.structured import NotRemovedWarning, plan_removal, resize, shrink, widths
from sparsewright.training.progress import Progress
from sparsewright.training.weights import file_metadata

WIDTHS = "widths"
"""The key of a shrunk network's widths in the metadata of its weights."""

_EXAMPLES = 2
_EXAMPLE_SEED = 0


@dataclass(frozen=True)
class DenseNetwork:
    """The recipe's own network, before anything was taken out of it.

    Attributes:
        layer_flops: forward FLOPs per image by parameter name.
        parameters: their number.
    """

    layer_flops: Mapping[str, float]
    parameters: int


def describe_dense(model: nn.Module, example_input: Tensor) -> DenseNetwork:
    """What a shrunk network is compared with.

    Args:
        model: the recipe's network.
        example_input: images, (samples, channels, height, width), on its device.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return DenseNetwork(layer_flops(model, example_input), parameters)


def example_images(channels: int, size: int, device: torch.device) -> Tensor:
    """Random images, (2, channels, size, size), the same at every call."""
    generator = torch.Generator().manual_seed(_EXAMPLE_SEED)
    return torch.randn(_EXAMPLES, channels, size, size, generator=generator).to(device)


def remember_groups(progress: Progress, sparsifier: Sparsifier) -> None:
    """Keeps what ``sparsifier`` has removed for a shrink stage; single weights cannot be taken out."""
    groups = getattr(sparsifier, "pruned_groups", None)
    progress.pruned_groups, progress.granularity = {}, None
    if isinstance(groups, PrunedGroups) and groups.granularity != "weight":
        progress.pruned_groups = {name: indices.cpu().clone() for name, indices in groups.items()}
        progress.granularity = groups.granularity


def shrink_network(model: nn.Module, example_input: Tensor, progress: Progress, *, announce: bool) -> nn.Module:
    """A smaller network without the groups that ``progress`` remembers, which then knows its widths and has no masks.

    Args:
        model: the network; it is left as it is.
        example_input: images on its device.
        progress: of the run; forgets the groups, and keeps what could not be removed with the reason.
        announce: whether this process warns of that.

    Raises:
        ValueError: nothing can be removed, or the network cannot be followed.
    """
    assert progress.granularity is not None
    groups = PrunedGroups(progress.pruned_groups, granularity=progress.granularity)
    plan = plan_removal(model, example_input, groups)
    with warnings.catch_warnings():
        if not announce:
            warnings.simplefilter("ignore", NotRemovedWarning)
        smaller = shrink(model, example_input, groups)
    progress.widths = widths(smaller)
    progress.not_removed |= plan.kept
    progress.masks, progress.pruned_groups, progress.granularity = {}, {}, None
    return smaller


def widths_facts(widths: Mapping[str, Any]) -> dict[str, Any]:
    """What the metadata of a network's weights say of its widths: nothing unless it was shrunk."""
    return {WIDTHS: dict(widths)} if widths else {}


def read_widths(path: Path) -> dict[str, dict[str, int]]:
    """The widths in the file of a shrunk network; empty for any other file of weights.

    Args:
        path: a safetensors or HDF5 file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or neither of the two.
    """
    metadata = read_hdf5_metadata(path) if is_hdf5(path) else file_metadata(path)
    return dict((metadata or {}).get(WIDTHS) or {})


def take_widths(model: nn.Module, found: Mapping[str, Any] | None, source: Path) -> None:
    """Gives ``model`` the widths of a shrunk network, in place; its weights are to be loaded after that.

    Args:
        model: the network before it was shrunk.
        found: its widths; None or empty for one that was not.
        source: the file that they come from, for errors.

    Raises:
        ValueError: they are damaged or of another network.
    """
    if not found:
        return
    try:
        resize(model, found)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source} does not fit the recipe's model: {error}") from error
