"""The training loop: one function for fine-tuning, distillation, recovery after pruning and QAT."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from kdnative.data.batches import Batch, Batches, TokenizedDataset, collate
from kdnative.distill.cache import SoftLabels
from kdnative.distill.dropout import fast_dropout
from kdnative.distill.loss import DistillationLoss
from kdnative.distill.state import ResumeError, capture, differences, read_state, restore, shapes, write_state
from kdnative.evaluate.predict import autocast, evaluating, logits_of, predict, select_device
from kdnative.extras import require

__all__ = ["BatchSource", "History", "Progress", "learning_rate", "parameter_groups", "train"]


# What a saved state must hold to be continued.
STATE = {"run": dict, "parts": dict, "random": dict, "history": dict, "weights": dict, "sums": dict}


class BatchSource(Protocol):
    """What `train` iterates over; `kdnative.data.Batches` is one. The order must depend on the epoch number only."""

    fingerprint: str

    def __len__(self) -> int: ...

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]: ...


@dataclass
class History:
    """What happened: one entry a finished epoch, with "epoch", "step", mean "loss", its parts, and "val_..." values.

    `best` is the index of the epoch whose weights the model holds when ``select_best`` was set, else None.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    steps: int = 0
    best: int | None = None


@dataclass(frozen=True)
class Progress:
    """What ``on_step`` and ``log`` are told: step (from 1) of steps, epoch (from 0), this step's loss and rate."""

    step: int
    steps: int
    epoch: int
    loss: float
    lr: float
    model: nn.Module


