"""Distillation: losses, cached soft labels and the training loop."""

from .cache import SoftLabelMismatch, SoftLabels
from .hidden import HiddenStateLoss, uniform_layer_map
from .loop import History, Progress, train
from .loss import DistillationLoss, TopK
from .state import ResumeError

__all__ = [
    "DistillationLoss",
    "HiddenStateLoss",
    "History",
    "Progress",
    "ResumeError",
    "SoftLabelMismatch",
    "SoftLabels",
    "TopK",
    "train",
    "uniform_layer_map",
]
