"""Latency: networks timed side by side, and left as they were."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from sparsewright.analysis import measure_latency


class Sleeper(nn.Module):
    """Takes a known time for a batch, and notes how it is called."""

    def __init__(self, milliseconds: float, log: list[str], name: str) -> None:
        super().__init__()
        self.milliseconds, self.log, self.name = milliseconds, log, name
        self.dropout = nn.Dropout()
        self.seen: set[tuple[bool, bool, int]] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add((self.training, torch.is_grad_enabled(), len(x)))
        self.log.append(self.name)
        time.sleep(self.milliseconds / 1e3)
        return x


def test_networks_are_timed_in_turn_and_left_as_they_were() -> None:
    log: list[str] = []
    slow, fast = Sleeper(12, log, "slow"), Sleeper(6, log, "fast")
    fast.dropout.eval()
    found = measure_latency({"slow": slow, "fast": fast}, torch.zeros(7, 3), seconds=0)
    assert list(found) == ["slow", "fast"]
    # Sleeping may take longer, never shorter.
    assert found["slow"].median_ms >= 12
    assert found["fast"].median_ms >= 6
    for latency in found.values():
        assert latency.lower_quartile_ms <= latency.median_ms <= latency.upper_quartile_ms
        assert latency.rounds == 5
    # Three calls that are not timed come before each that is.
    assert log[-40::4] == ["slow", "fast", "fast", "slow"] * 2 + ["slow", "fast"]
    assert slow.seen == fast.seen == {(False, False, 7)}
    assert (slow.training, slow.dropout.training, fast.training, fast.dropout.training) == (True, True, True, False)


def test_a_larger_network_takes_longer() -> None:
    networks = {"small": nn.Linear(400, 400), "large": nn.Sequential(*(nn.Linear(400, 400) for _ in range(20)))}
    found = measure_latency(networks, torch.randn(64, 400), seconds=0.2)
    assert found["large"].median_ms > 2 * found["small"].median_ms
    assert 5 <= found["small"].rounds <= 50


def test_more_time_means_more_rounds() -> None:
    log: list[str] = []
    rounds = [
        measure_latency({"one": Sleeper(5, log, "one")}, torch.zeros(1), seconds=seconds)["one"].rounds
        for seconds in (0, 0.8)
    ]
    assert rounds[0] == 5 < rounds[1] <= 30


def test_refusals() -> None:
    with pytest.raises(ValueError, match="networks is empty"):
        measure_latency({}, torch.zeros(1))
    with pytest.raises(ValueError, match="seconds"):
        measure_latency({"one": nn.Identity()}, torch.zeros(1), seconds=-1)
