"""A sweep on a local Ray cluster of two workers, each a raylet with one CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result
from waiting import interrupted_when, interrupts

from sparsewright.cli import app
from sparsewright.sweep import RayWorkers, RunOptions, plan_sweep
from sparsewright.sweep.ray_workers import carry_out
from sparsewright.training import read_metrics
from sparsewright.training.folder import CHECKPOINT, LOG, SUMMARY

pytest.importorskip("ray")

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT / "src"),
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Generator[str, None, None]:
    """Of the cluster; it runs in a process of its own, which ends it when its input ends."""
    noise = tmp_path_factory.mktemp("ray") / "cluster.log"
    with (
        noise.open("w") as stream,
        subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            text=True,
        ) as cluster,
    ):
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        found = next((line.strip() for line in cluster.stdout if line.strip().rpartition(":")[2].isdigit()), None)
        assert found is not None, noise.read_text()
        yield found
        cluster.stdin.close()


@interrupts
@pytest.mark.slow
def test_the_runs_of_a_sweep_are_shared_among_the_workers_and_stopped_with_it(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of three runs ends; the other two never would, and train at once until the sweep is interrupted."""
    # A file of its own, and relative paths: what a task needs must not depend on its current folder.
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("extends: digits/lenet300\n")
    grid = ["duration=1ep,30000ep,40000ep", "--out", "runs"]
    short, *endless = plan_sweep("own.yaml", grid[:1], Path("runs")).cells
    # Each worker has one CPU: two runs that have begun and do not end are on both.
    with interrupted_when(lambda: all((cell.folder / CHECKPOINT).is_file() for cell in endless), seconds=600):
        result = sweep_on(address, *grid)
    assert result.exit_code == 130, result.output
    assert result.stdout.count("]  running  ") == 3
    assert result.stdout.count("]  done  duration=1ep") == 1
    assert (short.folder / SUMMARY).is_file()
    for cell in endless:
        assert "interrupted" in (cell.folder / LOG).read_text()
        assert len(read_metrics(cell.folder)) >= 1
    assert not Path("runs", ".shared-by-all-machines").exists()

    again = sweep_on(address, "duration=1ep", "--out", "runs")
    assert (again.exit_code, again.stdout.count("done before")) == (0, 1)


def sweep_on(address: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["sweep", "own.yaml", *arguments, "--ray", address])


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path: Path) -> None:
    problem = carry_out([], tmp_path / "out" / "run", 1, tmp_path / "out" / "token")
    assert problem is not None
    assert f"does not see {tmp_path / 'out'}" in problem
    assert not (tmp_path / "out").exists()


def test_without_a_cluster_at_the_address_the_error_names_it(tmp_path: Path) -> None:
    sweep = plan_sweep("digits/lenet300", ["duration=1ep"], tmp_path / "runs")
    with pytest.raises(ConnectionError, match="no Ray cluster can be used at nowhere: "):
        RayWorkers(sweep, RunOptions(), "nowhere")
    assert list((tmp_path / "runs").iterdir()) == []
