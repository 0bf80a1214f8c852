"""Hard labels: cross entropy with the classes that the data gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnative.distill.outputs import Outputs
from kdnative.distill.terms.base import LossTerm, rows_of

__all__ = ["IGNORED", "HardLabelLoss"]

IGNORED = -100  # the label of a row without one, as in torch


class HardLabelLoss(LossTerm):
    """``CE(y, s)``: mean over the rows that have a label, in nats; 0 where none has.

    Says nothing about batches without labels (an unlabelled transfer set).

    Args:
        weight, name: as in `LossTerm`.
        class_weights: [C], weights of the classes (weighted mean, as in torch's cross entropy).
        label_smoothing: within [0, 1).
        ignore_index: the label of rows without one.
    """

    default_name = "hard"

    def __init__(
        self,
        *,
        weight: float = 1.0,
        class_weights: Tensor | Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = IGNORED,
        name: str | None = None,
    ):
        super().__init__(weight, name)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: within [0, 1)")
        self.label_smoothing, self.ignore_index = label_smoothing, ignore_index
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def settings(self) -> dict[str, Any]:
        weights = None if self.class_weights is None else self.class_weights.tolist()
        own = {"class_weights": weights, "label_smoothing": self.label_smoothing, "ignore_index": self.ignore_index}
        return {**super().settings(), **own}

    def count(self, batch: Any) -> float:
        """The rows that have a label, each with the weight of its class: what torch's weighted mean divides by.

        Raises:
            ValueError: a label that has no weight.
        """
        if batch.labels is None:
            return 0.0
        kept = batch.labels[batch.labels != self.ignore_index]
        if self.class_weights is None:
            return float(kept.numel())
        strange = kept[(kept < 0) | (kept >= len(self.class_weights))]
        if strange.numel():
            raise ValueError(f"class_weights has {len(self.class_weights)} entries, but a label is {int(strange[0])}")
        return float(self.class_weights.to(kept.device)[kept].sum())

    @property
    def is_plain(self) -> bool:
        """Whether it is a mean over rows: without weights of classes and smoothing."""
        return self.class_weights is None and not self.label_smoothing

    def labels_of(self, batch: Any, shape: torch.Size) -> Tensor | None:
        """The batch's labels, if it has some, for rows of this shape.

        Raises:
            ValueError: they are of another shape.
        """
        if batch.labels is not None and batch.labels.shape != shape:
            raise ValueError(f"labels has shape {list(batch.labels.shape)}; the logits call for {list(shape)}")
        return batch.labels

    def forward(self, batch: Any, student: Outputs, teachers: Sequence[Outputs] = ()) -> Tensor | None:
        """Logits [..., C], one row an example or a token; labels int64 [...].

        Raises:
            ValueError: shapes that do not fit.
        """
        if batch.labels is None:
            return None
        logits = rows_of(student.logits)
        rows, labels = logits.reshape(-1, logits.shape[-1]), self.labels_of(batch, logits.shape[:-1]).reshape(-1)
        weights = None if self.class_weights is None else self.class_weights.to(rows)
        if weights is not None and len(weights) != rows.shape[-1]:
            raise ValueError(f"class_weights has {len(weights)} entries for {rows.shape[-1]} classes")
        kept = labels != self.ignore_index
        if not bool(kept.any()):
            return rows.sum() * 0.0
        return F.cross_entropy(rows[kept], labels[kept], weights, label_smoothing=self.label_smoothing)
