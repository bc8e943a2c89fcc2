"""The command line: help with examples, exit codes with one sentence, and what the commands say of a real run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sparsewright.cli import app
from sparsewright.cli.errors import explain

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
WEIGHTS = 64 * 300 + 300 * 100 + 100 * 10


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def spawn(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sparsewright", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)


def assert_one_sentence(result: Result, code: int, *parts: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for part in parts:
        assert part in lines[0]


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of GraNet on digits, trained through the command."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    result = invoke(
        "train", "digits/lenet300", "method=granet", "sparsity=0.9", "duration=2ep", "--out", out, "--device", "cpu"
    )
    assert result.exit_code == 0, result.output
    assert "90.00 %" in result.stdout
    assert f"sparsewright inspect {out}" in result.stdout
    return out


COMMANDS = [command.name for command in app.registered_commands]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_of_the_command(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    _, _, examples = result.stdout.partition("Examples:")
    assert examples.count(f"\n    sparsewright {command}") >= 2


def test_without_a_command_the_help_is_shown() -> None:
    result = invoke()
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f"\n  {command} " in result.stdout


def test_help_does_not_wait_for_what_only_training_needs() -> None:
    own = "'sparsewright.analysis', 'sparsewright.data', 'sparsewright.training'"
    slow = f"{{'lightning_fabric', 'torchvision', 'rich', {own}}}"
    code = f"""import sys
from sparsewright.cli import app
try:
    app(["train", "--help"])
