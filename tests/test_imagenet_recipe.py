"""The ImageNet recipe on a real image folder, for a few iterations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparsewright.training import load_recipe, read_metrics, train

OVERRIDES = [
    "data.name=imagefolder:imagenette",
    "data.image_size=32",
    "data.batch_size=16",
    "data.workers=0",
    "duration=4it",
    "method=granet",
    "method.update_interval=1",
    "sparsity=0.8",
]


@pytest.mark.slow
def test_the_imagenet_recipe_trains_on_an_image_folder(tmp_path: Path, shared_data: Path) -> None:
    torch.set_num_threads(1)
    recipe = load_recipe("imagenet/resnet50", OVERRIDES)
    summary = train(recipe, out=tmp_path / "run", data_dir=shared_data, device="cpu", quiet=True)
    assert summary["steps"] == 4
    assert summary["sparsity"] == pytest.approx(0.8, abs=1e-6)
    assert summary["parameters"] == 23_528_522
    assert summary["layers"]["conv1.weight"]["shape"] == [64, 3, 7, 7]
    assert 0 < read_metrics(tmp_path / "run")[-1]["lr"] < 0.1