def learning_rate(step: int, steps: int, warmup: int, schedule: str = "linear") -> float:
    """Factor of the learning rate for step 0 .. steps - 1: linear warmup, then decay towards 0 ("linear", "cosine")."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    if schedule == "linear":
        return 1.0 - done
    return 0.5 * (1.0 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0


def parameter_groups(modules: list[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters once each, in two groups: matrices decay; biases and normalisation (1-D) do not."""
    seen: dict[int, nn.Parameter] = {id(p): p for m in modules for p in m.parameters() if p.requires_grad}
    matrices = [p for p in seen.values() if p.dim() > 1]
    vectors = [p for p in seen.values() if p.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def train(
    model: nn.Module,
    batches: BatchSource,
    loss: DistillationLoss,
    *,
    epochs: int,
    lr: float,
    soft_labels: SoftLabels | None = None,
    teacher: nn.Module | None = None,
    teacher_data: TokenizedDataset | None = None,
    validation: Batches | None = None,
    select_best: bool = False,
    warmup: float = 0.1,
    schedule: str = "linear",
    weight_decay: float = 0.01,
    clip_norm: float | None = 1.0,
    amp: bool | str = "auto",
    device: str | torch.device = "auto",
    seed: int = 0,
    max_steps: int | None = None,
    state_path: str | Path | None = None,
    save_every: int | None = None,
    resume: bool = False,
    on_step: Callable[[Progress], None] | None = None,
    log: Callable[[dict[str, float]], None] | None = None,
    progress: bool = False,
) -> History:
    """Trains a model in place (AdamW, warmup and decay, gradient clipping) and returns what happened.

    Args:
        model: the student (or the teacher itself, with ``DistillationLoss(soft_weight=0)``); moved to `device`, left
            in evaluation mode.
        batches: training batches, such as ``Batches(data, 32, shuffle=True, seed=seed)``.
        loss: its parameters (projections of hidden states) are trained too.
        epochs, lr: passes over the batches; peak learning rate.
        soft_labels: cached teacher logits, looked up by ``batch.index``.
        teacher: run on every batch for its logits (unless cached ones are given) and hidden states.
        teacher_data: the same examples as `batches`, tokenised for the teacher, where its tokenizer is another one.
            Hidden states are compared token by token, so every example needs the same number of tokens in both.
        validation: evaluated after every epoch: "val_loss" (cross entropy) and "val_accuracy".
        select_best: end with the weights of the epoch with the best validation accuracy (ties: the earlier one).
        warmup: share of all steps in which the rate rises linearly. schedule: "linear", "cosine" or "constant".
        weight_decay: of matrices; biases and normalisation parameters have none.
        clip_norm: largest norm of the gradient; None: unlimited.
        amp: bf16 autocast: True, False or "auto" (where the hardware multiplies bf16; weights stay fp32).
        device: "auto", "cpu", "cuda" ...
        seed: of dropout and everything else random in the model (the order of batches has its own).
        max_steps: stop (and plan the schedule) after this many steps instead of all epochs.
        state_path: file for the whole training state, written atomically after every epoch and every `save_every`
            steps. resume: continue from it if it exists; the weights then end up the same, bit for bit, as without
            the interruption (same machine, same number of threads).
        on_step: called after every optimizer step, for pruning schedules and the like; it may change weights. If it
            has ``state_dict`` / ``load_state_dict``, they are saved and restored as well.
        log: called with every epoch's entry of the history. progress: a tqdm bar.

    Raises:
        ValueError: arguments that contradict each other. ResumeError: a state of another run, or an existing state
        without ``resume=True``. FloatingPointError: the loss became NaN or infinite.
    """
    device = select_device(device)
    steps = epochs * len(batches) if max_steps is None else min(max_steps, epochs * len(batches))
    _check(epochs, lr, warmup, schedule, save_every)
    _check_sources(batches, loss, soft_labels, teacher, teacher_data, validation, select_best)
    for module in (model, loss, *([] if teacher is None else [teacher])):
        module.to(device)
    groups = parameter_groups([model, loss], weight_decay)
    # One kernel a parameter: the embedding table alone makes the plain loop a fifth of a step.
    optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)
    trained = [p for g in groups for p in g["params"]]
    parts = {"model": model, "loss": loss, "optimizer": optimizer}
    if hasattr(on_step, "state_dict"):
        parts["on_step"] = on_step
    run = {"epochs": epochs, "lr": lr, "steps": steps, "warmup": warmup, "schedule": schedule, "seed": seed}
    run |= {"weight_decay": weight_decay, "clip_norm": clip_norm, "amp": str(amp), "select_best": select_best}
    run |= {
        "data": batches.fingerprint,
        "model": shapes(model),
        "soft_labels": None if soft_labels is None else soft_labels.teacher,
    }
    run |= {"temperature": loss.temperature, "soft_weight": loss.soft_weight, "hard_weight": loss.hard_weight}
    run |= {"hidden_weight": loss.hidden_weight, "label_smoothing": loss.label_smoothing}
    history, best, sums = History(), {}, {}
    torch.manual_seed(seed)
    if state_path is not None and Path(state_path).exists():
        history, best, sums = _continue(state_path, resume, run, parts)

    def save() -> None:
        if state_path is not None:
            past = {"epochs": history.epochs, "steps": history.steps, "best": history.best}
            write_state(state_path, {**capture(parts), "run": run, "history": past, "weights": best, "sums": sums})

    bar = _bar(steps, history.steps) if progress else None
    while history.steps < steps:
        epoch, start = divmod(history.steps, len(batches))
        model.train()
        for batch in batches.epoch(epoch, start):
            rate = lr * learning_rate(history.steps, steps, round(warmup * steps), schedule)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with fast_dropout(model):  # backward too: gradient checkpointing computes activations again there
                with autocast(device, amp):
                    value = _loss_of(model, loss, batch.to(device), soft_labels, teacher, teacher_data)
                if not bool(torch.isfinite(value)):
                    raise FloatingPointError(
                        f"step {history.steps + 1}: the loss is {value.item()}; lower lr ({lr}), or amp=False"
                    )
                optimizer.zero_grad(set_to_none=True)
                value.backward()
            if clip_norm is not None:
                nn.utils.clip_grad_norm_(trained, clip_norm)
            optimizer.step()
            history.steps += 1
            for name, part in {"loss": value.detach(), **loss.parts}.items():
                sums[name] = sums.get(name, 0.0) + float(part)
            if on_step is not None:
                on_step(Progress(history.steps, steps, epoch, float(value.detach()), rate, model))
            if bar is not None:
                bar.update()
            if history.steps == steps or history.steps % len(batches) == 0:
                break
            if save_every is not None and history.steps % save_every == 0:
                save()
        done = history.steps - epoch * len(batches)
        entry = {"epoch": epoch, "step": history.steps, **{name: total / done for name, total in sums.items()}}
        sums = {}
        if validation is not None:
            entry |= _validate(model, validation, device, amp)
            if select_best and (
                history.best is None or entry["val_accuracy"] > history.epochs[history.best]["val_accuracy"]
            ):
                history.best = len(history.epochs)
                best = {name: v.detach().cpu().clone() for name, v in model.state_dict().items()}
        history.epochs.append(entry)
        save()
        if log is not None:
            log(entry)
    if bar is not None:
        bar.close()
    if best:
        model.load_state_dict(best)
    model.eval()
    return history


