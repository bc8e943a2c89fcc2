"""Networks by name with published checkpoints: what is read, what does not fit, how image folders are prepared."""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from sparsewright.cli import app
from sparsewright.data.evaluation import EvaluationImages, open_evaluation
from sparsewright.models import create_model
from sparsewright.training.published_weights import find_state, read_published
from sparsewright.training.scoring import batch_sums
from sparsewright.training.weight_match import fill_matched, match_weights, names_of_nonfinite

# In the order of their synset ids, as the outputs of every network trained on ImageNet are.
IMAGENETTE = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
NAMES = ("ant", "bee", "cat", "dog", "elk", "fox")
SIZE = 32


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["eval", *map(str, arguments), "--device", "cpu"])
    assert result.exit_code == code, result.output
    if code == 0:
        return result.stdout
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0].removeprefix("error: ")


def mlp(outputs: int = len(NAMES)) -> nn.Module:
    return create_model("mlp:8", num_classes=outputs, in_channels=3, image_size=SIZE, seed=5)


def wrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six classes of three images of different shapes each, as DIR/val/CLASS."""
    folder = tmp_path_factory.mktemp("images") / "animals"
    generator = np.random.default_rng(0)
    for label, name in enumerate(NAMES):
        (folder / "val" / name).mkdir(parents=True)
        for number in range(3):
            pixels = generator.integers(0, 60, (40 + 9 * number, 70 - 11 * number, 3)) + 30 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "val" / name / f"{number}.png")
    return folder


@pytest.fixture
def evaluate(animals: Path) -> Callable[..., dict[str, Any]]:
    def command(*arguments: object) -> dict[str, Any]:
        common = ("--data", f"imagefolder:{animals}", "--image-size", SIZE, "--workers", 0, "--json")
        return json.loads(run("--model", "mlp:8", *common, *arguments))

    return command


def expected(model: nn.Module, animals: Path) -> tuple[float, float, float]:
    """Top-1, top-5 and loss by torchvision's own transform, one image at a time."""
    from torchvision.transforms._presets import ImageClassification

    transform = ImageClassification(crop_size=SIZE, resize_size=round(SIZE * 8 / 7))
    files = sorted((animals / "val").glob("*/*.png"))
    images = [transform(Image.open(file).convert("RGB")) for file in files]
    labels = torch.tensor([NAMES.index(file.parent.name) for file in files])
    with torch.no_grad():
        logits = model.eval()(torch.stack(images))
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    loss = float(F.cross_entropy(logits, labels))
    return 100 * float((ranks < 1).float().mean()), 100 * float((ranks < 5).float().mean()), loss


LAYOUTS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "plain": dict,
    "state_dict": lambda state: {
        "epoch": 90,
        "arch": "mlp",
        "best_acc1": np.float64(76.1),
        "state_dict": wrapped(state),
    },
    "model": lambda state: {"model": state, "optimizer": {"state": {}}, "args": argparse.Namespace(lr=0.1)},
    "module": lambda state: {f"module.{name}": tensor.half().float() for name, tensor in state.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_give_the_accuracy_of_torchvisions_own_preparation(
    layout: str, tmp_path: Path, animals: Path, evaluate: Callable[..., dict[str, Any]]
) -> None:
    model = mlp()
    if layout == "module":
        model = model.half().float()
    file = tmp_path / "published.pth.tar"
    torch.save(LAYOUTS[layout](model.state_dict()), file)
    result = evaluate("--weights", file)
    accuracy, top5, loss = expected(model, animals)
    assert result["accuracy"] == pytest.approx(accuracy)
    assert result["top5_accuracy"] == pytest.approx(top5)
    assert result["loss"] == pytest.approx(loss, rel=1e-5)
    assert result["images"] == 18
    assert result["checkpoint"]["key"] == (layout if layout in ("state_dict", "model") else None)
    assert (result["checkpoint"]["matched"], result["checkpoint"]["mismatch"]) == (len(model.state_dict()), "")


@pytest.mark.parametrize("suffix", [".safetensors", ".hdf5", ".ckpt"])
def test_other_files_and_the_batch_size_change_nothing(
    suffix: str, tmp_path: Path, evaluate: Callable[..., dict[str, Any]]
) -> None:
    state, file = mlp().state_dict(), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(wrapped(state), file)
    elif suffix == ".hdf5":
        from sparsewright.export import save_hdf5

        save_hdf5(file, state)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=False)
    torch.save(state, tmp_path / "plain.pt")
    results = [evaluate("--weights", path, "--batch-size", 7) for path in (file, tmp_path / "plain.pt")]
    assert results[0]["loss"] == results[1]["loss"] == pytest.approx(evaluate("--weights", file)["loss"])