except SystemExit as end:
    print(end.code, sorted({slow} & sys.modules.keys()))"""
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert "Examples:" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["trian", "digits/lenet300"], ["trian", "train"]),
        (["train"], ["RECIPE", "train --help"]),
        (["train", "digits/lenet30"], ["digits/lenet30", "digits/lenet300"]),
        (["train", "digits/lenet300", "metod=granet"], ["metod", "method"]),
        (["train", "digits/lenet300", "method=granett", "sparsity=0.9"], ["granett", "granet"]),
        (["train", "digits/lenet300", "method=granet", "sparsity=1.5"], ["sparsity"]),
        (["train", "digits/lenet300", "method.name"], ["method.name", "key=value"]),
        (["train", "digits/lenet300", "--device", "tpu"], ["tpu", "cpu", "cuda"]),
        (["train", "digits/lenet300", "--seed", str(2**63)], ["seed", "2**63"]),
        (["train", "digits/lenet300", "extends=mnist/lenet5"], ["extends", "recipe file", "mnist/lenet5"]),
        (["train", "digits/lenet300", "--devices", "0"], ["--devices"]),
        (["list", "model"], ["methods", "models", "datasets", "recipes"]),
        (["inspect", "no/such/run"], ["no/such/run"]),
        (["eval", "no/such/run"], ["no/such/run"]),
        (["log", "no/such/run"], ["no/such/run"]),
        (["demo", "--method", "rigle"], ["rigle", "rigl"]),
        (["demo", "--sparsity", "1"], ["sparsity"]),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    arguments: list[str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_sentence(invoke(*arguments), 2, *parts)
    assert list(tmp_path.iterdir()) == []


def test_absent_data_without_download_is_bad_input(tmp_path: Path) -> None:
    result = invoke(
        "train", "mnist/lenet300", "--out", tmp_path / "run", "--data-dir", tmp_path / "none", "--no-download"
    )
    assert_one_sentence(result, 2, str(tmp_path / "none"))


def test_a_failed_start_leaves_the_users_files(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "tensorboard").mkdir(parents=True)
    for name in ("tensorboard/events", "metrics.jsonl", "run.json", "model.safetensors"):
        (mine / name).write_text(f"my own {name}")
    before = {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()}
    result = invoke("train", "mnist/lenet300", "--no-download", "--data-dir", tmp_path / "none", "--out", mine)
    assert_one_sentence(result, 2, str(mine), "model.safetensors", "metrics.jsonl", "tensorboard", "--out")
    assert {path: path.read_bytes() for path in mine.rglob("*") if path.is_file()} == before


@pytest.mark.filterwarnings("default:duration")
def test_stages_that_keep_their_own_duration_are_told(tmp_path: Path) -> None:
    stages = "stages: [{}, {name: last, duration: 2it}]"
    (tmp_path / "own.yaml").write_text(f"extends: digits/lenet300\n{stages}\n")
    result = invoke("train", tmp_path / "own.yaml", "duration=1it", "--out", tmp_path / "run", "--quiet")
    assert result.exit_code == 0, result.output
    assert "warning: duration=1it does not reach" in result.stderr
    assert "last (2it); set it with stages.1.duration=..." in result.stderr


def test_a_test_loss_that_is_no_number_is_a_failure(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = invoke(
        "train", "digits/lenet300", "duration=1it", "optimizer.lr=1e30", "--out", out, "--device", "cpu", "--quiet"
    )
    assert_one_sentence(result, 1, "training diverged", "test loss", "optimizer.lr", "gradient_clip=1")
    assert not out.exists()


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (OSError(28, "No space left on device", "runs/a/last.ckpt"), 1, "No space left on device: runs/a/last.ckpt"),
        (RuntimeError("training\n  diverged"), 1, "training diverged"),
        (FileNotFoundError(2, "No such file or directory", "data"), 2, "data"),
        (KeyError("surprise"), 1, "--debug"),
        (ModuleNotFoundError("No module named 'pydantic'", name="pydantic"), 2, 'pip install "sparsewright[train]"'),
        (ModuleNotFoundError("No module named 'timm'", name="timm"), 2, 'pip install "sparsewright[timm]"'),
        (EOFError(), 2, "damaged"),
    ],
)
def test_exit_codes_of_errors(error: Exception, code: int, part: str) -> None:
    actual, sentence = explain(error)
    assert actual == code
    assert part in sentence
    assert "\n" not in sentence


def test_debug_prints_the_traceback_and_keeps_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke("inspect", "no/such/run", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ")
    monkeypatch.setenv("SPARSEWRIGHT_DEBUG", "1")
    assert "Traceback" in invoke("inspect", "no/such/run").stderr


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("methods", ["granet", "rigl-itop", "gmp-uniform", "magnitude"]),
        ("models", ["lenet300", "resnet20", "wrn-22-2"]),
        ("datasets", ["digits", "mnist", "cifar100"]),
        ("recipes", ["digits/lenet300", "cifar10/resnet50", "imagenet/resnet50"]),
    ],
)
def test_list_as_table_and_as_json(kind: str, names: list[str]) -> None:
    shown = invoke("list", kind)
    assert shown.exit_code == 0
    records = json.loads(invoke("list", kind, "--json").stdout)
    listed = [record["name"] for record in records]
    first_words = [line.split()[0] for line in shown.stdout.splitlines() if line.strip()]
    for name in names:
        assert name in listed
        assert name in first_words
    assert all(record["summary"] for record in records)


def test_inspect_counts_zeros_and_flops(tiny_run: Path) -> None:
    for target in (tiny_run, tiny_run / "model.safetensors"):
        result = invoke("inspect", target, "--json")
        assert result.exit_code == 0, result.output
        content = json.loads(result.stdout)
        totals = content["totals"]
        assert totals["weights"] == WEIGHTS
        assert totals["nonzero"] <= round(0.1 * WEIGHTS)
        assert totals["flops_dense"] == 2 * WEIGHTS
        assert totals["flops_sparse"] == pytest.approx(2 * totals["nonzero"])
        assert sum(layer["flops_share"] for layer in content["layers"]) == pytest.approx(1)
        assert [layer["shape"] for layer in content["layers"]] == [[300, 64], [100, 300], [10, 100]]
    table = invoke("inspect", tiny_run).stdout
    assert "non-zero" in table.splitlines()[0]
    assert "kept" not in table
    assert "300 x 64" in table
    assert f"{totals['nonzero']:,}" in table.splitlines()[-1]


def test_log_shows_the_last_lines(tiny_run: Path) -> None:
    table = invoke("log", tiny_run).stdout.splitlines()
    assert "test accuracy" in table[0]
    assert len(table) == 2 + 2
    assert len(json.loads(invoke("log", tiny_run, "--last", "1", "--json").stdout)) == 1


def test_log_of_several_runs_names_those_without_an_epoch(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    result = invoke("log", tiny_run, tmp_path, "--json")
    assert [line["run"] for line in json.loads(result.stdout)] == [str(tiny_run)]
    assert str(tmp_path) in result.stderr
    alone = invoke("log", tmp_path)
    assert (alone.exit_code, alone.stdout) == (0, "")
    assert "no epoch" in alone.stderr


def test_log_leaves_out_a_line_that_is_being_written_and_refuses_a_damaged_one(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert json.loads(invoke("log", tmp_path, "--last", "1", "--json").stdout) == [{"run": str(tmp_path), "epoch": 2}]
    metrics.write_text('{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    assert_one_sentence(invoke("log", tmp_path), 2, "line 2", str(metrics))


def test_eval_agrees_with_the_summary(tiny_run: Path) -> None:
    summary = json.loads((tiny_run / "summary.json").read_text())
    for target in (tiny_run, tiny_run / "model.safetensors"):
        result = json.loads(invoke("eval", target, "--device", "cpu", "--json").stdout)
        assert result["accuracy"] == pytest.approx(summary["test_accuracy"])
        assert result["loss"] == pytest.approx(summary["test_loss"], rel=1e-4)
        assert 0.9 <= result["sparsity"] < 0.95
    shown = invoke("eval", tiny_run, "--device", "cpu").stdout
    assert f"{summary['test_accuracy']:.2f} %" in shown
    assert f"{100 * result['sparsity']:.2f} %" in shown


def test_eval_takes_the_precision_of_the_training_unless_told(tiny_run: Path) -> None:
    def precision(*arguments: object) -> str:
        return json.loads(invoke("eval", tiny_run, "--device", "cpu", "--json", *arguments).stdout)["precision"]

    assert (precision(), precision("--precision", "bf16")) == ("32", "bf16")


def test_a_damaged_model_file_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    for name in ("recipe.yaml", "model.safetensors", "summary.json"):
        content = (tiny_run / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2] if name == "model.safetensors" else content)
    assert_one_sentence(invoke("inspect", tmp_path), 2, "model.safetensors")


def test_another_recipe_in_the_run_folder_is_refused(tiny_run: Path) -> None:
    before = (tiny_run / "model.safetensors").read_bytes()
    result = invoke("train", "digits/lenet300", "method=set", "sparsity=0.9", "--out", tiny_run, "--resume")
    assert_one_sentence(result, 2, str(tiny_run))
    assert (tiny_run / "model.safetensors").read_bytes() == before


def test_real_process_prints_sentences_to_standard_error() -> None:
    done = spawn("train", "digits/lenet300", "sparsty=0.9")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_without_typer_the_extra_is_named() -> None:
    code = "import sys; sys.modules['typer'] = None; from sparsewright.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert 'pip install "sparsewright[train]"' in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_interrupted_training_says_how_to_continue(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "sparsewright", "train", "digits/lenet300", "duration=5000ep", "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--device", "cpu"], env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 300
        while not (out / "last.ckpt").is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "--resume" in stderr.strip().splitlines()[-1]
    assert "Traceback" not in stderr
