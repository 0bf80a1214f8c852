"""Networks of convolutions as graphs: what a float model computes, and how it becomes integers."""

from __future__ import annotations

from kdnative.cnn.calibrating import calibrate
from kdnative.cnn.floats import FloatGraph, Norm, Scale, Source
from kdnative.cnn.regions import Regions, regions
from kdnative.cnn.running import run
from kdnative.cnn.tracing import trace

__all__ = ["FloatGraph", "Norm", "Regions", "Scale", "Source", "calibrate", "regions", "run", "trace"]