def test_sparsity_and_flops_are_counted_in_the_weights(
    tmp_path: Path, animals: Path, evaluate: Callable[..., dict[str, Any]]
) -> None:
    model = mlp()
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for weight in weights:
            weight[:, ::2] = 0
    torch.save(model.state_dict(), tmp_path / "half.pt")
    result = evaluate("--weights", tmp_path / "half.pt")
    assert result["sparsity"] == 0.5
    assert result["weights"] == sum(weight.numel() for weight in weights)
    assert result["flops_dense"] == 2 * result["flops_sparse"] == 2 * result["weights"]
    shown = run(
        *("--model", "mlp:8", "--weights", tmp_path / "half.pt", "--data", f"imagefolder:{animals / 'val'}"),
        *("--image-size", SIZE, "--workers", 0),
    )
    assert f"{result['accuracy']:.2f} %" in shown
    assert "50.00 % of the layers' weights" in shown
    assert "images/s" in shown
    assert "random" not in shown


def test_without_weights_they_are_random_and_the_output_says_so(evaluate: Callable[..., dict[str, Any]]) -> None:
    shown = run("--model", "lenet300", "--data", "digits", "--limit", 50)
    assert "random" in shown
    assert "50 test images of digits" in shown
    first, second = (evaluate() for _ in range(2))
    assert first["checkpoint"] is None
    assert first["loss"] == second["loss"]


def damaged(state: dict[str, Tensor], change: str) -> dict[str, Tensor]:
    name = next(iter(state))
    if change == "missing":
        return {key: value for key, value in state.items() if key != name}
    if change == "unexpected":
        return state | {"mask.weight": torch.ones(3)}
    if change == "type":
        return state | {name: (100 * state[name]).to(torch.int8)}
    return state | {name: torch.zeros(2, 2)}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("missing", "1 missing: "),
        ("unexpected", "1 unexpected: mask.weight"),
        ("shape", "1 of another shape: "),
        ("type", "1 of another type: fc1.weight int8 for float32"),
    ],
)
def test_what_does_not_fit_is_an_error_and_with_partial_a_report(
    change: str, part: str, tmp_path: Path, animals: Path, evaluate: Callable[..., dict[str, Any]]
) -> None:
    file = tmp_path / "other.pt"
    torch.save(damaged(mlp().state_dict(), change), file)
    arguments = ("--model", "mlp:8", "--weights", file, "--data", f"imagefolder:{animals}", "--image-size", SIZE)
    sentence = run(*arguments, code=2)
    assert part in sentence
    assert "--partial" in sentence
    assert part in run(*arguments, "--partial", "--workers", 0)
    checkpoint = evaluate("--weights", file, "--partial")["checkpoint"]
    assert sum(len(checkpoint[kind]) for kind in ("missing", "unexpected", "misshapen", "mistyped")) == 1


def test_weights_that_fit_nowhere_are_refused_even_with_partial(tmp_path: Path, animals: Path) -> None:
    torch.save({"a.weight": torch.ones(3)}, tmp_path / "other.pt")
    common = ("--model", "mlp:8", "--weights", tmp_path / "other.pt", "--data", f"imagefolder:{animals}")
    assert "nothing in" in run(*common, "--partial", code=2)


