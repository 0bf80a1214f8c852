"""Gradual magnitude pruning: sparsity that grows while the model trains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from kdnative.prune.mask import mask_
from kdnative.prune.report import PruneReport

if TYPE_CHECKING:
    from kdnative.distill import Progress

__all__ = ["MaskSchedule"]


@dataclass
class MaskSchedule:
    """Cubic sparsity schedule (Zhu & Gupta 2017).

    ``s(t) = final + (initial - final) * (1 - (t - start) / (end - start))^3``: sparsity grows fast at first, while much
    is redundant, and slowly at the end. Call `step` once per training step::

        schedule = MaskSchedule(start=100, end=2000, final=0.8, pattern="4x1")
        for step, batch in enumerate(batches):
            ...optimizer.step()
            schedule.step(model, step)

    It is a callback of `kdnative.distill.train` as well: ``train(..., callbacks=[schedule])``.

    Args:
        start: the first step at which weights are removed, 0 or more.
        end: the step at which `final` is reached, after `start`.
        final: the sparsity to reach, 0 <= final < 1.
        initial: the sparsity at `start`, at most `final`.
        frequency: masks are renewed every so many steps after `start` (and at `end`).
        pattern, scope, modules, keep: as in `mask_`; N:M patterns have one sparsity only and can't be scheduled.
    """

    start: int
    end: int
    final: float
    initial: float = 0.0
    frequency: int = 100
    pattern: str = "unstructured"
    scope: str = "layer"
    modules: str | Iterable[str] = "*"
    keep: str | Iterable[str] = field(default=())

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"start={self.start}, end={self.end}; 0 <= start < end is needed")
        if not 0 <= self.initial <= self.final < 1:
            raise ValueError(f"initial={self.initial}, final={self.final}; 0 <= initial <= final < 1 is needed")
        if self.frequency < 1:
            raise ValueError(f"frequency={self.frequency}; it counts steps, 1 or more")
        if ":" in self.pattern:
            raise ValueError(
                f"pattern {self.pattern} has only one sparsity: call mask_ once instead of using a schedule"
            )
        self.modules = self.modules if isinstance(self.modules, str) else tuple(self.modules)
        self.keep = self.keep if isinstance(self.keep, str) else tuple(self.keep)

    def sparsity(self, step: int) -> float:
        """The sparsity that belongs to a step: 0 before `start`, `final` from `end` on."""
        if step < self.start:
            return 0.0
        left = 1.0 - min(1.0, (step - self.start) / (self.end - self.start))
        return self.final + (self.initial - self.final) * left**3

    def step(self, model: nn.Module, step: int) -> PruneReport | None:
        """Renews the masks when `step` is due; returns the report then, None otherwise.

        Repeating a step, or resuming from a checkpoint with masks, is harmless: removed weights stay removed.
        """
        due = self.start <= step <= self.end and ((step - self.start) % self.frequency == 0 or step == self.end)
        if not due:
            return None
        return mask_(model, self.sparsity(step), self.pattern, scope=self.scope, modules=self.modules, keep=self.keep)

    def on_start(self, model: nn.Module) -> None:
        """Gives every layer the mask that it will have, so that the model can take the state of a later step."""
        mask_(model, 0.0, self.pattern, scope=self.scope, modules=self.modules, keep=self.keep)

    def on_step(self, progress: Progress) -> None:
        """`step` in a training loop, whose first step is 1 where the schedule's is 0."""
        self.step(progress.model, progress.step - 1)
