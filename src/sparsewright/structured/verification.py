"""Does the smaller network compute what the masked one does? Found by running both."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparsewright.modules import Convolution
from sparsewright.structured.copies import light_copy, plain_copy
from sparsewright.structured.coupling import Site, Unit
from sparsewright.structured.layers import is_per_channel
from sparsewright.structured.removal import LayerRemoval, removal_of, take_out, zero_channels
from sparsewright.structured.tensors import fixed_randomness, tensors_in

# Largest difference, relative to the largest output, by how many digits the numbers have.
_TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-4}
_COARSE_TOLERANCE = 5e-2
_SEED = 0


class Verification:
    """Two cases in which masked and smaller network are compared, in evaluation mode.

    The one is the network as it is on the user's example. In the other, weights and inputs are random, so that nothing
    is zero or equal by chance. Both run in double precision if the network can.

    Args:
        model: the unwrapped network; it is only read.
        inputs: what its forward takes.
    """

    def __init__(self, model: nn.Module, inputs: Sequence[Tensor]) -> None:
        self._real, self._inputs = _double(plain_copy(model).eval(), inputs)
        self._random = _randomised(self._real)
        self._random_inputs = [_random_like(tensor) for tensor in self._inputs]

    def units_read_as_nonzero(self, units: Sequence[Unit]) -> set[int]:
        """Positions of units that still reach a layer as something else than 0 when what makes them is zeroed."""
        removal = removal_of(units, self._random)
        network = light_copy(self._random, own=removal)
        zero_channels(network, removal, inputs=False)
        with _watch_inputs(network, removal) as nonzero:
            _run(network, self._random_inputs)
        alive = {site: set(flags.nonzero().flatten().tolist()) for site, flags in nonzero.items()}
        wrong = {
            u.sites for u in units if any(alive.get(site, set()).intersection(c) for site, c in u.channels.items())
        }
        return {position for position, unit in enumerate(units) if unit.sites in wrong}

    def agree(self, units: Sequence[Unit]) -> bool:
        """Whether the network without ``units`` computes the same as with them zeroed."""
        cases = ((self._random, self._random_inputs), (self._real, self._inputs))
        return all(self._agree_on(network, inputs, units) for network, inputs in cases)

    def _agree_on(self, network: nn.Module, inputs: Sequence[Tensor], units: Sequence[Unit]) -> bool:
        removal = removal_of(units, network)
        masked = light_copy(network, own=removal)
        zero_channels(masked, removal, inputs=True)
        expected = _run(masked, inputs)
        smaller = light_copy(network)
        take_out(smaller, removal)
        try:
            found = _run(smaller, inputs)
        except Exception:  # a forward pass that has the former widths in its code
            return False
        return len(expected) == len(found) and all(map(_close, found, expected))


def largest_agreeing(families: Sequence[Sequence[Unit]], agree: Callable[[Sequence[Unit]], bool]) -> set[int]:
    """Positions of the families of units that can be removed together, found by halving where something is wrong."""
    accepted: list[int] = []

    def add(candidates: Sequence[int]) -> None:
        units = [unit for position in (*accepted, *candidates) for unit in families[position]]
        if not candidates or agree(units):
            accepted.extend(candidates)
        elif len(candidates) > 1:
            half = len(candidates) // 2
            add(candidates[:half])
            add(candidates[half:])

    add(range(len(families)))
    return set(accepted)


def _run(network: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad(), fixed_randomness(network):
        return list(tensors_in(network(*(tensor.clone() for tensor in inputs))))


def _close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    if not expected.is_floating_point() or not expected.numel():
        return torch.equal(found, expected)
    tolerance = _TOLERANCES.get(expected.dtype, _COARSE_TOLERANCE)
    scale = float(expected.nan_to_num(posinf=0, neginf=0).abs().max())
    return torch.allclose(found, expected, rtol=0, atol=tolerance * scale, equal_nan=True)


def _double(network: nn.Module, inputs: Sequence[Tensor]) -> tuple[nn.Module, list[Tensor]]:
    precise = [tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs]
    try:
        network_in_double = copy.deepcopy(network).double()
        _run(network_in_double, precise)
    except (RuntimeError, TypeError):  # a device without doubles, or code with types of its own
        return network, list(inputs)
    return network_in_double, precise


def _randomised(network: nn.Module) -> nn.Module:
    """A copy with random parameters, of a size that keeps signals in range, and random statistics of norms."""
    result = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in result.parameters():
            if parameter.is_floating_point():
                fan_in = math.prod(parameter.shape[1:]) if parameter.ndim > 1 else 1
                parameter.copy_(_random_like(parameter) / math.sqrt(max(fan_in, 1)))
        for name, buffer in result.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(_random_like(buffer))
            elif name.endswith("running_var"):
                buffer.copy_(_random_like(buffer).abs() + 0.5)
    return result


def _random_like(tensor: Tensor) -> Tensor:
    """Normal values in the place of floating-point ones; anything else, such as token numbers, as it is."""
    if not tensor.is_floating_point():
        return tensor
    generator = torch.Generator().manual_seed(_SEED + tensor.numel())
    return torch.randn(tensor.shape, generator=generator).to(tensor)


@contextmanager
def _watch_inputs(network: nn.Module, removal: Mapping[str, LayerRemoval]) -> Generator[dict[Site, Tensor], None, None]:
    """Collects, while the network runs, which of the input channels that would go are not zero."""
    nonzero: dict[Site, Tensor] = {}

    def watch(name: str, lost: LayerRemoval) -> Callable[..., None]:
        def look(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else kwargs["input"]
            channels = given.movedim(1, -1) if _has_channels_second(layer, given) else given
            flags = (channels != 0).flatten(0, -2).any(dim=0).cpu() & lost.inputs
            site = Site(name, "input")
            nonzero[site] = nonzero[site] | flags if site in nonzero else flags

        return look

    watched = [(name, lost) for name, lost in removal.items() if lost.inputs.any()]
    layers = [(network.get_submodule(name), name, lost) for name, lost in watched]
    handles = [
        layer.register_forward_pre_hook(watch(name, lost), with_kwargs=True)
        for layer, name, lost in layers
        if not is_per_channel(layer)
    ]
    try:
        yield nonzero
    finally:
        for handle in handles:
            handle.remove()


def _has_channels_second(layer: nn.Module, given: Tensor) -> bool:
    # An unbatched input of a convolution has its channels first, and there they are not looked for.
    return isinstance(layer, Convolution) and given.ndim == layer.weight.ndim