FITTING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
TYPES: dict[str, Callable[[Tensor], Tensor]] = {
    "int8": lambda weight: (100 * weight).to(torch.int8),
    "bool": lambda weight: weight != 0,
    "complex64": lambda weight: weight.to(torch.complex64),
    "sparse_coo": lambda weight: weight.to_sparse(),
    "sparse_csr": lambda weight: weight.to_sparse_csr(),
    "meta": lambda weight: weight.to("meta"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("kind", TYPES)
def test_weights_of_another_type_do_not_fit(kind: str, tmp_path: Path, animals: Path) -> None:
    file, state = tmp_path / "other.pt", mlp().state_dict()
    changed = {name: TYPES[kind](value) if value.dim() == 2 else value for name, value in state.items()}
    torch.save(changed, file)
    common = ("--model", "mlp:8", "--weights", file, "--data", f"imagefolder:{animals}", "--image-size", SIZE)
    assert f"2 of another type: fc1.weight {kind} for float32, fc2.weight" in run(*common, code=2)
    torch.save({name: value for name, value in changed.items() if value.dim() == 2}, file)
    sentence = run(*common, "--partial", code=2)
    assert "nothing in" in sentence
    assert f"{kind} for float32" in sentence


@pytest.mark.parametrize("dtype", FITTING)
def test_floating_point_weights_of_any_width_fit(dtype: torch.dtype) -> None:
    model = create_model("resnet20", num_classes=10, seed=0)
    # Averaged checkpoints have a fractional count of batches.
    tensors = {name: value.to(dtype) for name, value in model.state_dict().items()}
    match = match_weights(model, tensors)
    assert match.complete
    assert len(match.matched) == len(tensors)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_weights_that_are_not_finite_are_refused_even_with_partial(tmp_path: Path, animals: Path, value: float) -> None:
    file, state = tmp_path / "diverged.pt", mlp().state_dict()
    changed = state["fc2.weight"].double()
    changed[1, 2] = value
    torch.save(state | {"fc2.weight": changed}, file)
    common = ("--model", "mlp:8", "--weights", file, "--data", f"imagefolder:{animals}", "--image-size", SIZE)
    for arguments in (common, (*common, "--partial")):
        sentence = run(*arguments, code=2)
        assert f"{file} has NaN or infinite values in 1 of 4 tensors" in sentence
        assert sentence.endswith(": fc2.weight")


def test_outputs_that_overflow_are_refused(tmp_path: Path, animals: Path) -> None:
    state = {name: torch.full_like(value, 1e30) for name, value in mlp().state_dict().items()}
    torch.save(state, tmp_path / "huge.pt")
    common = ("--model", "mlp:8", "--weights", tmp_path / "huge.pt", "--data", f"imagefolder:{animals}")
    assert "the loss comes to nan" in run(*common, "--image-size", SIZE, "--workers", 0, code=2)


def test_tensors_that_are_not_finite_are_named_in_their_order() -> None:
    values = {"b": [1.0, math.nan], "c": [1.0, 2.0], "d": [1, 2], "a": [-math.inf]}
    tensors = {name: torch.tensor(value) for name, value in values.items()}
    assert names_of_nonfinite(tensors) == ["b", "a"]


def test_counts_of_batches_that_old_checkpoints_lack_are_not_missed() -> None:
    model = create_model("resnet20", num_classes=10, seed=0)
    other = create_model("resnet20", num_classes=10, seed=1)
    tensors = {name: value for name, value in other.state_dict().items() if not name.endswith("num_batches_tracked")}
    match = match_weights(model, tensors)
    assert match.complete
    assert len(match.matched) == len(tensors)
    fill_matched(model, tensors, match)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in tensors.items())


@given(st.data())
def test_every_name_is_in_exactly_one_group(draw: st.DataObject) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    names = [*model.state_dict(), "extra.weight", "extra.bias"]
    shapes = draw.draw(st.dictionaries(st.sampled_from(names), st.sampled_from([(4, 3), (4,), (2, 4), (2,), ()])))
    match = match_weights(model, {name: torch.ones(shape) for name, shape in shapes.items()})
    state = model.state_dict()
    assert set(match.matched) == {name for name in shapes if name in state and state[name].shape == shapes[name]}
    assert set(match.matched) | match.misshapen.keys() == shapes.keys() & state.keys()
    assert not set(match.matched) & match.misshapen.keys()
    assert set(match.unexpected) == shapes.keys() - state.keys()
    assert set(match.missing) == state.keys() - shapes.keys()


class Foreign:
    """Something that only a full unpickling brings back."""


@pytest.mark.parametrize("new_format", [True, False])
def test_files_that_need_unpickling_of_other_things_are_refused(tmp_path: Path, new_format: bool) -> None:
    file = tmp_path / "pickled.pt"
    content = {"state_dict": mlp().state_dict(), "logger": Foreign()}
    torch.save(content, file, _use_new_zipfile_serialization=new_format)
    sentence = run("--model", "mlp:8", "--weights", file, "--data", "digits", code=2)
    assert "Foreign" in sentence
    assert "weights_only=False" in sentence


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "picture"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_refused(tmp_path: Path, kind: str, suffix: str) -> None:
    file = tmp_path / f"weights{suffix}"
    torch.save(mlp().state_dict(), file)
    content = {"cut": file.read_bytes()[:999], "empty": b"", "text": b"Not Found", "picture": b"\x89PNG\r\n\x1a\n" * 9}
    file.write_bytes(content[kind])
    with pytest.raises(ValueError, match=f"weights{suffix} is damaged"):
        read_published(file)


def sweep(content: bytes) -> Iterator[bytes]:
    """``content`` cut off, and with a flipped bit, at many places of its first part, where the pickled structure is."""
    for place in range(min(len(content), 400)):
        yield content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        if place % 4 == 0:
            yield content[:place]


def refusal(file: Path) -> str:
    try:
        read_published(file)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("foreign", [False, True])
@pytest.mark.parametrize("new_format", [False, True])
def test_damage_anywhere_is_told_with_the_name_of_the_file(tmp_path: Path, new_format: bool, foreign: bool) -> None:
    file, stream = tmp_path / "weights.pt", io.BytesIO()
    state = {"fc.weight": torch.ones(2)}
    content = {"state_dict": state, "logger": Foreign()} if foreign else state
    torch.save(content, stream, _use_new_zipfile_serialization=new_format)
    sentences = []
    for damaged_content in sweep(stream.getvalue()):
        file.write_bytes(damaged_content)
        sentences.append(refusal(file))
    refused = [sentence for sentence in sentences if sentence]
    assert len(refused) > 200
    assert all(sentence.startswith(f"{file} ") and "()" not in sentence for sentence in refused)


def test_a_cut_checkpoint_of_the_old_format_is_bad_input(tmp_path: Path) -> None:
    file, stream = tmp_path / "weights.pt", io.BytesIO()
    torch.save(mlp().state_dict(), stream, _use_new_zipfile_serialization=False)
    content = stream.getvalue()
    # Within the sizes that stand before the numbers, which torch takes with struct.unpack.
    file.write_bytes(content[: content.index(b"\x80\x02]") + 60])
    sentence = run("--model", "mlp:8", "--weights", file, "--data", "digits", code=2)
    assert sentence == f"{file} is damaged, or no checkpoint that torch.save wrote"


@pytest.mark.parametrize("content", [{"epoch": 3}, {"state_dict": {}}, {}, [1, 2], torch.ones(3), {"model": "resnet"}])
def test_files_without_weights_say_what_they_hold(content: object) -> None:
    with pytest.raises(ValueError, match=r"holds no (weights|mapping)"):
        find_state(Path("file.pt"), content)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["RUN_OR_FILE", "--model", "--data"]),
        (["--model", "lenet300"], ["--model alone", "--data"]),
        (["--data", "digits"], ["--data alone", "--model"]),
        (["--weights", "w.pt", "--batch-size", 3], ["--weights, --batch-size alone"]),
        (["runs/a", "--model", "lenet300"], ["--model", "run"]),
        (["runs/a", "--limit", 3, "--partial"], ["--partial, --limit", "run"]),
        (["--model", "lenet30", "--data", "digits"], ["lenet30", "lenet300"]),
        (["--model", "lenet300", "--data", "digit"], ["'digit'", "'digits'"]),
        (["--model", "lenet300", "--data", "digits", "--weights", "no/file.pt"], ["no/file.pt"]),
        (["--model", "lenet300", "--data", "digits", "--classes", "imagenet"], ["classes", "digits"]),
        (["--model", "lenet300", "--data", "imagefolder:no/folder"], ["no/folder", "--data-dir"]),
        (
            ["--model", "torchvision:resnet18@DEFAULT", "--data", "digits", "--weights", "CHECKPOINT"],
            ["DEFAULT", "w.pt"],
        ),
        (["--model", "torchvision:resnet18@DEFAULT", "--data", "imagefolder:ANIMALS"], ["1000 classes", "has 6"]),
        (["--model", "timm:resnet18@pretrained", "--data", "imagefolder:ANIMALS"], ["1000 classes", "has 6"]),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[object], parts: list[str], tmp_path: Path, animals: Path) -> None:
    torch.save(mlp().state_dict(), tmp_path / "w.pt")
    places = {"ANIMALS": str(animals), "CHECKPOINT": str(tmp_path / "w.pt")}
    filled = [str(argument) for argument in arguments]
    for word, place in places.items():
        filled = [argument.replace(word, place) for argument in filled]
    sentence = run(*filled, code=2)
    for part in parts:
        assert part in sentence


