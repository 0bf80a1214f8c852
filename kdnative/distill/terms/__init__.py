"""The terms that a loss is made of, one a file. A new one inherits `LossTerm`."""

from kdnative.distill.terms.base import LossTerm
from kdnative.distill.terms.dist import DISTLoss
from kdnative.distill.terms.dkd import DKDLoss
from kdnative.distill.terms.feature_maps import FeatureMapLoss
from kdnative.distill.terms.hard import HardLabelLoss
from kdnative.distill.terms.hidden import HiddenStateLoss, uniform_layer_map
from kdnative.distill.terms.one_teacher import OneTeacherLoss
from kdnative.distill.terms.soft import SoftLabelLoss
from kdnative.distill.terms.targets import SoftTargetLoss, TargetLoss
from kdnative.distill.terms.together import LossTerms
from kdnative.distill.terms.without_logits import LARGE

__all__ = [
    "LARGE",
    "SOFT_LOSSES",
    "DISTLoss",
    "DKDLoss",
    "FeatureMapLoss",
    "HardLabelLoss",
    "HiddenStateLoss",
    "LossTerm",
    "LossTerms",
    "OneTeacherLoss",
    "SoftLabelLoss",
    "SoftTargetLoss",
    "TargetLoss",
    "uniform_layer_map",
]

SOFT_LOSSES: dict[str, type[SoftLabelLoss] | type[OneTeacherLoss]] = {
    "kd": SoftLabelLoss,
    "dkd": DKDLoss,
    "dist": DISTLoss,
}
"""The terms that learn from a teacher's logits, by the names that recipes have for them; each takes a temperature, and
``weight=``."""
