"""The training loop: one function for fine-tuning, distillation, recovery after pruning and QAT."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from kdnative.distill.cache import SoftLabels
from kdnative.distill.callbacks import Callbacks, History, Progress
from kdnative.distill.config import TrainConfig
from kdnative.distill.dropout import fast_dropout
from kdnative.distill.heads import find_heads
from kdnative.distill.outputs import run
from kdnative.distill.runtime import accelerator
from kdnative.distill.state import ResumeError, capture, differences, read_state, restore, shapes, write_state
from kdnative.distill.teachers import Teacher, check_teachers
from kdnative.distill.terms import LossTerm, LossTerms
from kdnative.distill.validation import evaluator
from kdnative.evaluate.predict import fast_bf16, select_device
from kdnative.nn.modes import evaluating

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["BatchSource", "TrainingBatch", "parameter_groups", "train"]

# What a saved state must hold to be continued.
STATE = {"run": dict, "parts": dict, "random": dict, "history": dict, "weights": dict, "sums": dict}


class TrainingBatch(Protocol):
    """What `train` reads of a batch, whatever the task; `kdnative.data.Batch` is one.

    Attributes:
        inputs: keyword arguments of the model. labels: what the loss terms compare with, or None.
        index: int64 [B], positions of the examples in the data set; cached soft labels are looked up by them.
    """

    inputs: dict[str, Tensor]
    labels: Any
    index: Tensor

    def to(self, device: torch.device) -> TrainingBatch: ...


class BatchSource(Protocol):
    """What `train` iterates over; `kdnative.data.Batches` is one. The order must depend on the epoch number only."""

    fingerprint: str

    def __len__(self) -> int: ...

    def epoch(self, number: int, start: int = 0) -> Iterator[TrainingBatch]: ...


def train(
    model: nn.Module,
    batches: BatchSource,
    loss: LossTerms | LossTerm | Iterable[LossTerm],
    config: TrainConfig,
    *,
    teachers: Sequence[Teacher | nn.Module | SoftLabels] = (),
    validation: Any = None,
    callbacks: Sequence[Any] = (),
    state_path: str | Path | None = None,
    save_every: int | None = None,
    resume: bool = False,
) -> History:
    """Trains a model in place (AdamW, warmup and decay, gradient clipping) and returns what happened.

    Runs on Accelerate, in one process.

    Args:
        model: the student (or a teacher itself, with a loss of hard labels); moved to the device, left in evaluation
            mode.
        batches: training batches, such as ``Batches(data, 32, shuffle=True, seed=seed)``.
        loss: the terms, or a `DistillationLoss`; their parameters (projections of hidden states) are trained too.
        config: epochs, learning rate, precision, device and so on.
        teachers: whom the loss learns from: models, cached `SoftLabels`, or `Teacher` for both of one.
        validation: measured after every epoch: an object with ``evaluate(model) -> {metric: value}`` or such a
            function, see `Validation`; labelled `Batches` of a classifier give "loss" and "accuracy". The history has
            the metrics as "val_...".
        callbacks: objects with some of the methods of `Callback`, called in their order.
        state_path: file for the whole training state, written atomically after every epoch and every `save_every`
            steps. resume: continue from it if it exists; the weights then end up the same, bit for bit, as without
            the interruption (same machine, same number of threads).

    Raises:
        ValueError: arguments that contradict each other.
        ResumeError: a state of another run, or an existing state without ``resume=True``.
        FloatingPointError: the loss became NaN or infinite.
        ImportError: accelerate is not installed.
    """
    if save_every is not None and save_every < 1:
        raise ValueError(f"save_every={save_every}: at least 1 step, or None")
    if not len(batches):
        raise ValueError("the training data has no batches")
    terms = loss if isinstance(loss, LossTerms) else LossTerms([loss] if isinstance(loss, LossTerm) else loss)
    asked = [Teacher.of(teacher) for teacher in teachers]
    check_teachers(asked, terms, getattr(batches, "data", None))
    evaluate = evaluator(validation, config.select_by)
    hooks = Callbacks(callbacks)
    device = select_device(config.device)
    bf16 = config.precision == "bf16" or (config.precision == "auto" and fast_bf16(device))
    with accelerator(device, bf16) as runtime:
        loop = _Loop(runtime, model, batches, terms, config, asked, evaluate, hooks, state_path)
        if state_path is not None and Path(state_path).exists():
            loop.resume(state_path, resume)
        loop.run(save_every)
    hooks.call("on_end", loop.history)
    return loop.history


def parameter_groups(modules: Sequence[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters once each, in two groups: matrices decay; biases and normalisation (1-D) do not."""
    seen: dict[int, nn.Parameter] = {id(p): p for m in modules for p in m.parameters() if p.requires_grad}
    matrices = [p for p in seen.values() if p.dim() > 1]
    vectors = [p for p in seen.values() if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


class _Loop:
    """One training: what it works with, and how far it is."""

    def __init__(
        self,
        runtime: Accelerator,
        model: nn.Module,
        batches: BatchSource,
        loss: LossTerms,
        config: TrainConfig,
        teachers: list[Teacher],
        evaluate: Any,
        callbacks: Callbacks,
        state_path: str | Path | None,
    ):
        self.runtime, self.model, self.batches, self.loss, self.config = runtime, model, batches, loss, config
        self.teachers, self.evaluate, self.callbacks, self.state_path = teachers, evaluate, callbacks, state_path
        for module in (model, loss, *(teacher.model for teacher in teachers if teacher.model is not None)):
            module.to(runtime.device)
        torch.manual_seed(config.seed)
        callbacks.call("on_start", model)
        groups = parameter_groups([model, loss], config.weight_decay)
        # One kernel a parameter: the embedding table alone makes the plain loop a fifth of a step.
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=True)
        self.trained = [p for group in groups for p in group["params"]]
        self.steps, self.steps_of_epoch = config.steps(len(batches)), config.steps_of_epoch(len(batches))
        self.history, self.best, self.sums = History(), {}, {}
        self.parts = {"model": model, "loss": loss, "optimizer": self.optimizer, **callbacks.with_state()}
        self.description = {
            **config.decides(),
            "steps": self.steps,
            "data": batches.fingerprint,
            "model": shapes(model),
            "teachers": [] if state_path is None else [teacher.description() for teacher in teachers],
            **loss.settings(),
        }
        self.needs = loss.needs
        self.teacher_needs = [loss.teacher_needs(i) for i in range(len(teachers))]
        with runtime.autocast():  # as in the forward passes: a cast of the logits is seen only here
            self.head, self.teacher_heads = find_heads(model, teachers, loss, self._first_batch)

    def _first_batch(self) -> TrainingBatch:
        return next(iter(self.batches.epoch(0))).to(self.runtime.device)

    def run(self, save_every: int | None) -> None:
        """Every step that is left, and the weights to keep."""
        history, size = self.history, self.config.accumulation
        while history.steps < self.steps and not self._is_stuck():
            epoch, done = divmod(history.steps, self.steps_of_epoch)
            self.model.train()
            ahead = iter(self.batches.epoch(epoch, done * size))
            while group := list(islice(ahead, size)):
                self._step(epoch, group)
                if history.steps == self.steps or history.steps % self.steps_of_epoch == 0:
                    break
                if save_every is not None and history.steps % save_every == 0:
                    self._save()
            self._end_epoch(epoch)
        if self.best:
            self.model.load_state_dict(self.best)
        self.model.eval()

    def _step(self, epoch: int, group: list[TrainingBatch]) -> None:
        """One step of the optimizer on some batches, as if they were one: see `LossTerms.shares`."""
        config, history = self.config, self.history
        rate = config.lr * config.factor(history.steps, self.steps)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        # Not Accelerator.accumulate: it divides by a fixed number of batches, and its counter knows no end of an epoch.
        for batch, shares in zip(group, self.loss.shares(group), strict=True):
            total += self._backward(batch, shares)
            for name, part in self.loss.parts.items():
                self._note(name, float(part) * shares[name], shares[name])
        self._note("loss", total, 1.0)
        if config.clip_norm is not None:
            self.runtime.clip_grad_norm_(self.trained, config.clip_norm)
        self.optimizer.step()
        history.steps += 1
        self.callbacks.call("on_step", Progress(history.steps, self.steps, epoch, total, rate, self.model))

    def _note(self, name: str, value: float, steps: float) -> None:
        """Adds to what the epoch's mean of a figure is made from: the steps in which it had something to count."""
        total, so_far = self.sums.get(name, (0.0, 0.0))
        self.sums[name] = total + value, so_far + steps

    def _backward(self, batch: TrainingBatch, shares: dict[str, float]) -> float:
        """Adds a batch's gradients and returns its part of the step's loss."""
        with fast_dropout(self.model):  # backward too: gradient checkpointing computes activations again there
            with self.runtime.autocast():
                value = self._loss_of(batch.to(self.runtime.device), shares)
            number = float(value.detach())
            if not math.isfinite(number):
                raise FloatingPointError(
                    f"step {self.history.steps + 1}: the loss is {number}; lower lr ({self.config.lr}), or compute in "
                    'precision="fp32"'
                )
            self.runtime.backward(value)
        return number

    def _loss_of(self, batch: TrainingBatch, shares: dict[str, float]) -> Tensor:
        """Forward pass of the student, and of the teachers as far as they are needed."""
        student = run(self.model, batch.inputs, self.needs, self.head)
        answers = [
            teacher.answer(batch, needs, head, self.runtime.device)
            for teacher, needs, head in zip(self.teachers, self.teacher_needs, self.teacher_heads, strict=True)
        ]
        return self.loss(batch, student, answers, shares)

    def _end_epoch(self, epoch: int) -> None:
        """Writes down what the epoch gave, keeps its weights if they are the best, and saves everything."""
        means = {name: total / steps for name, (total, steps) in self.sums.items() if steps}  # of those it spoke of
        entry = {"epoch": epoch, "step": self.history.steps, **means}
        self.sums = {}
        if self.evaluate is not None:
            with evaluating(self.model), self.runtime.autocast():
                entry |= {f"val_{name}": value for name, value in self.evaluate(self.model).items()}
            if self._is_best(entry):
                self.history.best = len(self.history.epochs)
                self.best = {name: v.detach().cpu().clone() for name, v in self.model.state_dict().items()}
        self.history.epochs.append(entry)
        self.callbacks.call("on_epoch", entry)
        self._save()

    def _is_stuck(self) -> bool:
        """Whether so many epochs in a row brought nothing better that the training ends early.

        The history says it all, so that a resumed training ends where it would have ended.
        """
        patience, history = self.config.early_stopping, self.history
        best = -1 if history.best is None else history.best
        return patience is not None and len(history.epochs) - 1 - best >= patience

    def _is_best(self, entry: dict[str, float]) -> bool:
        if self.config.select_by is None:
            return False
        metric, direction = self.config.select_by
        name = f"val_{metric}"
        if name not in entry:
            given = ", ".join(key.removeprefix("val_") for key in entry if key.startswith("val_"))
            raise ValueError(f"select_by={self.config.select_by}, but the validation gives {given}: give one of these")
        if math.isnan(entry[name]):  # such as a correlation with answers that are all alike
            return False
        if self.history.best is None:
            return True
        best = self.history.epochs[self.history.best][name]
        return entry[name] > best if direction == "max" else entry[name] < best

    def _save(self) -> None:
        if self.state_path is not None:
            past = {"epochs": self.history.epochs, "steps": self.history.steps, "best": self.history.best}
            own = {"run": self.description, "history": past, "weights": self.best, "sums": self.sums}
            write_state(self.state_path, {**capture(self.parts), **own})

    def resume(self, path: str | Path, allowed: bool) -> None:
        """Goes on from a saved state.

        Raises:
            ResumeError: it is not allowed, belongs to another run, or does not hold what it should.
        """
        if not allowed:
            raise ResumeError(
                f"{path} holds the state of a training run: pass resume=True to continue it, or delete the file"
            )
        state = read_state(path, STATE)
        changed = differences(state["run"], self.description)
        if changed:
            raise ResumeError(
                f"{path} belongs to another run ({'; '.join(changed)}); undo the change, or delete the file"
            )
        if not _is_history(state["history"]) or state["weights"].keys() - self.model.state_dict().keys():
            raise ResumeError(f"{path} has no training history; delete the file to start the training again")
        try:
            restore(state, self.parts)
        except ResumeError as error:
            raise ResumeError(f"{path}: {error}; delete the file to start the training again") from error
        self.history, self.best, self.sums = History(**state["history"]), state["weights"], state["sums"]


def _is_history(past: dict[str, Any]) -> bool:
    if past.keys() != {"epochs", "steps", "best"} or not isinstance(past["epochs"], list):
        return False
    places = (*range(len(past["epochs"])), None)
    entries = all(isinstance(entry, dict) for entry in past["epochs"])
    return entries and isinstance(past["steps"], int) and past["best"] in places