def test_another_number_of_classes_is_named_and_the_classes_can_be_told(tmp_path: Path, animals: Path) -> None:
    model = mlp(outputs=9)
    torch.save(model.state_dict(), tmp_path / "nine.pt")
    common = ("--model", "mlp:8", "--weights", tmp_path / "nine.pt", "--data", f"imagefolder:{animals}")
    common += ("--image-size", SIZE, "--workers", 0, "--json")
    sentence = run(*common, code=2)
    assert "9 classes" in sentence
    assert "has 6" in sentence
    names = tmp_path / "names.txt"
    names.write_text("\n".join(["zebra", *reversed(NAMES), "yak", "wolf"]) + "\n")
    result = json.loads(run(*common, "--classes", names))
    images = open_images(animals, classes=str(names))
    assert result["num_classes"] == images.num_classes == 9
    labels = torch.cat([labels for _, labels in images.batches()])
    assert labels.tolist() == [output for output in (6, 5, 4, 3, 2, 1) for _ in range(3)]
    for text, part in (("ant\nbee", "cat, dog, elk, fox"), ("ant\nant", "more than once: ant"), ("\n", "no class")):
        names.write_text(text)
        assert part in run(*common, "--classes", names, code=2)


def open_images(animals: Path, **options: Any) -> EvaluationImages:
    given = {"batch_size": 4, "workers": 0, "image_size": SIZE, **options}
    return open_evaluation(f"imagefolder:{animals}", data_dir=Path(), device=torch.device("cpu"), **given)


