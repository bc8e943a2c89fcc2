"""Training from recipes: load one, train it into a run folder, resume, evaluate and load the result."""

from sparsewright.training.checkpoint import CheckpointError
from sparsewright.training.duration import Duration
from sparsewright.training.errors import RecipeError
from sparsewright.training.files import SaveError
from sparsewright.training.folder import RunFolderError
from sparsewright.training.loop import TrainingError
from sparsewright.training.metrics import read_metrics
from sparsewright.training.recipe import Recipe
from sparsewright.training.recipe_files import RecipeInfo, list_recipes, load_recipe
from sparsewright.training.run import LoadedRun, evaluate, load_run, train

__all__ = [
    "CheckpointError",
    "Duration",
    "LoadedRun",
    "Recipe",
    "RecipeError",
    "RecipeInfo",
    "RunFolderError",
    "SaveError",
    "TrainingError",
    "evaluate",
    "list_recipes",
    "load_recipe",
    "load_run",
    "read_metrics",
    "train",
]
