"""What to install when an optional dependency is missing."""

from __future__ import annotations

_TRAIN = frozenset(
    {"filelock", "jinja2", "lightning_fabric", "numpy", "plotly", "pydantic", "rich", "safetensors", "sklearn"}
    | {"tensorboard", "torchvision", "typer", "yaml"}
)
_OTHERS = {
    "h5py": "hdf5",
    "matplotlib": "plot",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "openvino": "openvino",
    "ray": "ray",
    "timm": "timm",
    "torch_pruning": "structured",
    "wandb": "wandb",
}


def explain_missing(error: ModuleNotFoundError) -> str | None:
    """The sentence for a missing package that one of the extras brings; None for any other module."""
    package = (error.name or "").partition(".")[0]
    extra = "train" if package in _TRAIN else _OTHERS.get(package)
    if extra is None:
        return None
    return f'this needs {package}, which is not installed; install it with: pip install "sparsewright[{extra}]"'
