"""Response distillation as one loss: hard labels, soft labels and, where asked for, hidden states."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kdnative.distill.terms import LARGE, HardLabelLoss, HiddenStateLoss, LossTerms, SoftLabelLoss

__all__ = ["DistillationLoss"]


class DistillationLoss(LossTerms):
    """``hard_weight * CE(y, s) + soft_weight * T^2 * KL(softmax(t / T) || softmax(s / T)) + hidden.weight * H``.

    The usual three terms under one roof: the same as a list of `HardLabelLoss`, `SoftLabelLoss` and `HiddenStateLoss`,
    where each is explained. A term of weight 0 is not computed.

    Args:
        temperature, soft_weight: of the soft term. hard_weight, class_weights, label_smoothing: of the hard one.
        hidden: the hidden term, with its own weight; None: none.
        large: classes from which logits are not made, as in `LossTerms`.

    Raises:
        ValueError: a weight below 0, no weight above it, or what the terms say.
    """

    def __init__(
        self,
        temperature: float = 2.0,
        soft_weight: float = 1.0,
        hard_weight: float = 1.0,
        class_weights: Tensor | Sequence[float] | None = None,
        *,
        label_smoothing: float = 0.0,
        hidden: HiddenStateLoss | None = None,
        large: int | None = LARGE,
    ):
        hard = HardLabelLoss(weight=hard_weight, class_weights=class_weights, label_smoothing=label_smoothing)
        soft = SoftLabelLoss(temperature, weight=soft_weight)
        super().__init__([hard, soft] if hidden is None else [hard, soft, hidden], large)
