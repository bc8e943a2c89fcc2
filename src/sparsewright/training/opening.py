"""The data and the model that a recipe names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sparsewright.data import AugmentOptions, Data, open_data
from sparsewright.models import create_model
from sparsewright.training.errors import RecipeError
from sparsewright.training.recipe import Recipe


def open_recipe_data(
    recipe: Recipe,
    data_dir: Path,
    *,
    seed: int,
    device: torch.device,
    rank: int,
    world_size: int,
    validation: int,
    download: bool,
) -> Data:
    """Opens the data set of ``recipe``; the arguments are those of ``sparsewright.data.open_data``."""
    settings = recipe.data
    augment = AugmentOptions(
        crop_padding=settings.crop_padding,
        padding_mode=settings.padding_mode,
        flip=settings.flip,
        random_resized_crop=settings.random_resized_crop,
    )
    return open_data(
        settings.name,
        data_dir=data_dir,
        batch_size=settings.batch_size,
        seed=seed,
        device=device,
        augment=augment,
        validation=validation,
        rank=rank,
        world_size=world_size,
        download=download,
        workers=min(settings.workers, os.cpu_count() or 1),
        image_size=settings.image_size,
    )


def data_facts(data: Data) -> dict[str, int]:
    """What of the data the model depends on, as it is kept beside its weights."""
    return {"num_classes": data.num_classes, "in_channels": data.in_channels, "image_size": data.image_size}


def create_recipe_model(recipe: Recipe, facts: Mapping[str, Any], seed: int | None, *, load_weights: bool) -> nn.Module:
    """The network of ``recipe`` for data of these ``facts``, on the CPU.

    Args:
        recipe: the recipe.
        facts: of ``data_facts``.
        seed: of the initial weights; None draws them from the global random state.
        load_weights: whether pretrained weights in the network's name are fetched.

    Raises:
        RecipeError: the network does not have an option.
        ValueError, ImportError: there is no such network.
    """
    try:
        return create_model(
            recipe.model.name,
            num_classes=facts["num_classes"],
            in_channels=facts["in_channels"],
            image_size=facts["image_size"],
            seed=seed,
            load_weights=load_weights,
            **recipe.model.options,
        )
    except TypeError as error:
        raise RecipeError(f"model {recipe.model.name}: {error}") from error
