"""sparsewright: make neural networks sparse while they train, in PyTorch."""

from sparsewright.dynamic import DynamicSparsifier
from sparsewright.export.sparse import load_sparse, save_sparse
from sparsewright.groups import PrunedGroups
from sparsewright.low_rank import rank_loss
from sparsewright.masks import MaskSet
from sparsewright.methods.gmp import GMP
from sparsewright.methods.granet import GraNet
from sparsewright.methods.greg import GReg1, GReg2
from sparsewright.methods.gsm import GSM
from sparsewright.methods.magnitude import Magnitude
from sparsewright.methods.registry import MethodInfo, create, list_methods
from sparsewright.methods.rigl import RigL
from sparsewright.methods.rpg import RPG
from sparsewright.methods.set import SET
from sparsewright.methods.snfs import SNFS
from sparsewright.methods.static import Static
from sparsewright.runtime import CompiledSparse, compile_sparse
from sparsewright.sparsifier import Sparsifier
from sparsewright.structured import load_shrunk, save_shrunk, shrink

__version__ = "0.1.0"

__all__ = [
    "GMP",
    "GSM",
    "RPG",
    "SET",
    "SNFS",
    "CompiledSparse",
    "DynamicSparsifier",
    "GReg1",
    "GReg2",
    "GraNet",
    "Magnitude",
    "MaskSet",
    "MethodInfo",
    "PrunedGroups",
    "RigL",
    "Sparsifier",
    "Static",
    "__version__",
    "compile_sparse",
    "create",
    "list_methods",
    "load_shrunk",
    "load_sparse",
    "rank_loss",
    "save_shrunk",
    "save_sparse",
    "shrink",
]
