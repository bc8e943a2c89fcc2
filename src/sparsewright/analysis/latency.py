"""How long networks take for a batch, measured side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsewright.checks import check_number
from sparsewright.modules import evaluation_mode

# A timing is of as many calls as last this long, far above the resolution of the clock.
_SECONDS_PER_TIMING = 0.005
_WARM_UP_CALLS = 3
_PAUSE_SECONDS = 0.05
_FEWEST_ROUNDS, _MOST_ROUNDS = 5, 50


@dataclass(frozen=True)
class Latency:
    """Time of one network for one batch.

    Attributes:
        median_ms: over the rounds, in milliseconds.
        lower_quartile_ms, upper_quartile_ms: half of the rounds lie between them, in milliseconds.
        rounds: how often it was timed.
    """

    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    rounds: int


def measure_latency(
    networks: Mapping[str, nn.Module], example_input: Tensor, *, seconds: float = 5.0
) -> dict[str, Latency]:
    """Time several networks in one run, in turn, so that a busy or warming machine disturbs all of them alike.

    Every network runs on the example in evaluation mode without gradients, a few times before it is timed. A round
    times each network once, after a short pause and calls that are not timed, every other round in the opposite order;
    there are 5 to 50 rounds.

    Args:
        networks: name -> network, all on the example's device.
        example_input: one batch, samples first.
        seconds: about how long all of it may take where that is more than 5 rounds.

    Returns:
        name -> its latency, in the order of ``networks``.

    Raises:
        ValueError: no networks, or a negative number of seconds.
    """
    check_number(seconds, "seconds")
    if not networks:
        raise ValueError("networks is empty: give at least one to measure")
    with ExitStack() as modes, torch.inference_mode():
        for network in networks.values():
            modes.enter_context(evaluation_mode(network))
        calls = {name: _calls_per_timing(network, example_input) for name, network in networks.items()}
        timings = _time_in_turn(networks, example_input, calls, seconds)
    return {name: _summarise(timings[name]) for name in networks}


def _calls_per_timing(network: nn.Module, example_input: Tensor) -> int:
    _seconds_per_call(network, example_input, _WARM_UP_CALLS)
    once = _seconds_per_call(network, example_input, 1)
    return max(1, round(_SECONDS_PER_TIMING / max(once, 1e-9)))


def _time_in_turn(
    networks: Mapping[str, nn.Module], example_input: Tensor, calls: Mapping[str, int], seconds: float
) -> dict[str, list[float]]:
    timings: dict[str, list[float]] = {name: [] for name in networks}
    end = time.perf_counter() + seconds
    for done in range(_MOST_ROUNDS):
        if done >= _FEWEST_ROUNDS and time.perf_counter() >= end:
            break
        for name in list(networks) if done % 2 == 0 else reversed(list(networks)):
            # Threads of the one before may still spin, and would take a core from this one.
            time.sleep(_PAUSE_SECONDS)
            _seconds_per_call(networks[name], example_input, _WARM_UP_CALLS)
            timings[name].append(_seconds_per_call(networks[name], example_input, calls[name]))
    return timings


def _seconds_per_call(network: nn.Module, example_input: Tensor, calls: int) -> float:
    _wait_for(example_input.device)
    start = time.perf_counter()
    for _ in range(calls):
        network(example_input)
    _wait_for(example_input.device)
    return (time.perf_counter() - start) / calls


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _summarise(timings: list[float]) -> Latency:
    milliseconds = torch.tensor(timings, dtype=torch.float64) * 1e3
    lower, median, upper = milliseconds.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    return Latency(median, lower, upper, len(timings))
