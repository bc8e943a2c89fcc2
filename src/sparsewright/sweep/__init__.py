"""Grids of runs: many settings of one recipe, each a run of its own that can be resumed."""

from sparsewright.sweep.local import LocalWorkers, usable_cores
from sparsewright.sweep.plan import Cell, Sweep, plan_sweep
from sparsewright.sweep.process import RunOptions
from sparsewright.sweep.ray_workers import RayWorkers
from sparsewright.sweep.running import Workers, run_sweep
from sparsewright.sweep.status import RunStatus, State, take_stock

__all__ = [
    "Cell",
    "LocalWorkers",
    "RayWorkers",
    "RunOptions",
    "RunStatus",
    "State",
    "Sweep",
    "Workers",
    "plan_sweep",
    "run_sweep",
    "take_stock",
    "usable_cores",
]
