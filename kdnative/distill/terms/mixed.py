"""Hard labels of pictures that are sums of two: each label by its share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from kdnative.distill.outputs import Outputs
from kdnative.distill.terms.hard import HardLabelLoss

__all__ = ["MixedLabelLoss"]


class MixedLabelLoss(HardLabelLoss):
    """``share * CE(y, s) + (1 - share) * CE(y', s)`` (Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018).

    y' and the share are ``others`` and ``share`` of a `kdnative.data.images.MixedBatch`; for other batches it is
    `HardLabelLoss`. Where some examples have no label, each half is the mean over those that have one.
    """

    def forward(self, batch: Any, student: Outputs, teachers: Sequence[Outputs] = ()) -> Tensor | None:
        own = super().forward(batch, student, teachers)
        others = getattr(batch, "others", None)
        if own is None or others is None:
            return own
        other = super().forward(replace(batch, labels=others), student, teachers)
        return batch.share * own + (1 - batch.share) * other
