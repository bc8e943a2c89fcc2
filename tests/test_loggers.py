"""TensorBoard, Weights & Biases and nothing, behind one option."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsewright.training import SaveError, load_recipe, train
from sparsewright.training.loggers import RunFacts, opened_logger

RECIPE = ["duration=2ep", "method=static", "sparsity=0.9"]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def test_tensorboard_is_the_default(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(load_recipe("digits/lenet300", RECIPE), out=tmp_path / "run", quiet=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    told = [event.value for event in events.Scalars("test/accuracy")]
    assert told == pytest.approx([line["test_accuracy"] for line in metrics])
    assert not (tmp_path / "run" / "wandb").exists()


def test_no_logger_leaves_metrics_alone(tmp_path: Path) -> None:
    train(load_recipe("digits/lenet300", RECIPE), out=tmp_path / "run", logger="none", quiet=True)
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_weights_and_biases_gets_every_epoch_of_a_run_and_of_its_rest_in_one(tmp_path: Path) -> None:
    recipe = load_recipe("digits/lenet300", RECIPE)
    folder = tmp_path / "run"
    train(recipe, out=folder, logger="wandb", quiet=True)
    known = json.loads((folder / "wandb" / "run.json").read_text())["id"]
    (folder / "summary.json").unlink()
    train(recipe, out=folder, logger="wandb", resume=True, quiet=True)
    files = sorted(folder.rglob("*.wandb"))
    assert len(files) == 2
    assert all(file.stem == f"run-{known}" for file in files)
    told = _history(files[0])
    told = [line for line in told if "epoch" in line]
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in told] == [1, 2]
    assert [line["test/accuracy"] for line in told] == pytest.approx([line["test_accuracy"] for line in metrics])
    assert not (folder / "tensorboard").exists()


def test_an_unknown_logger_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="logger must be one of 'tensorboard', 'wandb', 'none', got 'wandbb'"):
        train(load_recipe("digits/lenet300", RECIPE), out=tmp_path / "run", logger="wandbb", quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_logger_is_closed_if_the_first_file_of_a_run_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    class Fake:
        def close(self, *, failed: bool) -> None:
            closed.append(failed)

    def refuse(*_: object) -> None:
        raise SaveError("the disk is full")

    monkeypatch.setattr("sparsewright.training.loggers._open", lambda *_: Fake())
    monkeypatch.setattr("sparsewright.training.logging.write_text", refuse)
    with pytest.raises(SaveError, match="the disk is full"):
        train(load_recipe("digits/lenet300", RECIPE), out=tmp_path / "run", quiet=True)
    assert closed == [True]


def test_a_damaged_name_of_a_run_of_weights_and_biases_is_an_error_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "wandb" / "run.json"
    file.parent.mkdir()
    file.write_text("{")
    with (
        pytest.raises(ValueError, match=r"wandb/run\.json is damaged; delete it"),
        opened_logger("wandb", RunFacts(tmp_path, "run", {})),
    ):
        pass


def _history(file: Path) -> list[dict]:
    """What an offline run has logged, read back from its file."""
    from wandb.proto.wandb_internal_pb2 import Record

    lines = []
    for data in _records(file.read_bytes()):
        record = Record.FromString(data)
        if record.HasField("history"):
            items = record.history.item
            lines.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    return lines


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format, behind a header of 7 bytes: blocks of 32 KiB of checked pieces."""
    position, whole = 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        whole += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""
