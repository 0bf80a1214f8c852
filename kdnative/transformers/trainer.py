"""transformers' Trainer with a teacher."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import Trainer

from kdnative.data import Batch
from kdnative.distill import DistillationLoss, Outputs

__all__ = ["DistillationTrainer"]


class DistillationTrainer(Trainer):
    """``Trainer`` whose loss is that of distillation (Hinton et al. 2015), or another of :mod:`kdnative.distill`.

    Args:
        teacher: a model that takes the student's inputs and gives ``logits`` of the same shape; a native one labels a
            batch several times as fast on a CPU. It is moved to the student's device and set to eval mode.
        temperature: by which logits are divided before the softmax.
        soft_weight: weight of the teacher's soft labels, ``T^2 * KL(teacher || student)``.
        hard_weight: weight of the cross entropy of the labels; rows with the label -100 have none.
        loss: a loss of :mod:`kdnative.distill` in place of the three above: ``loss(batch, student, [teacher])``.
        options: of ``Trainer``.

    Evaluation and prediction are those of ``Trainer``, without the teacher.
    """

    def __init__(
        self,
        *args: Any,
        teacher: nn.Module,
        temperature: float = 2.0,
        soft_weight: float = 1.0,
        hard_weight: float = 0.5,
        loss: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.teacher = teacher.eval().to(self.args.device)
        if loss is None:
            loss = DistillationLoss(temperature=temperature, soft_weight=soft_weight, hard_weight=hard_weight)
        self.distillation_loss = loss.to(self.args.device)
        self.model_accepts_loss_kwargs = False  # the loss is a mean over the batch, not over all accumulated ones

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch; ``Trainer``'s own while it evaluates."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        inputs = dict(inputs)
        labels = inputs.pop("labels", None)
        outputs = model(**inputs)
        with torch.no_grad():
            target = self.teacher(**inputs)
        batch = Batch(inputs, labels, index=torch.arange(len(outputs.logits)))
        loss = self.distillation_loss(batch, Outputs(outputs.logits), [Outputs(target.logits.to(outputs.logits))])
        return (loss, outputs) if return_outputs else loss
