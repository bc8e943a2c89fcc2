"""The demonstration on a reduced list: real runs, a truthful table, and no earlier run touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparsewright import demo
from sparsewright.cli import app


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "COMMON", ("duration=4ep",))


@pytest.mark.usefixtures("short")
def test_demo_trains_compares_and_says_what_is_next(tmp_path: Path) -> None:
    arguments = ["demo", "--method", "granet", "--method", "set", "--method", "magnitude", "--sparsity", "0.9"]
    out = tmp_path / "demo"
    result = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    folders = [path for path in out.iterdir() if path.is_dir()]
    assert sorted(path.name for path in folders) == ["dense", "granet-0.9", "magnitude-0.9", "set-0.9"]
    for folder in folders:
        assert (folder / "report.html").is_file()
        summary = json.loads((folder / "summary.json").read_text())
        assert (folder / "model.safetensors").is_file()
        (row,) = (line for line in result.stdout.splitlines() if line.split()[:1] == [folder.name.removesuffix("-0.9")])
        assert f"{summary['test_accuracy']:.2f} %" in row
        assert ("0.00 %" if folder.name == "dense" else "90.00 %") in row
    assert "one seed" in result.stdout
    assert f"all runs beside each other: {out / 'comparison.html'}" in result.stdout
    assert (out / "comparison.html").is_file()
    assert f"The runs are in {out}" in result.stdout
    assert "sparsewright inspect" in result.stdout


@pytest.mark.usefixtures("short")
def test_an_earlier_demo_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    out.mkdir()
    (out / "kept").write_text("as it was")
    result = CliRunner().invoke(app, ["demo", "--method", "static", "--sparsity", "0.5", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert [path.name for path in out.iterdir()] == ["kept"]
    assert sorted(path.name for path in (tmp_path / "demo-2").iterdir()) == ["comparison.html", "dense", "static-0.5"]
    assert "demo-2" in result.stdout.splitlines()[0]


def test_every_registered_method_is_shown() -> None:
    import sparsewright

    names = {stage.method.name for run in demo.plan() for stage in run.recipe.resolved_stages()}
    assert names == {info.name for info in sparsewright.list_methods()} | {"dense"}
    assert {run.sparsity for run in demo.plan()} == {None, 0.9, 0.98}
