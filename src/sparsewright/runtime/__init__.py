"""Sparse inference on a CPU: networks with zeros in them as programs that leave the zeros out."""

from sparsewright.runtime.compiled import Compilation, CompiledSparse, compile_sparse

__all__ = ["Compilation", "CompiledSparse", "compile_sparse"]