def _loss_of(
    model: nn.Module,
    loss: DistillationLoss,
    batch: Batch,
    soft_labels: SoftLabels | None,
    teacher: nn.Module | None,
    teacher_data: TokenizedDataset | None,
) -> torch.Tensor:
    """Forward pass of the student, and of the teacher where it is needed."""
    hidden = {"output_hidden_states": True} if loss.hidden is not None else {}
    output = model(**batch.inputs, **hidden)
    logits = logits_of(output)
    target, states = None, {}
    if loss.soft_weight and soft_labels is not None:
        target = soft_labels[batch.index].to(logits.device)
    if hidden or (loss.soft_weight and target is None):
        inputs = batch.inputs
        if teacher_data is not None:
            rows = [teacher_data[int(i)] for i in batch.index]
            padded = collate(rows, teacher_data.pad_id, inputs["input_ids"].shape[1] if hidden else 1)
            inputs = {name: v.to(logits.device) for name, v in padded.items()}
        with evaluating(teacher):
            answer = teacher(**inputs, **hidden)
        target = logits_of(answer) if target is None else target
        if hidden:
            states = {"student_hidden": output.hidden_states, "teacher_hidden": answer.hidden_states}
            states["attention_mask"] = batch.inputs.get("attention_mask")
    return loss(logits, target, batch.labels, **states)


def _validate(model: nn.Module, validation: Batches, device: torch.device, amp: bool | str) -> dict[str, float]:
    found = predict(model, validation, device=device, amp=amp)
    value = nn.functional.cross_entropy(found.logits.double(), found.labels)
    return {"val_loss": float(value), "val_accuracy": float((found.classes == found.labels).double().mean())}


def _bar(steps: int, done: int) -> Any:
    return require("tqdm", "progress=True").tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True)


def _continue(path: str | Path, resume: bool, run: dict[str, Any], parts: dict[str, Any]) -> tuple[History, dict, dict]:
    if not resume:
        raise ResumeError(
            f"{path} holds the state of a training run: pass resume=True to continue it, or delete the file"
        )
    state = read_state(path, STATE)
    changed = differences(state["run"], run)
    if changed:
        raise ResumeError(f"{path} belongs to another run ({'; '.join(changed)}); undo the change, or delete the file")
    if not _is_history(state["history"]) or state["weights"].keys() - parts["model"].state_dict().keys():
        raise ResumeError(f"{path} does not tell how its training went; delete the file to train from the start again")
    try:
        restore(state, parts)
    except ResumeError as error:
        raise ResumeError(f"{path}: {error}; delete the file to train from the start again") from error
    return History(**state["history"]), state["weights"], state["sums"]


def _is_history(past: dict[str, Any]) -> bool:
    if past.keys() != {"epochs", "steps", "best"} or not isinstance(past["epochs"], list):
        return False
    places = (*range(len(past["epochs"])), None)
    entries = all(isinstance(entry, dict) for entry in past["epochs"])
    return entries and isinstance(past["steps"], int) and past["best"] in places


def _check(epochs: int, lr: float, warmup: float, schedule: str, save_every: int | None) -> None:
    if epochs < 0 or not lr > 0 or not 0 <= warmup < 1:
        raise ValueError(f"epochs={epochs}, lr={lr}, warmup={warmup}: needed are epochs >= 0, lr > 0, 0 <= warmup < 1")
    if schedule not in ("linear", "cosine", "constant"):
        raise ValueError(f'schedule={schedule!r}: allowed are "linear", "cosine" and "constant"')
    if save_every is not None and save_every < 1:
        raise ValueError(f"save_every={save_every}: at least 1 step, or None")


def _check_sources(
    batches: BatchSource,
    loss: DistillationLoss,
    soft_labels: SoftLabels | None,
    teacher: nn.Module | None,
    teacher_data: TokenizedDataset | None,
    validation: Batches | None,
    select_best: bool,
) -> None:
    """Refuses sources of targets that are missing, or that belong to other examples than the batches."""
    if not len(batches):
        raise ValueError("there are no batches to train on")
    if loss.soft_weight and soft_labels is None and teacher is None:
        raise ValueError("soft_weight > 0 needs soft_labels=SoftLabels.compute(...) or teacher=; or set soft_weight=0")
    if loss.hidden is not None and teacher is None:
        raise ValueError("hidden_weight > 0 needs teacher=: hidden states are not cached")
    if select_best and (validation is None or validation.data.labels is None):
        raise ValueError("select_best=True needs labelled validation batches")
    data = getattr(batches, "data", None)
    if data is None:
        return
    if soft_labels is not None and soft_labels.source != data.source.fingerprint:
        raise ValueError("soft_labels were computed for other examples than the batches hold; compute them for these")
    if teacher_data is not None and teacher_data.source.fingerprint != data.source.fingerprint:
        raise ValueError("teacher_data holds other examples than the batches; tokenise the same dataset")
    if teacher_data is not None and loss.hidden is not None and (teacher_data.lengths != data.lengths).any():
        row = int((teacher_data.lengths != data.lengths).nonzero()[0][0])
        raise ValueError(
            f"hidden states cannot be compared: example {row} has {data.lengths[row]} tokens for the student and "
            f"{teacher_data.lengths[row]} for the teacher; use hidden_weight=0, or tokenizers that split alike"
        )
