"""Inference engines side by side: how fast the same network is on each, in one run."""

from sparsewright.bench.engines import ENGINES, EngineError
from sparsewright.bench.machine import machine
from sparsewright.bench.measuring import BenchResult, BenchRow, bench_network

__all__ = ["ENGINES", "BenchResult", "BenchRow", "EngineError", "bench_network", "machine"]
