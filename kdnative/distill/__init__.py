"""Distillation: loss terms, teachers and their cached soft labels, and the training loop."""

from kdnative.distill.cache import SoftLabelMismatch, SoftLabels
from kdnative.distill.callbacks import Callback, EpochLog, History, Progress, ProgressBar
from kdnative.distill.config import TrainConfig
from kdnative.distill.loop import train
from kdnative.distill.loss import DistillationLoss
from kdnative.distill.outputs import Outputs
from kdnative.distill.state import ResumeError
from kdnative.distill.teachers import Teacher
from kdnative.distill.terms import (
    SOFT_LOSSES,
    DISTLoss,
    DKDLoss,
    FeatureMapLoss,
    HardLabelLoss,
    HiddenStateLoss,
    LossTerm,
    LossTerms,
    SoftLabelLoss,
    SoftTargetLoss,
    TargetLoss,
    uniform_layer_map,
)
from kdnative.distill.tiled import LinearKL, LinearLogits, linear_kl
from kdnative.distill.topk import TopK
from kdnative.distill.validation import Fidelity, Validation

__all__ = [
    "SOFT_LOSSES",
    "Callback",
    "DISTLoss",
    "DKDLoss",
    "DistillationLoss",
    "EpochLog",
    "FeatureMapLoss",
    "Fidelity",
    "HardLabelLoss",
    "HiddenStateLoss",
    "History",
    "LinearKL",
    "LinearLogits",
    "LossTerm",
    "LossTerms",
    "Outputs",
    "Progress",
    "ProgressBar",
    "ResumeError",
    "SoftLabelLoss",
    "SoftLabelMismatch",
    "SoftLabels",
    "SoftTargetLoss",
    "TargetLoss",
    "Teacher",
    "TopK",
    "TrainConfig",
    "Validation",
    "linear_kl",
    "train",
    "uniform_layer_map",
]