@pytest.mark.parametrize(("limit", "labels"), [(6, [0, 1, 2, 3, 4, 5]), (2, [0, 3]), (99, [n // 3 for n in range(18)])])
def test_a_limit_is_spread_over_the_classes_of_a_folder(animals: Path, limit: int, labels: list[int]) -> None:
    images = open_images(animals, limit=limit)
    assert torch.cat([batch for _, batch in images.batches()]).tolist() == labels
    assert images.samples == len(labels)


@pytest.mark.parametrize("limit", [1, 7, 10, 360, 9999])
def test_a_limit_of_a_data_set_takes_its_first_images(limit: int) -> None:
    def opened(limit: int | None) -> EvaluationImages:
        return open_evaluation("digits", data_dir=Path(), batch_size=10, device=torch.device("cpu"), limit=limit)

    whole = torch.cat([labels for _, labels in opened(None).batches()])
    assert torch.equal(torch.cat([labels for _, labels in opened(limit).batches()]), whole[:limit])


def test_images_are_prepared_as_imagenets_evaluation_does(tmp_path: Path) -> None:
    from torchvision.transforms._presets import ImageClassification

    generator = np.random.default_rng(1)
    for number, (height, width) in enumerate([(300, 400), (500, 310), (200, 180)]):
        (tmp_path / "pictures" / f"{number}").mkdir(parents=True)
        pixels = generator.integers(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}" / "one.png")
    images = open_images(tmp_path / "pictures", image_size=None)
    prepared = torch.cat([batch for batch, _ in images.batches()])
    transform = ImageClassification(crop_size=224, resize_size=256)
    wanted = [transform(Image.open(file)) for file in sorted((tmp_path / "pictures").glob("*/one.png"))]
    torch.testing.assert_close(prepared, torch.stack(wanted), atol=1e-5, rtol=0)


def test_a_folder_with_training_images_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "part" / "train" / "ant").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="no val"):
        open_images(tmp_path / "part")


@given(st.integers(1, 20), st.integers(2, 12), st.integers(0, 2**32))
def test_sums_of_a_batch_against_sorting(images: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, generator=generator)
    labels = torch.randint(0, classes, (images,), generator=generator)
    order = logits.argsort(dim=1, descending=True)
    hits = [sum(int(label) in row[:top].tolist() for row, label in zip(order, labels, strict=True)) for top in (1, 5)]
    loss, *counted = batch_sums(logits, labels).tolist()
    assert counted == hits
    assert loss == pytest.approx(float(F.cross_entropy(logits.double(), labels, reduction="sum")), rel=1e-5)


def test_real_photographs_with_the_outputs_of_imagenet(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("timm")
    model = create_model("torchvision:resnet18", num_classes=1000, image_size=224, seed=1)
    # Makes the last layer answer "parachute" (701) first and "church" (497) second, whatever it sees.
    with torch.no_grad():
        model.get_parameter("fc.weight").zero_()
        model.get_parameter("fc.bias")[[701, 497]] = torch.tensor([20.0, 10.0])
    torch.save({"state_dict": wrapped(model.state_dict())}, tmp_path / "published.pth.tar")
    common = ("--model", "torchvision:resnet18", "--weights", tmp_path / "published.pth.tar", "--limit", 10)
    common += ("--data", "imagefolder:imagenette", "--data-dir", shared_data, "--workers", 0)
    result = json.loads(run(*common, "--classes", "imagenet", "--json"))
    assert (result["images"], result["num_classes"]) == (10, 1000)
    assert result["accuracy"] == 10
    assert result["top5_accuracy"] >= 20
    assert result["parameters"] == 11_689_512
    images = open_evaluation(
        "imagefolder:imagenette/val",
        data_dir=shared_data,
        batch_size=10,
        device=torch.device("cpu"),
        classes="imagenet",
        limit=10,
        workers=0,
    )
    assert next(images.batches())[1].tolist() == IMAGENETTE
    sentence = run(*common, code=2)
    assert "1000 classes" in sentence
    assert "has 10" in sentence


def test_the_docs_name_every_key_of_the_result_and_every_option(evaluate: Callable[..., dict[str, Any]]) -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "eval.md").read_text(encoding="utf-8")
    echoed = {"model", "data", "device", "precision"}
    assert not [key for key in evaluate().keys() - echoed if f"`{key}`" not in text]
    for option in ("weights", "classes", "partial", "limit", "image-size", "workers", "batch-size", "json"):
        assert f"`--{option}" in text


def test_the_last_checkpoint_of_a_run_is_read(tmp_path: Path) -> None:
    arguments = [
        "train",
        "digits/lenet300",
        "duration=1ep",
        "--out",
        str(tmp_path / "run"),
        "--device",
        "cpu",
        "--quiet",
    ]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    common = ("--model", "lenet300", "--data", "digits", "--json", "--weights")
    for file in ("last.ckpt", "model.safetensors"):
        result = json.loads(run(*common, tmp_path / "run" / file))
        assert result["accuracy"] == pytest.approx(summary["test_accuracy"])
        assert result["loss"] == pytest.approx(summary["test_loss"], rel=1e-4)


def test_a_folder_above_the_class_folders_is_refused(animals: Path, tmp_path: Path) -> None:
    (tmp_path / "inside").symlink_to(animals / "val")
    sentence = run("--model", "timm:resnet18", "--data", f"imagefolder:{tmp_path}", code=2)
    assert "one class only, inside" in sentence


def test_partial_without_weights_is_refused() -> None:
    assert "partial" in run("--model", "lenet300", "--data", "digits", "--partial", code=2)
