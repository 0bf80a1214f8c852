"""Decoupled distillation: how sure the teacher is of the target, and how it sees the other classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnative.distill.outputs import Outputs
from kdnative.distill.terms.hard import IGNORED
from kdnative.distill.terms.one_teacher import OneTeacherLoss

__all__ = ["DKDLoss"]


class DKDLoss(OneTeacherLoss):
    """``T^2 * (alpha * KL(b_t || b_s) + beta * KL(o_t || o_s))``, mean over the examples, in nats.

    b is the probability of the target class and that of all others together; o is the softmax over the others alone.
    Soft labels weigh the second term by what the teacher leaves to the others, which is little where it is sure; here
    both have weights of their own (Zhao et al., "Decoupled Knowledge Distillation", 2022).

    The target is the label. An example without one, or one that is a sum of two pictures (mixup), has the class that
    the teacher finds most probable.

    Args:
        temperature: T > 0.
        alpha: of the target's term, >= 0. beta: of that of the others, >= 0; the paper has 8 for CIFAR-100, and from
            0.5 to 2 for ImageNet.
        ignore_index: the label of examples without one.
        weight, teacher, name: as in `OneTeacherLoss`.
    """

    default_name = "dkd"

    def __init__(
        self,
        temperature: float = 4.0,
        *,
        alpha: float = 1.0,
        beta: float = 2.0,
        ignore_index: int = IGNORED,
        weight: float = 1.0,
        teacher: int = 0,
        name: str | None = None,
    ):
        super().__init__(temperature, weight=weight, teacher=teacher, name=name)
        if not (0 <= alpha < float("inf") and 0 <= beta < float("inf") and alpha + beta > 0):
            raise ValueError(f"alpha={alpha}, beta={beta}: neither may be negative, and one must be above 0")
        self.alpha, self.beta, self.ignore_index = float(alpha), float(beta), ignore_index

    def settings(self) -> dict[str, Any]:
        own = {"alpha": self.alpha, "beta": self.beta, "ignore_index": self.ignore_index}
        return {**super().settings(), **own}

    def forward(self, batch: Any, student: Outputs, teachers: Sequence[Outputs]) -> Tensor:
        """Logits [N, C], labels [N] or None.

        Raises:
            ValueError: as `OneTeacherLoss.logits_of`; a single class; labels that do not fit.
        """
        ours, theirs = self.logits_of(student, teachers)
        if ours.shape[1] < 2:
            raise ValueError(f"the loss term {self.name!r} needs at least two classes, but there is only one")
        target = self._targets(batch, theirs)[:, None]
        s, t = (logits / self.temperature for logits in (ours, theirs))
        of_target = F.kl_div(_binary(s, target), _binary(t, target), reduction="none", log_target=True).sum(1)
        of_others = F.kl_div(_others(s, target), _others(t, target), reduction="none", log_target=True).sum(1)
        rows = self.alpha * of_target + self.beta * of_others
        return rows.sum() / max(len(rows), 1) * self.temperature**2

    def _targets(self, batch: Any, theirs: Tensor) -> Tensor:
        chosen = theirs.argmax(1)
        if batch.labels is None or getattr(batch, "others", None) is not None:
            return chosen
        if batch.labels.shape != chosen.shape:
            raise ValueError(f"labels have shape {list(batch.labels.shape)}; the logits call for {list(chosen.shape)}")
        found = torch.where(batch.labels == self.ignore_index, chosen, batch.labels)
        strange = found[(found < 0) | (found >= theirs.shape[1])]
        if found.dtype != chosen.dtype or strange.numel():
            what = f"{float(strange[0]):g}" if strange.numel() else f"of {batch.labels.dtype}"
            raise ValueError(
                f"the loss term {self.name!r}: a label is {what}; whole numbers from 0 to {theirs.shape[1] - 1} are "
                f"needed, or {self.ignore_index} for an example without one"
            )
        return found


def _binary(scaled: Tensor, target: Tensor) -> Tensor:
    """Logarithms of the probabilities of the target and of anything else, [N, 2]."""
    total = scaled.logsumexp(1, keepdim=True)
    others = scaled.scatter(1, target, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat((scaled.gather(1, target) - total, others - total), 1)


def _others(scaled: Tensor, target: Tensor) -> Tensor:
    """Logarithms of the probabilities of the classes besides the target, among themselves, [N, C - 1]."""
    n, c = scaled.shape
    kept = torch.ones_like(scaled, dtype=torch.bool).scatter(1, target, False)
    return scaled[kept].view(n, c - 1).log_softmax(1)
