"""How a model is trained: everything that is a number or a word, checked when it is made."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

__all__ = ["TrainConfig"]


@dataclass(frozen=True)
class TrainConfig:
    """The settings of `train`.

    Attributes:
        epochs: passes over the batches, 0 or more.
        lr: peak learning rate, above 0.
        warmup: share of all steps in which the rate rises linearly, within [0, 1).
        schedule: what it does then: "linear" or "cosine" (decay towards 0), or "constant".
        weight_decay: of matrices; biases and normalisation parameters have none.
        clip_norm: largest norm of the gradient; None: unlimited.
        accumulation: batches in one step. Each term of the loss weighs them by what it counts in them (examples with a
            label, tokens, ...), so that a step is that of one large batch. An epoch's last step may have fewer.
        max_steps: stop (and plan the schedule) after this many steps instead of all epochs; None: no limit.
        precision: "fp32", "bf16" (autocast; weights stay fp32), or "auto": bf16 where the hardware multiplies it.
        device: "auto", "cpu", "cuda", "cuda:1" ...
        seed: of dropout and everything else random in the model (the order of batches has its own).
        select_by: a metric of the validation and "max" or "min": training ends with the weights of the epoch that was
            best by it (ties: the earlier one), such as ("accuracy", "max"); None: with those of the last.
        early_stopping: end after so many epochs in a row that were no better by ``select_by``, which it needs; the
            schedule of the learning rate stays that of all epochs. None: never.

    Raises:
        ValueError: a value that is not allowed.
    """

    epochs: int
    lr: float
    warmup: float = 0.1
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0
    accumulation: int = 1
    max_steps: int | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: str | torch.device = "auto"
    seed: int = 0
    select_by: tuple[str, Literal["max", "min"]] | None = None
    early_stopping: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 0 or not 0 < self.lr < math.inf or not 0 <= self.warmup < 1:
            raise ValueError(
                f"epochs={self.epochs}, lr={self.lr}, warmup={self.warmup}: needed are epochs >= 0, a "
                "finite lr > 0, 0 <= warmup < 1"
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm={self.clip_norm}: must be above 0, or None for no limit")
        if self.max_steps is not None and self.max_steps < 0:
            raise ValueError(f"max_steps={self.max_steps}: must be 0 or more, or None for no limit")
        if self.schedule not in ("linear", "cosine", "constant"):
            raise ValueError(f'schedule={self.schedule!r}: allowed are "linear", "cosine" and "constant"')
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f'precision={self.precision!r}: allowed are "auto", "fp32" and "bf16"')
        if self.accumulation < 1:
            raise ValueError(f"accumulation={self.accumulation}: must be at least 1 batch per step")
        selected = self.select_by
        if selected is not None and not (
            isinstance(selected, tuple) and len(selected) == 2 and selected[1] in ("max", "min")
        ):
            raise ValueError(
                f'select_by={selected!r}: a metric and "max" or "min" are needed, such as ("accuracy", "max")'
            )

        if self.early_stopping is not None and (self.early_stopping < 1 or selected is None):
            raise ValueError(
                f"early_stopping={self.early_stopping}, select_by={selected}: give at least 1 epoch, and a "
                "metric in select_by; None turns early stopping off"
            )

    def steps_of_epoch(self, batches: int) -> int:
        """Optimizer steps of an epoch of so many batches."""
        return math.ceil(batches / self.accumulation)

    def steps(self, batches: int) -> int:
        """Optimizer steps of the whole training."""
        planned = self.epochs * self.steps_of_epoch(batches)
        return planned if self.max_steps is None else min(self.max_steps, planned)

    def decides(self) -> dict[str, Any]:
        """What a training that is resumed has to agree on: everything but the device."""
        found = asdict(self)
        del found["device"]
        return found

    def factor(self, step: int, steps: int) -> float:
        """What the peak learning rate is multiplied by in step 0 .. steps - 1: linear warmup, then decay towards 0."""
        warmup = round(self.warmup * steps)
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(steps - warmup, 1)
        if self.schedule == "linear":
            return 1.0 - done
        return 0.5 * (1.0 + math.cos(math.pi * done)) if self.schedule == "cosine" else 1.0
