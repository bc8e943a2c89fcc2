"""The kernels' build: what it makes, and what is left without a compiler."""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import sparsewright as sw
from sparsewright.runtime import building, library
from sparsewright.runtime.building import BuildError, build_kernels, main


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """As in an installation that found no compiler."""
    monkeypatch.delenv(library.ENVIRONMENT, raising=False)
    monkeypatch.setattr(library, "_FOLDER", tmp_path)
    library._load.cache_clear()
    yield
    library._load.cache_clear()


@pytest.mark.skipif(not any(map(shutil.which, building.COMPILERS)), reason="there is no C++ compiler")
def test_the_build_makes_libraries_of_this_version(tmp_path: Path) -> None:
    built = build_kernels(tmp_path)
    assert {file.stem for file in built} >= {"portable"}
    assert sorted(tmp_path.iterdir()) == sorted(built)
    for file in built:
        assert ctypes.CDLL(str(file)).sparsewright_version() == library.VERSION


def test_without_a_compiler_the_build_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match=r"no C\+\+ compiler \(no-such-compiler\); set CXX"):
        build_kernels(tmp_path)
    assert main() == 1
    assert "no-such-compiler" in capsys.readouterr().err


def test_a_compiler_that_fails_leaves_what_was_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "portable.so").write_text("former")
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(BuildError, match="false failed for portable"):
        build_kernels(tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("portable.so", "former")]


def test_without_kernels_torch_runs_the_network_and_the_summary_says_so(no_kernels: None) -> None:
    assert library.available() == []
    assert library.kernels() is None
    model = nn.Sequential(nn.Linear(2000, 2000), nn.ReLU(), nn.Linear(2000, 10)).eval()
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(2000, 2000) < 0.01)
    value = torch.randn(1, 2000)
    fast = sw.compile_sparse(model, value, threads=1)
    with torch.no_grad():
        assert torch.allclose(fast(value), model(value), rtol=1e-4, atol=1e-5)
    made = fast.compilation
    assert made.engine in ("torch", "dense")
    assert made.reason in fast.summary()


def test_libraries_of_another_version_are_left_alone(no_kernels: None, tmp_path: Path) -> None:
    (tmp_path / "portable.so").write_text("not a library")
    assert library.available() == []
