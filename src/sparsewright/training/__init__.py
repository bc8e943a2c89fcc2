"""Training from recipes: load one, train it into a run folder, resume, evaluate and load the result."""

from sparsewright.files import SaveError
from sparsewright.training.checkpoint import CheckpointError
from sparsewright.training.duration import Duration
from sparsewright.training.errors import RecipeError
from sparsewright.training.folder import RunFolderError
from sparsewright.training.loaded_run import LoadedRun, load_run
from sparsewright.training.loop import TrainingError
from sparsewright.training.masks_file import load_masks, save_masks
from sparsewright.training.metrics import read_metrics
from sparsewright.training.published import evaluate_published
from sparsewright.training.recipe import Recipe
from sparsewright.training.recipe_files import RecipeInfo, list_recipes, load_recipe
from sparsewright.training.run import evaluate, train
from sparsewright.training.start import Start
from sparsewright.training.ticket_result import TicketResult, TicketStage
from sparsewright.training.tickets import find_ticket

__all__ = [
    "CheckpointError",
    "Duration",
    "LoadedRun",
    "Recipe",
    "RecipeError",
    "RecipeInfo",
    "RunFolderError",
    "SaveError",
    "Start",
    "TicketResult",
    "TicketStage",
    "TrainingError",
    "evaluate",
    "evaluate_published",
    "find_ticket",
    "list_recipes",
    "load_masks",
    "load_recipe",
    "load_run",
    "read_metrics",
    "save_masks",
    "train",
]
