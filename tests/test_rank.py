"""Ranks of weights: the mathematics on matrices of known spectrum, the table of a model, the command, and the log."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_cli import assert_one_sentence, invoke
from test_training import checksum, killed_at_step, run
from torch import Tensor, nn

import sparsewright as sw
from sparsewright.analysis import (
    DecompositionError,
    effective_rank,
    energy_rank,
    numerical_rank,
    rank_averages,
    rank_rows,
    rank_table,
    singular_values,
    stable_rank,
)
from sparsewright.export import save_hdf5
from sparsewright.training import TrainingError, load_recipe, read_metrics
from sparsewright.training.rank_log import measure_ranks, passes_multiple

KINDS = ("numerical", "energy_90", "energy_95", "energy_99", "stable", "effective")
KEYS = {f"rank_{kind}" for kind in KINDS} | {"rank_numerical_ratio"}

sides = st.integers(1, 12)
seeds = st.integers(0, 2**31)
spectra = st.lists(st.floats(0.05, 1.0), min_size=1, max_size=8)


def weight_of(spectrum: list[float], more_rows: int, more_columns: int, seed: int) -> Tensor:
    """A float64 matrix with these singular values that are not zero, and more rows and columns than they are."""
    generator = torch.Generator().manual_seed(seed)
    rank = len(spectrum)
    left, right = (
        torch.linalg.qr(torch.randn(rank + more, rank, generator=generator, dtype=torch.float64))[0]
        for more in (more_rows, more_columns)
    )
    return left * torch.tensor(spectrum, dtype=torch.float64) @ right.mT


def random_weight(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@given(spectra, st.integers(0, 5), st.integers(0, 5), seeds)
@settings(max_examples=60, deadline=None)
def test_a_matrix_of_known_spectrum(spectrum: list[float], more_rows: int, more_columns: int, seed: int) -> None:
    weight = weight_of(spectrum, more_rows, more_columns, seed)
    expected = np.sort(np.array(spectrum))[::-1]
    found = singular_values(weight)
    assert found.shape == (min(weight.shape),)
    np.testing.assert_allclose(found[: len(expected)], expected, rtol=1e-10)
    assert numerical_rank(weight) == numerical_rank(weight.float()) == len(expected)
    assert stable_rank(weight) == pytest.approx((expected**2).sum() / expected[0] ** 2)
    shares = expected / expected.sum()
    assert effective_rank(weight) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    held = np.cumsum(expected**2) / (expected**2).sum()
    for energy in (0.5, 0.9, 0.95, 0.99):
        k = energy_rank(weight, energy)
        assert held[k - 1] >= energy - 1e-9
        assert k == 1 or held[k - 2] < energy + 1e-9


@given(sides, sides, seeds, st.floats(1e-6, 0.9))
@settings(max_examples=40, deadline=None)
def test_the_numerical_rank_is_that_of_numpy(rows: int, columns: int, seed: int, tolerance: float) -> None:
    product = random_weight(rows, 3, seed).double() @ random_weight(3, columns, seed + 1).double()
    for weight in (random_weight(rows, columns, seed).double(), product):
        assert numerical_rank(weight) == np.linalg.matrix_rank(weight.numpy())
        largest = np.linalg.norm(weight.numpy(), 2)
        assert numerical_rank(weight, tolerance) == np.linalg.matrix_rank(weight.numpy(), tol=tolerance * largest)


@given(spectra, st.integers(0, 5), st.integers(0, 5), seeds)
@settings(max_examples=60, deadline=None)
def test_the_table_has_the_ranks_of_the_functions(
    spectrum: list[float], more_rows: int, more_columns: int, seed: int
) -> None:
    weight = weight_of(spectrum, more_rows, more_columns, seed).float()
    for tolerance in (None, 1e-3, 1e-12):
        ranks = rank_rows({"w": weight}, tolerance)[0].ranks
        assert ranks.numerical == numerical_rank(weight, tolerance)
        assert ranks.stable == pytest.approx(stable_rank(weight))
        assert ranks.effective == pytest.approx(effective_rank(weight), rel=1e-4)
        assert energy_rank(weight, 0.95 - 1e-6) <= ranks.energy_95 <= energy_rank(weight, 0.95 + 1e-6)


@given(sides, sides, seeds, st.integers(-60, 60))
@settings(max_examples=40, deadline=None)
def test_ranks_depend_neither_on_scale_nor_on_which_side_is_which(
    rows: int, columns: int, seed: int, exponent: int
) -> None:
    weight = random_weight(rows, columns, seed)
    ranks = rank_rows({"w": weight})[0].ranks
    for same in (weight * 2.0**exponent, -weight, weight.mT, weight.flip(0)):
        other = rank_rows({"w": same})[0].ranks
        assert other.numerical == ranks.numerical
        assert (other.stable, other.effective) == pytest.approx((ranks.stable, ranks.effective))


@given(sides, sides, seeds, st.floats(0, 0.95))
@settings(max_examples=60, deadline=None)
def test_ranks_are_ordered(rows: int, columns: int, seed: int, sparsity: float) -> None:
    weight = random_weight(rows, columns, seed)
    weight[torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < sparsity] = 0
    (row,) = rank_rows({"w": weight})
    ranks, full = row.ranks, min(rows, columns)
    assert row.full_rank == full
    assert row.sparsity == pytest.approx((weight == 0).double().mean().item())
    least = 1 if weight.any() else 0
    assert least <= ranks.energy_90 <= ranks.energy_95 <= ranks.energy_99 <= ranks.numerical <= full
    assert least <= ranks.stable * (1 + 1e-9)
    assert ranks.stable <= ranks.numerical * (1 + 1e-9)
    assert least <= ranks.effective * (1 + 1e-9)
    # What lies below the tolerance adds a trace of entropy that the rank does not count.
    assert ranks.effective <= ranks.numerical + 1e-3
    assert all(getattr(row.ratios, kind) == getattr(ranks, kind) / full for kind in KINDS)
    assert energy_rank(weight, 0.0) == 0
    by_energy = [energy_rank(weight, energy) for energy in (0.1, 0.3, 0.7, 1.0)]
    assert by_energy == sorted(by_energy)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [1, 10, 40])
def test_an_orthogonal_matrix_has_every_rank_in_full(size: int, dtype: torch.dtype) -> None:
    weight = torch.linalg.qr(random_weight(size, size, 0).double())[0].to(dtype)
    ranks = rank_rows({"w": weight})[0].ranks
    assert (ranks.numerical, ranks.stable, ranks.effective) == pytest.approx((size, size, size), rel=1e-5)
    if dtype == torch.float64:
        shares = (ranks.energy_90, ranks.energy_95, ranks.energy_99)
        assert shares == tuple(math.ceil(size * percentage / 100) for percentage in (90, 95, 99))


def test_an_all_zero_weight_has_no_rank() -> None:
    ranks = rank_rows({"w": torch.zeros(4, 3)})[0].ranks
    assert all(getattr(ranks, kind) == 0 for kind in KINDS)
    assert energy_rank(torch.zeros(2, 2), 1.0) == 0


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_extreme_weights_have_the_ranks_of_any_other(scale: float) -> None:
    weight = weight_of([1.0, 0.5, 0.25], 2, 4, seed=0)
    ranks, extreme = (rank_rows({"w": w}, tolerance=1e-3)[0].ranks for w in (weight, scale * weight))
    assert (extreme.numerical, extreme.energy_90) == (ranks.numerical, ranks.energy_90) == (3, 2)
    assert (extreme.stable, extreme.effective) == pytest.approx((ranks.stable, ranks.effective))


def test_convolutions_are_read_as_filters_by_rest() -> None:
    weight = random_weight(6, 2 * 3 * 3, 0).reshape(6, 2, 3, 3)
    assert torch.equal(singular_values(weight), singular_values(weight.flatten(1)))
    weight[3:] = weight[:3]
    assert numerical_rank(weight) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_are_measured_as_they_are(dtype: torch.dtype) -> None:
    weight = random_weight(300, 200, 0).to(dtype)
    assert numerical_rank(weight) == numerical_rank(weight.float()) == 200


@pytest.mark.parametrize(
    ("weight", "error", "parts"),
    [
        (torch.ones(3), ValueError, "conv.weight must have 2 or more dimensions"),
        (torch.ones(0, 3), ValueError, r"conv.weight .* some entries, got shape \(0, 3\)"),
        (
            torch.ones(3, 3, dtype=torch.int64),
            TypeError,
            "conv.weight must be a floating-point tensor, got torch.int64",
        ),
        (torch.tensor([[1.0, torch.nan]]), ValueError, "conv.weight has entries that are not finite"),
        (torch.tensor([[1.0, torch.inf]]), ValueError, "conv.weight has entries that are not finite"),
    ],
)
def test_an_unusable_weight_is_named(weight: Tensor, error: type[Exception], parts: str) -> None:
    with pytest.raises(error, match=parts):
        rank_rows({"conv.weight": weight})


def test_unusable_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"energy must be in \[0, 1\], got 90"):
        energy_rank(torch.eye(2), 90)
    with pytest.raises(ValueError, match=r"tolerance must be in \[0, 1\], got -1"):
        rank_table(nn.Linear(2, 2), tolerance=-1)


class Mixed(nn.Module):
    """Layers in and out of scope, one of them shared and one frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, groups=2)
        self.up = nn.ConvTranspose2d(6, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.embedding = nn.Embedding(5, 4)
        self.attention = nn.MultiheadAttention(4, 1)
        self.fc = nn.Linear(4, 3)
        self.again = self.fc
        self.frozen = nn.Linear(3, 7).requires_grad_(False)


def test_the_table_has_a_row_for_every_linear_and_convolution_weight() -> None:
    model = Mixed()
    before = copy.deepcopy(model.state_dict())
    rows = rank_table(torch.optim.swa_utils.AveragedModel(model))
    assert {row.name: (row.shape, row.full_rank) for row in rows} == {
        "conv.weight": ((6, 2, 3, 3), 6),
        "up.weight": ((6, 2, 3, 3), 6),
        "attention.out_proj.weight": ((4, 4), 4),
        "fc.weight": ((3, 4), 3),
        "frozen.weight": ((7, 3), 3),
    }
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    sparsifier = sw.Static(model, torch.optim.SGD(model.parameters(), lr=0.1), sparsity=0.5)
    assert set(sparsifier.masks) == {row.name for row in rows} - {"frozen.weight"}


def test_averages_are_over_layers() -> None:
    rows = rank_rows({"small": torch.eye(2), "large": torch.diag(torch.tensor([1.0, 1, 1, 0, 0, 0]))})
    averages = rank_averages(rows)
    assert (averages.layers, averages.full_rank) == (2, 4)
    assert averages.ranks.numerical == averages.ranks.energy_99 == 2.5
    assert (averages.ranks.stable, averages.ranks.effective) == pytest.approx((2.5, 2.5))
    assert averages.ratios.numerical == 0.75
    with pytest.raises(ValueError, match="no weight of a Linear layer or convolution"):
        rank_averages(rank_table(nn.Embedding(3, 3)))


@pytest.mark.parametrize(
    ("before", "now", "interval", "due"),
    [(0, 23, 46, False), (23, 46, 46, True), (46, 69, 46, False), (0, 23, 5, True), (69, 92, 100, False)],
)
def test_an_interval_is_due_when_a_multiple_of_it_is_reached(before: int, now: int, interval: int, due: bool) -> None:
    assert passes_multiple(before, now, interval) is due


def test_a_weight_that_is_not_finite_ends_training() -> None:
    model = nn.Linear(2, 2)
    model.weight.data[0, 0] = torch.nan
    with pytest.raises(TrainingError, match="diverged: weight has entries that are not finite"):
        measure_ranks(model)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four epochs of GraNet on digits, with the ranks of every second."""
    folder = tmp_path_factory.mktemp("ranks") / "run"
    run(folder, "method=granet", "sparsity=0.95", "log_rank_every=2ep")
    return folder


def ranks_in(line: dict[str, Any]) -> dict[str, float]:
    return {key: line[key] for key in KEYS & line.keys()}


def test_inspect_shows_the_ranks_of_a_run(logged: Path) -> None:
    result = invoke("inspect", logged, "--rank")
    assert result.exit_code == 0, result.output
    header, *lines = result.stdout.splitlines()
    assert header.split("  ")[0] == "layer"
    assert [line.split()[0] for line in lines[1:4]] == ["fc1.weight", "fc2.weight", "fc3.weight"]
    assert lines[-1].split()[:2] == ["mean", "58.0"]
    for target in (logged, logged / "model.safetensors"):
        printed = json.loads(invoke("inspect", target, "--rank", "--json").stdout)
        assert printed["target"] == str(target)
        assert [layer["full_rank"] for layer in printed["layers"]] == [64, 100, 10]
        assert printed["averages"]["layers"] == 3
        last = ranks_in(read_metrics(logged)[-1])
        assert {f"rank_{kind}": printed["averages"]["ranks"][kind] for kind in KINDS} == pytest.approx(
            {key: value for key, value in last.items() if key != "rank_numerical_ratio"}
        )


def test_inspect_shows_the_ranks_of_an_hdf5_file(logged: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.hdf5"
    assert invoke("export", logged, "--format", "hdf5", "--out", file).exit_code == 0
    printed = [json.loads(invoke("inspect", target, "--rank", "--json").stdout) for target in (file, logged)]
    assert printed[0]["averages"] == printed[1]["averages"]
    save_hdf5(file, {"bias": torch.ones(3), "counts": torch.ones(2, 2, dtype=torch.int64)})
    assert_one_sentence(invoke("inspect", file, "--rank"), 2, str(file), "2 or more dimensions")


def test_the_average_ranks_are_logged_when_due_and_at_the_end(logged: Path) -> None:
    lines = read_metrics(logged)
    assert [ranks_in(line).keys() == KEYS for line in lines] == [False, True, False, True]
    assert [bool(ranks_in(line)) for line in lines] == [False, True, False, True]
    assert ranks_in(json.loads((logged / "summary.json").read_text())) == ranks_in(lines[-1])
    board = EventAccumulator(str(logged / "tensorboard"))
    board.Reload()
    assert {tag for tag in board.Tags()["scalars"] if tag.startswith("rank")} == {
        key.replace("_", "/", 1) for key in KEYS
    }
    assert [scalar.step for scalar in board.Scalars("rank/numerical")] == [2, 4]


def test_stages_without_training_log_ranks_too(tmp_path: Path) -> None:
    stages = "stages=[{kind: train, duration: 30it}, {kind: prune, sparsity: 0.95}, {kind: evaluate}]"
    run(tmp_path / "run", stages, "log_rank_every=100ep")
    lines = read_metrics(tmp_path / "run")
    assert [(line["kind"], bool(ranks_in(line))) for line in lines] == [
        ("train", False),
        ("train", True),
        ("prune", True),
        ("evaluate", True),
    ]
    assert lines[2]["rank_numerical"] < lines[1]["rank_numerical"]
    assert ranks_in(lines[3]) == ranks_in(lines[2])


def test_logging_ranks_changes_nothing_else_and_resumes(
    logged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ("method=granet", "sparsity=0.95")
    run(tmp_path / "without", *settings)
    assert checksum(tmp_path / "without") == checksum(logged)
    assert not any(ranks_in(line) for line in read_metrics(tmp_path / "without"))
    with killed_at_step(monkeypatch, 60):
        run(tmp_path / "stopped", *settings, "log_rank_every=2ep")
    run(tmp_path / "stopped", *settings, "log_rank_every=2ep", resume=True)
    assert checksum(tmp_path / "stopped") == checksum(logged)
    timeless = [
        [{key: value for key, value in line.items() if key != "seconds"} for line in read_metrics(folder)]
        for folder in (tmp_path / "stopped", logged)
    ]
    assert timeless[0] == timeless[1]


def test_training_goes_on_where_singular_values_cannot_be_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(matrix: Tensor) -> Tensor:
        raise RuntimeError("no convergence")

    monkeypatch.setattr(torch.linalg, "eigvalsh", failing)
    with pytest.raises(DecompositionError, match="singular values of fc could not be computed: no convergence"):
        rank_rows({"fc": torch.eye(2)})
    with pytest.warns(UserWarning, match="left out of the metrics: the singular values of fc1.weight"):
        run(tmp_path / "run", "duration=3it", "log_rank_every=1ep")
    assert not ranks_in(read_metrics(tmp_path / "run")[-1])


def test_the_interval_is_a_setting_of_the_run_and_its_default_is_none() -> None:
    base, ranked = load_recipe("digits/lenet300"), load_recipe("digits/lenet300", ["log_rank_every=500it"])
    assert base.log_rank_every is None
    assert base.digest() == load_recipe("digits/lenet300", ["log_rank_every=null"]).digest() != ranked.digest()
    assert ranked.resolved()["log_rank_every"] == "500it"
    assert "log_rank_every" not in base.resolved()


@pytest.mark.parametrize(("value", "part"), [("0ep", "longer than zero"), ("2", "500"), ("often", "160ep")])
def test_an_unusable_interval_is_bad_input(value: str, part: str) -> None:
    result = invoke("train", "digits/lenet300", f"log_rank_every={value}")
    assert_one_sentence(result, 2, "log_rank_every", part)
