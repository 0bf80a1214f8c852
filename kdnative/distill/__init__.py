"""Distillation: losses, cached soft labels and the training loop."""

from kdnative.distill.cache import SoftLabelMismatch, SoftLabels
from kdnative.distill.hidden import HiddenStateLoss, uniform_layer_map
from kdnative.distill.loop import History, Progress, train
from kdnative.distill.loss import DistillationLoss, TopK
from kdnative.distill.state import ResumeError

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
