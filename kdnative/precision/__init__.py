"""Mixed precision: what each layer loses at the output, which scheme it gets, and a gate on what may be lost."""

from kdnative.precision.assigning import FLOAT, Assignment, assign
from kdnative.precision.gate import Gate
from kdnative.precision.gate_report import GateError, GateReport, Trial
from kdnative.precision.latency import measure_latency
from kdnative.precision.sensitivity import Sensitivity, sensitivity

__all__ = [
    "FLOAT",
    "Assignment",
    "Gate",
    "GateError",
    "GateReport",
    "Sensitivity",
    "Trial",
    "assign",
    "measure_latency",
    "sensitivity",
]
