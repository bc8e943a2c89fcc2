"""A network by its name, filled with the weights that somebody published."""

from __future__ import annotations

from torch import nn

from sparsewright.checks import join_names
from sparsewright.data.evaluation import EvaluationImages
from sparsewright.models import create_model
from sparsewright.models.external import pretrained_classes
from sparsewright.training.published_weights import PublishedWeights
from sparsewright.training.weight_match import WeightMatch, fill_matched, match_weights, names_of_nonfinite

RANDOM_SEED = 0
"""Of the weights that nothing fills."""


def build_published(
    name: str, images: EvaluationImages, weights: PublishedWeights | None, *, partial: bool = False
) -> tuple[nn.Module, WeightMatch | None]:
    """The network for these images on the CPU, and how the weights fit it.

    Args:
        name: from ``list_models()``.
        images: their classes, channels and size are the network's.
        weights: None for those that the name asks for, or else random ones.
        partial: take what fits; the rest stays random.

    Raises:
        ValueError: an unknown name, weights for another number of classes, that do not fit, or that are not finite.
        ImportError, OSError: the network's package is not installed, or its weights cannot be downloaded.
    """
    pretrained = pretrained_classes(name)
    if pretrained is not None and pretrained != images.num_classes:
        raise ValueError(_other_classes(f"the weights of {name} are", pretrained, images))
    model = create_model(
        name,
        num_classes=images.num_classes,
        in_channels=images.in_channels,
        image_size=images.image_size,
        seed=RANDOM_SEED,
    )
    if weights is None:
        return model, None
    match = match_weights(model, weights.tensors, weights.others)
    _check_match(name, images, weights, match, partial)
    fill_matched(model, weights.tensors, match)
    _check_finite(model, weights, match)
    return model, match


def _check_match(
    name: str, images: EvaluationImages, weights: PublishedWeights, match: WeightMatch, partial: bool
) -> None:
    if weights.shrunk and not match.complete and not partial:
        raise ValueError(
            f"{weights.path} is of a shrunk network, whose layers are smaller than those of {name}; "
            "sparsewright eval RUN evaluates the run that it is from, and sparsewright.load_shrunk reads it in Python"
        )
    if not match.matched:
        raise ValueError(f"nothing in {weights.path} fits {name}: {match.describe()}")
    if match.complete or partial:
        return
    classes = _classes_in_file(match, images.num_classes)
    if classes is not None:
        raise ValueError(_other_classes(f"{weights.path} is", classes, images))
    raise ValueError(f"{weights.path} does not fit {name}: {match.describe()} (--partial evaluates it all the same)")


def _check_finite(model: nn.Module, weights: PublishedWeights, match: WeightMatch) -> None:
    """Looks at the filled model, whose type may be too narrow for the numbers of the file."""
    state = model.state_dict()
    if names := names_of_nonfinite({name: state[name] for name in match.matched}):
        raise ValueError(
            f"{weights.path} has NaN or infinite values in {len(names)} of {len(match.matched)} tensors, with which no "
            f"accuracy means anything: {join_names(names)}"
        )


def _classes_in_file(match: WeightMatch, num_classes: int) -> int | None:
    """The number of classes of the weights if nothing but that keeps them from fitting, else None."""
    if match.missing or match.unexpected or match.mistyped:
        return None
    shapes = match.misshapen.values()
    only_outputs = all(here[:1] == (num_classes,) and there[1:] == here[1:] for there, here in shapes)
    counts = {there[:1] for there, _ in shapes}
    return counts.pop()[0] if only_outputs and len(counts) == 1 and () not in counts else None


def _other_classes(subject: str, classes: int, images: EvaluationImages) -> str:
    return (
        f"{subject} for {classes} classes, and {images.name} has {images.num_classes}: those that "
        "--classes names (imagenet, or a file with the folder of each output), or without it one for each folder"
    )
