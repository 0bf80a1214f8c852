"""kdnative: distil, prune, quantize and run small PyTorch models on native kernels.

The public names load on first use, so importing the package is cheap and never initialises CUDA.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_LAZY = {
    "Scheme": "kdnative.formats.scheme",
    "calibrate_": "kdnative.quantize",
    "Calibration": "kdnative.quantize",
    "convert_": "kdnative.convert",
    "to_float_": "kdnative.convert",
    "ConversionReport": "kdnative.convert",
    "save": "kdnative.checkpoint",
    "load": "kdnative.checkpoint",
    "inspect": "kdnative.checkpoint",
    "CheckpointError": "kdnative.checkpoint",
    "Gate": "kdnative.precision",
    "GateError": "kdnative.precision",
    "run": "kdnative.pipeline",
}
_PACKAGES = (
    "data",
    "distill",
    "evaluate",
    "models",
    "nn",
    "ops",
    "pipeline",
    "precision",
    "prune",
    "quantize",
    "report",
)

__all__ = [  # written out for type checkers; a test keeps it equal to the two tables above
    "Calibration",
    "CheckpointError",
    "ConversionReport",
    "Gate",
    "GateError",
    "Scheme",
    "__version__",
    "calibrate_",
    "convert_",
    "data",
    "distill",
    "evaluate",
    "inspect",
    "load",
    "models",
    "nn",
    "ops",
    "pipeline",
    "precision",
    "prune",
    "quantize",
    "report",
    "run",
    "save",
    "to_float_",
]

if TYPE_CHECKING:
    from kdnative import data, distill, evaluate, models, nn, ops, pipeline, precision, prune, quantize, report
    from kdnative.checkpoint import CheckpointError, inspect, load, save
    from kdnative.convert import ConversionReport, convert_, to_float_
    from kdnative.formats.scheme import Scheme
    from kdnative.pipeline import run
    from kdnative.precision import Gate, GateError
    from kdnative.quantize import Calibration, calibrate_


def __getattr__(name: str):
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    elif name in _PACKAGES:
        value = importlib.import_module(f"kdnative.{name}")
    else:
        raise AttributeError(f"module 'kdnative' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
