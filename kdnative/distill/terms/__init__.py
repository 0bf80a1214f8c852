"""The terms that a loss is made of, one a file. A new one inherits `LossTerm`."""

from kdnative.distill.terms.base import LossTerm
from kdnative.distill.terms.hard import HardLabelLoss
from kdnative.distill.terms.hidden import HiddenStateLoss, uniform_layer_map
from kdnative.distill.terms.soft import SoftLabelLoss
from kdnative.distill.terms.targets import SoftTargetLoss, TargetLoss
from kdnative.distill.terms.together import LossTerms
from kdnative.distill.terms.without_logits import LARGE

__all__ = [
    "LARGE",
    "HardLabelLoss",
    "HiddenStateLoss",
    "LossTerm",
    "LossTerms",
    "SoftLabelLoss",
    "SoftTargetLoss",
    "TargetLoss",
    "uniform_layer_map",
]
