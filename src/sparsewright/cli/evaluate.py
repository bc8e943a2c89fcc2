"""``sparsewright eval``: accuracy of weights on test data, of a run or of a network by its name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsewright.cli.options import AsJson, DataDir, Device, DeviceOption, Download, Precision


def evaluate(
    target: Annotated[
        Path | None,
        typer.Argument(metavar="RUN_OR_FILE", help="A run folder, or a model.safetensors or .sparse file in one."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A network from 'list models' in place of a run; needs --data."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Of --model: a checkpoint.", show_default="the name's own, or random"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of --model: a data set from 'list datasets', such as imagefolder:DIR."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|imagenet",
            help="Of --model: the class folders in the order of the outputs, where a folder of images lacks some.",
        ),
    ] = None,
    partial: Annotated[bool, typer.Option("--partial", help="Of --model: take what fits of the weights.")] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of --model: images in a batch.", show_default="64")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Of --model: this many images at most, spread over an image folder."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Of --model: processes that decode an image folder.",
            show_default="one per core, 8 at most",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="PIXELS", help="Of --model: side of an image folder's images.", show_default="224"),
    ] = None,
    data_dir: DataDir = Path("data"),
    device: DeviceOption = Device.auto,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Arithmetic of the forward pass.", show_default="that of the training, else 32"),
    ] = None,
    download: Download = True,
    as_json: AsJson = False,
) -> None:
    """Accuracy and loss on the test data, and the sparsity counted in the weights themselves.

    Of a run; or, with --model and --data, of a network with the weights of a published checkpoint: a state dict, plain
    or under state_dict or model, or a safetensors file. What does not fit the network is named, and is an error without
    --partial. Images of a folder are prepared as for ImageNet: shorter side 256, the middle 224 x 224.

    \b
    Examples:
      sparsewright eval runs/first
      sparsewright eval runs/first/model.safetensors --json
      sparsewright eval runs/first --precision 32
      sparsewright eval --model torchvision:resnet50 --weights rpg-90.pth.tar --data imagefolder:/data/imagenet
      sparsewright eval --model torchvision:resnet50 --data imagefolder:/data/imagenette --limit 200
      sparsewright eval --model torchvision:resnet50@DEFAULT --data imagefolder:/data/imagenette --classes imagenet
    """
    of_model = {
        "weights": weights,
        "classes": classes,
        "partial": partial or None,
        "batch_size": batch_size,
        "limit": limit,
        "workers": workers,
        "image_size": image_size,
    }
    given = {name: value for name, value in of_model.items() if value is not None}
    common: dict[str, Any] = {"data_dir": data_dir, "device": device.value, "download": download}
    if precision is not None:
        common["precision"] = precision.value
    if target is not None:
        _refuse_model_options(model=model, data=data, **given)
        _show_run(target, common, as_json)
    elif model is not None and data is not None:
        _show_model(model, data, given | common, as_json)
    else:
        half = {name: value for name, value in {"model": model, "data": data, **given}.items() if value is not None}
        raise ValueError(_incomplete(half))


def _show_run(target: Path, options: dict[str, Any], as_json: bool) -> None:
    from sparsewright.cli.tables import evaluation_pairs, print_json, print_pairs
    from sparsewright.training import evaluate as run

    result = run(target, **options)
    if as_json:
        print_json(result)
    else:
        print_pairs(evaluation_pairs(result))


def _show_model(model: str, data: str, options: dict[str, Any], as_json: bool) -> None:
    from sparsewright.cli.evaluate_output import published_pairs
    from sparsewright.cli.tables import print_json, print_pairs
    from sparsewright.training.published import evaluate_published

    result = evaluate_published(model, data, **options)
    if as_json:
        print_json(result)
    else:
        print_pairs(published_pairs(result))


def _refuse_model_options(**options: object) -> None:
    if given := _flags(name for name, value in options.items() if value is not None):
        raise ValueError(f"{given} cannot be given with a run, whose recipe names network and data; leave one form out")


def _incomplete(given: dict[str, Any]) -> str:
    forms = "give a run (sparsewright eval RUN_OR_FILE), or both --model and --data"
    return f"{_flags(given)} alone names nothing to evaluate; {forms}" if given else f"nothing to evaluate: {forms}"


def _flags(names: Iterable[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)
