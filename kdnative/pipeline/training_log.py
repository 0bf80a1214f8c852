"""What log.txt says of a training while it lasts: its size, how far it is, and how long it will take.

A terminal shows a progress bar; who reads the log afterwards, or of a run without a terminal, has these lines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from torch import nn

from kdnative.distill import Callback, History, Progress
from kdnative.distill.config import TrainConfig
from kdnative.report.words import counted, duration

__all__ = ["TrainingLog"]

_SECONDS = 30.0  # between lines within an epoch, at least
_SHARE = 0.1  # of an epoch's steps between them, at least


class TrainingLog(Callback):
    """Writes lines about one training.

    Args:
        write: takes a line. write_step: takes a line about a step; a terminal with a progress bar may leave these out.
        name: what is trained.
        config: its settings. batches: of an epoch. examples: of an epoch.
        measures: the figures of an epoch to show, of those that the history has.
        clock: seconds.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        write_step: Callable[[str], None],
        *,
        name: str,
        config: TrainConfig,
        batches: int,
        examples: int,
        measures: tuple[str, ...],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.write, self.write_step, self.name, self.config = write, write_step, name, config
        self.examples, self.measures, self.clock = examples, measures, clock
        self.steps, self.of_epoch = config.steps(batches), config.steps_of_epoch(batches)
        self.began = self.last_time = 0.0
        self.last_step = self.before = 0  # before: steps of earlier attempts
        self.started = False

    def on_start(self, model: nn.Module) -> None:
        self.began = self.last_time = self.clock()
        epochs = self.config.epochs
        self.write(
            f"{self.name}: {counted(self.examples, 'example')}, {counted(self.of_epoch, 'step')} an epoch, "
            f"{counted(self.steps, 'step')} in {counted(epochs, 'epoch')}"
            + ("" if self.steps == epochs * self.of_epoch else " at most (max_steps)")
        )

    def on_step(self, progress: Progress) -> None:
        if not self.started:  # only here is it known how far earlier attempts came
            self.started, self.before, self.last_step = True, progress.step - 1, progress.step - 1
        now, ends = self.clock(), progress.step % self.of_epoch == 0 or progress.step == self.steps
        rare = now - self.last_time >= _SECONDS and progress.step - self.last_step >= _SHARE * self.of_epoch
        if ends or not rare:  # the end of an epoch has a line of its own
            return
        self.last_time, self.last_step = now, progress.step
        self.write_step(
            f"{self.name}: step {progress.step:,} of {self.steps:,}, epoch {progress.epoch + 1}, "
            f"loss {progress.loss:.4f}, lr {progress.lr:.2e}, {self._times(progress.step)}"
        )

    def on_epoch(self, entry: Mapping[str, float]) -> None:
        self.last_time, self.last_step = self.clock(), int(entry["step"])
        shown = {k: v for k, v in entry.items() if not k.startswith("val_") or k[4:] in self.measures}
        figures = ", ".join(f"{name} {value:.4f}" for name, value in shown.items() if name not in ("epoch", "step"))
        times = self._times(self.last_step)
        self.write(f"{self.name}: epoch {int(entry['epoch']) + 1}, step {self.last_step:,}: {figures}; {times}")

    def on_end(self, history: History) -> None:
        patience = self.config.early_stopping
        if patience is None or self.config.select_by is None or history.steps == self.steps:
            return
        metric = self.config.select_by[0].replace("_", " ")
        best = "no epoch was measured" if history.best is None else f"epoch {history.best + 1} was the best"
        self.write(
            f"{self.name}: stopped early: validation {metric} did not improve for {counted(patience, 'epoch')}; {best}"
        )

    def _times(self, step: int) -> str:
        """How long this attempt has taken, and how long the training will still take at its pace so far."""
        spent = self.clock() - self.began
        done, left = step - self.before, self.steps - step
        if not left or done < 1:
            return duration(spent)
        most = "at most " if self.config.early_stopping else ""
        return f"{duration(spent)}, {most}about {duration(spent / done * left)} left"
