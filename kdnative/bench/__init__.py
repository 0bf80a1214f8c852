"""Benchmarks: timers, ceilings of the machine, peers, and the suites behind ``kdnative bench``."""

from __future__ import annotations

from kdnative.machine.environment import environment, write_result
from kdnative.machine.latency import as_dtype, example_inputs, latency, latency_grid
from kdnative.machine.timer import Timing, interleave, measure, ratio, torch_threads

__all__ = [
    "Timing",
    "as_dtype",
    "environment",
    "example_inputs",
    "interleave",
    "latency",
    "latency_grid",
    "measure",
    "ratio",
    "torch_threads",
    "write_result",
]
