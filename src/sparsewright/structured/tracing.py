"""Reads from one forward pass which channels go together, with torch-pruning's dependency graph.

Source: Fang et al., "DepGraph: Towards Any Structural Pruning" (arXiv 2301.12900).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparsewright.extras import explain_missing
from sparsewright.modules import is_weight_layer
from sparsewright.structured.copies import plain_copy
from sparsewright.structured.coupling import Coupling, Link, Site
from sparsewright.structured.following import Visit, follow
from sparsewright.structured.layers import input_width, is_per_channel, output_width, width_names
from sparsewright.structured.tensors import fixed_randomness, tensors_in

if TYPE_CHECKING:
    from torch_pruning import DependencyGraph

CHANNEL_PADDING = "channel padding"
"""The name here of an operation that pads channels, which autograd calls like any other padding."""

LOST = "lost"
"""The name here of an operation behind which channels cannot be followed."""


@dataclass(frozen=True)
class Trace:
    """What a forward pass showed of a network.

    Attributes:
        couplings: for each layer that was called, and for each input of the network, what its channels reach.
        uses: parameter name -> how often the forward pass used it.
        failure: why there are no couplings; None where the network could be followed.
    """

    couplings: list[Coupling]
    uses: dict[str, int]
    failure: str | None = None


def trace(model: nn.Module, inputs: Sequence[Tensor]) -> Trace:
    """Runs the network once, in evaluation mode, on a copy.

    Args:
        model: the unwrapped network.
        inputs: what its forward takes.

    Raises:
        ModuleNotFoundError: torch-pruning is not installed.
        ValueError: the network cannot be copied or run.
    """
    dependency_graph = _import_dependency_graph()
    network = _Entered(plain_copy(model), inputs).eval()
    for parameter in network.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    with warnings.catch_warnings(), torch.enable_grad(), fixed_randomness(network):
        # Its warnings are about what it guesses; all of that is checked by running the smaller network.
        warnings.simplefilter("ignore")
        uses = _uses(network, inputs)
        try:
            graph = dependency_graph().build_dependency(
                network,
                tuple(inputs),
                forward_fn=lambda model, given: model(*given),
                output_transform=_ends,
                verbose=False,
            )
            couplings = list(_couplings(graph, network))
        except Exception as error:  # whatever it does not get along with
            return Trace([], uses, f"torch-pruning cannot follow the network ({type(error).__name__}: {error})")
    return Trace(couplings, uses)


class _Entered(nn.Module):
    """The network behind layers that change nothing, which mark where its inputs come in.

    Only for inputs with the channels in dimension 1: of token sequences, they may be in the last one.
    """

    def __init__(self, network: nn.Module, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.network = network
        self.entries = nn.ModuleList(_entry(tensor) for tensor in inputs)

    def forward(self, *inputs: Tensor) -> Any:
        return self.network(*(entry(tensor) for entry, tensor in zip(self.entries, inputs, strict=True)))


def _entry(tensor: Tensor) -> nn.Module:
    if not tensor.is_floating_point() or tensor.ndim not in (2, 4, 5):
        return nn.Identity()
    # A PReLU with slope 1: the identity, with one parameter per channel.
    return nn.PReLU(tensor.shape[1], init=1.0).to(tensor.device, tensor.dtype)


def _import_dependency_graph() -> type[DependencyGraph]:
    try:
        from torch_pruning import DependencyGraph
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(explain_missing(error), name=error.name) from error
    return DependencyGraph


def _ends(outputs: Any) -> list[Tensor]:
    """A node of the graph for each output, without a shape that would be taken for channels."""
    return [tensor.sum() for tensor in tensors_in(outputs) if tensor.grad_fn is not None]


def _uses(network: _Entered, inputs: Sequence[Tensor]) -> dict[str, int]:
    """Parameter name -> how often one forward pass uses it, by all its names together."""
    try:
        ends = _ends(network(*inputs))
    except Exception as error:  # whatever the user's code raises
        kind = type(network.network).__name__
        raise ValueError(f"{kind} cannot be run with this example_input: {error}") from error
    uses = _leaf_uses(ends)
    names = network.network.named_parameters(remove_duplicate=False)
    return {name: uses[id(parameter)] for name, parameter in names}


def _leaf_uses(outputs: Sequence[Tensor]) -> Counter[int]:
    """How many operations of the graph behind ``outputs`` read each leaf tensor, by the tensor's id."""
    uses: Counter[int] = Counter()
    waiting: list[Any] = [tensor.grad_fn for tensor in outputs]
    seen = set(waiting)
    while waiting:
        for following, _ in waiting.pop().next_functions:
            if following is None:
                continue
            if hasattr(following, "variable"):
                uses[id(following.variable)] += 1
            elif following not in seen:
                seen.add(following)
                waiting.append(following)
    return uses


def _couplings(graph: DependencyGraph, network: _Entered) -> Iterator[Coupling]:
    names = {id(module): name for name, module in network.network.named_modules()}
    names |= {id(parameter): name for name, parameter in network.network.named_parameters()}
    entries = {id(entry): str(number) for number, entry in enumerate(network.entries)}
    layers = [module for module in network.modules() if width_names(module)]
    widest = max(width(layer) for layer in layers for width in (input_width, output_width))
    for module in layers:
        is_root = id(module) in entries or is_weight_layer(module)
        if is_root and module in graph.module2node:
            visits, complete = follow(graph, module, output_width(module), widest)
            yield _coupling(graph, visits, complete, names, entries)


def _coupling(
    graph: DependencyGraph, visits: Sequence[Visit], complete: bool, names: dict[int, str], entries: dict[int, str]
) -> Coupling:
    links, operations = [], set() if complete else {LOST}
    for visit in visits:
        site = _site(graph, visit, names, entries)
        if site is None:
            operations.add(_operation(visit.node))
        else:
            links.append(Link(site, [c.idx for c in visit.channels], [c.root_idx for c in visit.channels]))
    return Coupling(links[0].site, tuple(links), frozenset(operations))


def _site(graph: DependencyGraph, visit: Visit, names: dict[int, str], entries: dict[int, str]) -> Site | None:
    """Where a visit would take channels away; None for an operation."""
    module = visit.node.module
    if id(module) in entries:
        return Site(entries[id(module)], "network input")
    if isinstance(module, nn.Parameter):
        return Site(names[id(module)], "parameter")
    if isinstance(module, graph.ops._OutputOp):
        return Site("", "network output")
    if id(module) not in names:
        return None
    # Modules that hold channels but have no widths here (LayerNorm) count as parameters: nothing of them is removed.
    if not width_names(module):
        return Site(names[id(module)], "parameter")
    outwards = is_per_channel(module) or graph.is_out_channel_pruning_fn(visit.handler)
    return Site(names[id(module)], "output" if outwards else "input")


def _operation(node: Any) -> str:
    # Widths before and after, from the last dimension to the first: the fifth and sixth are those of the channels.
    if any(getattr(node.grad_fn, "_saved_pad", ())[4:6]):
        return CHANNEL_PADDING
    return node.grad_fn.name() if hasattr(node.grad_fn, "name") else type(node.grad_fn).__name__
