"""A sweep on a local Ray cluster of two workers, each a raylet with one CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparsewright.cli import app
from sparsewright.sweep import RayWorkers, RunOptions, plan_sweep
from sparsewright.sweep.ray_workers import carry_out
from sparsewright.training import read_metrics

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


def sweep_on(address: str, *arguments: object, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sparsewright", "sweep", *map(str, arguments), "--ray", address]
    return subprocess.Popen(
        command, cwd=cwd, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
def test_the_runs_of_a_sweep_are_shared_among_the_workers(address: str, tmp_path: Path) -> None:
    """Two runs take both workers at once; called again there is nothing to do."""
    # A file of its own, and relative paths: what a task needs must not depend on its current folder.
    (tmp_path / "own.yaml").write_text("extends: digits/lenet300\nduration: 40ep\n")
    with sweep_on(address, "own.yaml", "optimizer.lr=0.1,0.05", "--out", "runs", cwd=tmp_path) as process:
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert output.count("]  running  ") == output.count("]  done  ") == 2
    finished = sorted((tmp_path / "runs").glob("*/summary.json"))
    assert len(finished) == 2
    begun = [(path.parent / "run.json").stat().st_mtime for path in finished]
    ended = [path.stat().st_mtime for path in finished]
    assert max(begun) < min(ended), "each worker has one CPU, so that both must have trained at once"
    assert not (tmp_path / "runs" / ".shared-by-all-machines").exists()

    arguments = ["sweep", str(tmp_path / "own.yaml"), "optimizer.lr=0.05,0.1", "--out", str(tmp_path / "runs")]
    again = CliRunner().invoke(app, [*arguments, "--ray", address])
    assert (again.exit_code, again.stdout.count("done before")) == (0, 2)


@pytest.mark.slow
def test_interrupting_it_stops_the_tasks_and_loses_nothing(address: str, tmp_path: Path) -> None:
    arguments = ("digits/lenet300", "duration=3000ep", "--out", "runs")
    with sweep_on(address, *arguments, cwd=tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "running" in line:
                break
        run = next(path for path in (tmp_path / "runs").iterdir() if path.is_dir())
        end = time.monotonic() + 600
        while not (run / "last.ckpt").exists():
            assert process.poll() is None
            assert time.monotonic() < end, "no epoch ended in ten minutes"
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 130, output
    assert "interrupted" in (run / "train.log").read_text()
    assert len(read_metrics(run)) >= 1


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
