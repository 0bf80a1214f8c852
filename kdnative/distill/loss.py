"""Response distillation: the student learns the teacher's softened class probabilities."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnative.distill.hidden import HiddenStateLoss

__all__ = ["DistillationLoss", "TopK"]


class TopK(NamedTuple):
    """The largest teacher logits of every row, for large vocabularies.

    Attributes:
        values: [..., k], the largest logits. indices: int64 [..., k], their classes.
        rest: [...], ``logsumexp(t_j / temperature)`` over the other classes, or None. With it, everything outside
            of the top k counts as one more class, whose probability the student has to match as well. Without it the
            teacher's k probabilities are renormalised to 1, which teaches the student that all else is impossible.
        temperature: the one that `rest` was computed at.
    """

    values: Tensor
    indices: Tensor
    rest: Tensor | None = None
    temperature: float | None = None

    @classmethod
    def of(cls, logits: Tensor, k: int, temperature: float | None = None) -> TopK:
        """Takes the top k of full logits [..., C]; `rest` is computed when a temperature is given (and k < C)."""
        if not 1 <= k <= logits.shape[-1]:
            raise ValueError(f"top_k={k}: within 1 and the number of classes, {logits.shape[-1]}")
        values, indices = logits.topk(k)
        if temperature is None or k == logits.shape[-1]:
            return cls(values, indices)
        others = (logits / temperature).scatter(-1, indices, -torch.inf)
        return cls(values, indices, others.logsumexp(-1), temperature)

    def to(self, device: torch.device | str) -> TopK:
        moved = (None if v is None else v.to(device) for v in (self.values, self.indices, self.rest))
        return TopK(*moved, self.temperature)


class DistillationLoss(nn.Module):
    """``hard_weight * CE(y, s) + soft_weight * T^2 * KL(softmax(t / T) || softmax(s / T)) + hidden_weight * H``.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015); ``T^2`` keeps the soft gradients
    at the size of the hard ones. ``temperature=1`` gives the plain form ``CE + lambda * KL`` with
    ``lambda = soft_weight``. Each term is a mean over the rows it applies to, in nats; a term without any row is 0.

    Args:
        temperature: T > 0.
        soft_weight, hard_weight, hidden_weight: weights >= 0 of the terms; a term of weight 0 is not computed.
        class_weights: [C], weights of the classes in the hard term (weighted mean, as in torch's cross entropy).
        label_smoothing: of the hard term, in [0, 1).
        ignore_index: label of rows without one; they do not count in the hard term.
        hidden: the `HiddenStateLoss`, needed when ``hidden_weight > 0``.

    Attributes:
        parts: the unweighted terms of the last call, detached: {"hard", "soft", "hidden"} as far as computed.
    """

    def __init__(
        self,
        temperature: float = 2.0,
        soft_weight: float = 1.0,
        hard_weight: float = 1.0,
        hidden_weight: float = 0.0,
        class_weights: Tensor | list[float] | None = None,
        *,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        hidden: HiddenStateLoss | None = None,
    ):
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature={temperature}: must be above 0")
        weights = {"soft_weight": soft_weight, "hard_weight": hard_weight, "hidden_weight": hidden_weight}
        for name, weight in weights.items():
            if not weight >= 0:
                raise ValueError(f"{name}={weight}: must not be negative")
        if not any(weights.values()):
            raise ValueError("soft_weight, hard_weight and hidden_weight are all 0: there is nothing to learn from")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: within [0, 1)")
        if hidden_weight and hidden is None:
            raise ValueError("hidden_weight > 0 needs hidden=HiddenStateLoss(layer_map, student_width, teacher_width)")
        self.temperature, self.label_smoothing, self.ignore_index = float(temperature), label_smoothing, ignore_index
        self.soft_weight, self.hard_weight, self.hidden_weight = soft_weight, hard_weight, hidden_weight
        self.hidden = hidden if hidden_weight else None
        weight = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weight, persistent=False)
        self.parts: dict[str, Tensor] = {}

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor | TopK | None = None,
        labels: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        student_hidden: tuple[Tensor, ...] | None = None,
        teacher_hidden: tuple[Tensor, ...] | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """The loss, a scalar in fp32 (fp64 for fp64 logits).

        Args:
            student_logits: [..., C]; one row per example, or per token: [B, T, C].
            teacher_logits: the same shape, or a `TopK`; needed when ``soft_weight > 0``. No gradient flows into it.
            labels: int64 [...]; None leaves the hard term out (an unlabelled transfer set).
            mask: [...], non-zero where the soft term counts. None: every row; but with one row per token and labels,
                the rows whose label is not `ignore_index` (padding has that label).
            student_hidden, teacher_hidden: tuples of [B, T, width], for the hidden term.
            attention_mask: [B, T], tokens that count in the hidden term; None: all.

        Raises:
            ValueError: shapes that do not fit, a missing argument, or no term left to compute.
        """
        if student_logits.dim() < 2:
            raise ValueError(f"student_logits has shape {list(student_logits.shape)}; [rows, classes] is needed")
        logits = student_logits if student_logits.dtype == torch.float64 else student_logits.float()
        if labels is not None and labels.shape != logits.shape[:-1]:
            raise ValueError(f"labels has shape {list(labels.shape)}; the logits call for {list(logits.shape[:-1])}")
        if mask is None and labels is not None and logits.dim() > 2:
            mask = labels != self.ignore_index
        terms: dict[str, tuple[float, Tensor]] = {}
        if self.hard_weight and labels is not None:
            terms["hard"] = (self.hard_weight, self._hard(logits, labels))
        if self.soft_weight:
            terms["soft"] = (self.soft_weight, self._soft(logits, teacher_logits, mask))
        if self.hidden is not None:
            if student_hidden is None or teacher_hidden is None:
                raise ValueError("hidden_weight > 0: student_hidden and teacher_hidden are needed on every call")
            terms["hidden"] = (self.hidden_weight, self.hidden(student_hidden, teacher_hidden, attention_mask))
        if not terms:
            raise ValueError(
                "only the hard term has a weight, and no labels were given: there is nothing to learn from"
            )
        self.parts = {name: value.detach() for name, (_, value) in terms.items()}
        return sum(weight * value for weight, value in terms.values())

    def _hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        rows, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
        weight = None if self.class_weights is None else self.class_weights.to(rows)
        if weight is not None and len(weight) != rows.shape[-1]:
            raise ValueError(f"class_weights has {len(weight)} entries for {rows.shape[-1]} classes")
        kept = labels != self.ignore_index
        if not bool(kept.any()):
            return rows.sum() * 0.0
        return F.cross_entropy(rows[kept], labels[kept], weight, label_smoothing=self.label_smoothing)

    def _soft(self, logits: Tensor, teacher: Tensor | TopK | None, mask: Tensor | None) -> Tensor:
        if teacher is None:
            raise ValueError(
                "soft_weight > 0 needs teacher_logits; pass them, or set soft_weight=0 for hard labels only"
            )
        given = teacher.values.shape[:-1] if isinstance(teacher, TopK) else teacher.shape
        wanted = logits.shape[:-1] if isinstance(teacher, TopK) else logits.shape
        if given != wanted:
            raise ValueError(f"the teacher's logits have shape {list(given)}, the student's call for {list(wanted)}")
        if isinstance(teacher, TopK):
            rows = self._top_k_divergence(logits, teacher)
        else:
            target = (teacher.detach().to(logits.dtype) / self.temperature).softmax(-1)
            rows = F.kl_div((logits / self.temperature).log_softmax(-1), target, reduction="none").sum(-1)
        rows = rows * self.temperature**2
        if mask is None:
            return rows.sum() / max(rows.numel(), 1)
        mask = mask.expand(rows.shape) != 0
        return torch.where(mask, rows, 0.0).sum() / mask.sum().clamp(min=1)

    def _top_k_divergence(self, logits: Tensor, teacher: TopK) -> Tensor:
        """Rows of ``KL(teacher || student)`` over the top k classes, plus one class for the rest where it is known."""
        if teacher.rest is not None and teacher.temperature != self.temperature:
            raise ValueError(
                f"the top-k soft labels hold the remaining mass at temperature {teacher.temperature}, but the loss has "
                f"{self.temperature}; compute them with temperature={self.temperature}, or without one to renormalise"
            )
        scaled = logits / self.temperature
        log_q = scaled.log_softmax(-1).gather(-1, teacher.indices)
        kept = teacher.values.detach().to(logits.dtype) / self.temperature
        if teacher.rest is not None:
            # softmax over [top k, rest]; the student's rest is summed over its own other classes, not 1 - sum(top k),
            # which would cancel
            kept = torch.cat((kept, teacher.rest.detach().to(logits.dtype)[..., None]), -1)
            others = scaled.scatter(-1, teacher.indices, -torch.inf).logsumexp(-1, keepdim=True)
            log_q = torch.cat((log_q, others - scaled.logsumexp(-1, keepdim=True)), -1)
        return F.kl_div(log_q, kept.softmax(-1), reduction="none").sum(-1)
