"""What is called while a model trains: schedules that change it, progress bars, logs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from kdnative.extras import require

__all__ = ["Callback", "Callbacks", "EpochLog", "History", "Progress", "ProgressBar"]

HOOKS = ("on_start", "on_step", "on_epoch", "on_end")


@dataclass
class History:
    """What happened: one entry a finished epoch, with "epoch", "step", mean "loss", its parts, and "val_..." values.

    `best` is the index of the epoch whose weights the model holds when ``select_by`` was set, else None.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    best: int | None = None


@dataclass(frozen=True)
class Progress:
    """Where a training is: step (from 1) of steps, epoch (from 0), this step's loss and rate, and the model."""

    step: int
    steps: int
    epoch: int
    loss: float
    lr: float
    model: nn.Module


class Callback:
    """What `train` calls. Inherit from it, or write a class with some of these methods.

    A callback with ``state_dict`` and ``load_state_dict`` has its state saved with the training and restored with it.
    """

    def on_start(self, model: nn.Module) -> None:
        """Before the first step, and before a saved state is loaded: gives the model the buffers it will have."""

    def on_step(self, progress: Progress) -> None:
        """After every optimizer step; it may change weights."""

    def on_epoch(self, entry: dict[str, float]) -> None:
        """After every epoch and its validation, with its entry of the history."""

    def on_end(self, history: History) -> None:
        """When the training is over and the model has the weights that it keeps; not when it fails."""


class Callbacks:
    """Several callbacks as one.

    Raises:
        TypeError: one of them has none of the methods of a `Callback`.
    """

    def __init__(self, callbacks: Iterable[Any]):
        self.all = tuple(callbacks)
        for i, callback in enumerate(self.all):
            if isinstance(callback, type) or not any(hasattr(callback, name) for name in (*HOOKS, "state_dict")):
                raise TypeError(f"callbacks[{i}] is {type(callback).__name__} without any of {', '.join(HOOKS)}")
        self._hooks = {name: [getattr(c, name) for c in self.all if hasattr(c, name)] for name in HOOKS}

    def call(self, hook: str, *arguments: Any) -> None:
        for function in self._hooks[hook]:
            function(*arguments)

    def with_state(self) -> dict[str, Any]:
        """Those whose state is saved, by the name it is saved under."""
        kept = [callback for callback in self.all if hasattr(callback, "state_dict")]
        return {f"callback {i}": callback for i, callback in enumerate(kept)}


class EpochLog(Callback):
    """Hands every epoch's entry of the history to a function."""

    def __init__(self, log: Callable[[dict[str, float]], None]):
        self.on_epoch = log


class ProgressBar(Callback):
    """A bar of tqdm on the terminal, one tick a step.

    Raises:
        ImportError: tqdm is not installed.
    """

    def __init__(self) -> None:
        self._tqdm, self._bar = require("tqdm", "ProgressBar").tqdm, None

    def on_step(self, progress: Progress) -> None:
        if self._bar is None:
            done = progress.step - 1
            self._bar = self._tqdm(total=progress.steps, initial=done, unit="step", dynamic_ncols=True)
        self._bar.update()

    def on_end(self, history: History) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
