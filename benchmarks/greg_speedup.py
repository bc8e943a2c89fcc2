"""Theoretical speed-ups of the structured recipes of GReg, beside the published ones; needs no training and no data.

    python benchmarks/greg_speedup.py [--recipe NAME ...] [--out results/greg-speedup.md]

Each recipe's network, at random weights, loses the filters that its ratios ask for (those with the smallest L1 norm:
which ones makes no difference to the count) and is rebuilt smaller. The speed-up is the number of FLOPs of the dense
network over that of the small one: of the forward pass of one image, two for each multiply-accumulate of convolutions
and linear layers.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import sparsewright as sw
from sparsewright.analysis import layer_flops
from sparsewright.data import list_datasets
from sparsewright.files import write_text
from sparsewright.models import create_model
from sparsewright.structured import shrink
from sparsewright.training import Recipe, list_recipes, load_recipe

IMAGENET = (3, 224, 1000)


@dataclass(frozen=True)
class Size:
    """Parameters, and FLOPs of one image."""

    parameters: int
    flops: int


@dataclass(frozen=True)
class Row:
    """One network: its recipes, its size before and after, and the published speed-up where there is one."""

    recipes: list[str]
    before: Size
    after: Size
    published: str | None

    @property
    def speedup(self) -> str:
        """To two decimals."""
        return f"{self.before.flops / self.after.flops:.2f}"

    @property
    def verdict(self) -> str:
        """Whether it is the published one."""
        if self.published is None:
            return "-"
        return "yes" if self.published == self.speedup else "no"


def structured_recipes() -> list[str]:
    """The shipped recipes with a shrink stage, but for the small one for trying out."""
    names = [info.name for info in list_recipes() if not info.name.startswith("digits/")]
    return [name for name in names if any(stage.kind == "shrink" for stage in load_recipe(name).resolved_stages())]


def published_speedup(name: str) -> str | None:
    """The speed-up in a recipe's name, such as 2.55 of cifar10/resnet56/l1-2.55x."""
    last = name.rpartition("-")[2]
    return last.removesuffix("x") if last.endswith("x") else None


def data_shape(recipe: Recipe) -> tuple[int, int, int]:
    """Channels, size and classes of the images that a recipe trains on."""
    info = next((info for info in list_datasets() if info.name == recipe.data.name), None)
    if info is None or info.shape is None or info.classes is None:
        return IMAGENET
    return info.shape[0], info.shape[1], info.classes


@dataclass(frozen=True)
class Pair:
    """A network and its smaller copy at random weights, with one image."""

    dense: nn.Module
    smaller: nn.Module
    example: Tensor


def build(name: str) -> Pair:
    """The network that a recipe starts from, and what its ratios make of it."""
    recipe = load_recipe(name)
    channels, size, classes = data_shape(recipe)
    model = create_model(
        recipe.model.name,
        num_classes=classes,
        in_channels=channels,
        image_size=size,
        seed=0,
        load_weights=False,
        **recipe.model.options,
    )
    example = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0))
    stage = next(stage for stage in recipe.resolved_stages() if stage.needs_sparsity)
    scope = {key: value for key, value in recipe.method_options(stage).items() if key in ("include", "exclude")}
    pruned = copy.deepcopy(model)
    optimizer = torch.optim.SGD(pruned.parameters(), lr=0.0)
    sparsifier = sw.create("magnitude", pruned, optimizer, sparsity=stage.sparsity, granularity="filter", **scope)
    assert isinstance(sparsifier, sw.Magnitude)
    sparsifier.finalize()
    return Pair(model, shrink(pruned, example, sparsifier.pruned_groups, strict=True), example)


def measure(names: list[str]) -> Row:
    """The network that some recipes of the same ratios make."""
    pair = build(names[0])
    before, after = size_of(pair.dense, pair.example), size_of(pair.smaller, pair.example)
    return Row(names, before, after, published_speedup(names[0]))


def size_of(model: nn.Module, example: Tensor) -> Size:
    """Parameters and FLOPs of a network."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Size(parameters, sum(layer_flops(model, example).values()))


def same_ratios(names: list[str]) -> list[list[str]]:
    """Recipes that differ in nothing but the method, together."""
    together: dict[str, list[str]] = {}
    for name in names:
        folder, _, last = name.rpartition("/")
        together.setdefault(f"{folder}/{last.partition('-')[2]}", []).append(name)
    return list(together.values())


def as_table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| recipes | parameters | FLOPs, dense | FLOPs, small | speed-up | published | equal |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        folder = row.recipes[0].rpartition("/")[0]
        names = ", ".join(name.rpartition("/")[2] for name in row.recipes)
        parameters = f"{row.after.parameters:,} of {row.before.parameters:,}"
        flops = " | ".join(f"{size.flops / 1e6:,.2f} M" for size in (row.before, row.after))
        published = f"{row.published}x" if row.published else "-"
        lines.append(f"| `{folder}/` {names} | {parameters} | {flops} | {row.speedup}x | {published} | {row.verdict} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="+", help="only these")
    parser.add_argument("--out", type=Path, help="replace the table in this file")
    arguments = parser.parse_args()
    groups = same_ratios(arguments.recipe or structured_recipes())
    table = as_table([measure(names) for names in groups])
    print(table, end="")
    if arguments.out is not None:
        write_text(arguments.out, replace_table(arguments.out.read_text(encoding="utf-8"), table))


def replace_table(text: str, table: str) -> str:
    """``text`` with its first table replaced."""
    lines = text.splitlines(keepends=True)
    inside = [index for index, line in enumerate(lines) if line.startswith("|")]
    first = inside[0]
    last = next((index for index in range(first, len(lines)) if not lines[index].startswith("|")), len(lines))
    return "".join([*lines[:first], table, *lines[last:]])


if __name__ == "__main__":
    main()
