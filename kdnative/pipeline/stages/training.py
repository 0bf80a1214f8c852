"""What the training stages share: data, losses, the loop with its resume file, and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kdnative.data import Batches
from kdnative.data.batches import EncodedDataset
from kdnative.distill import (
    Callback,
    HiddenStateLoss,
    LossTerm,
    ProgressBar,
    SoftLabels,
    Teacher,
    TrainConfig,
    train,
    uniform_layer_map,
)
from kdnative.evaluate import Predictions, predict
from kdnative.pipeline.folder import STATE
from kdnative.pipeline.models import parameters
from kdnative.pipeline.runlog import FILE_ONLY
from kdnative.pipeline.stages.base import Context
from kdnative.pipeline.training_log import TrainingLog

if TYPE_CHECKING:
    from kdnative.pipeline.sections import Distilling, Training

MODEL = "model"
VALIDATION_BATCH = 64
_PRECISIONS = {True: "bf16", False: "fp32", "auto": "auto"}  # of a recipe's `amp`


def encoded(context: Context, source: str, split: str) -> EncodedDataset:
    """A split of the data as the model from ``source`` reads it; made once per run.

    Args:
        split: "train", "validation" or "test"; or "labelled", the training examples that have a label.
    """
    cache = context.shared.cache
    key = f"{split} for {source}"
    if key not in cache:
        cache[key] = context.kind.encode(context.shared, source, getattr(context.data, split))
    return cache[key]


def hard_loss(context: Context) -> list[LossTerm]:
    """The labels alone."""
    return [context.task.hard_loss(1.0, context.settings, class_weights(context))]


def distillation_loss(context: Context, student: nn.Module, teacher: nn.Module | None) -> list[LossTerm]:
    """The loss of a distilling stage, with projections of the hidden states where the widths differ.

    The teacher may be None without ``hidden_weight``.
    """
    settings: Distilling = context.settings
    terms = [
        context.task.hard_loss(settings.hard_weight, settings, class_weights(context)),
        context.task.soft_loss(settings.soft_weight, settings.temperature, settings.soft_loss),
    ]
    if settings.hidden_weight:
        layers = student.config.num_hidden_layers, teacher.config.num_hidden_layers
        pairs = settings.layer_map or uniform_layer_map(*layers)
        widths = student.config.hidden_size, teacher.config.hidden_size
        terms.append(HiddenStateLoss(pairs, *widths, metric=settings.hidden_metric, weight=settings.hidden_weight))
    return terms


def class_weights(context: Context) -> list[float] | None:
    """Weights of the classes: as given, or the inverse of their share of the training split ("balanced")."""
    chosen = context.settings.class_weights
    if chosen != "balanced":
        return chosen
    counts = context.data.train.counts
    absent = [name for name, count in counts.items() if not count]
    if absent:
        raise ValueError(
            f"{context.section}.class_weights is 'balanced', but the training split has no {absent[0]!r}: "
            "give the weights as a list"
        )
    return [sum(counts.values()) / (len(counts) * count) for count in counts.values()]


def fit(
    context: Context,
    model: nn.Module,
    loss: Sequence[LossTerm],
    source: str,
    *,
    soft_labels: SoftLabels | None = None,
    teacher: nn.Module | None = None,
    answers: Predictions | None = None,
) -> dict[str, Any]:
    """Trains a model with the stage's settings, from the last saved step if there is one; returns the figures.

    A model that learns from a teacher does so from the whole training split, any other from its labelled examples:
    they alone make steps and epochs. The model is on the CPU afterwards. The saved state stays until the whole stage is
    finished.

    Args:
        soft_labels, teacher: what the loss learns from.
        answers: the teacher's to the validation split, where the best epoch is the one closest to it.
    """
    settings: Training = context.settings
    seed = context.recipe.seed
    _check_recipe(context, source, model)
    split = "train" if settings.learns_from_teacher else "labelled"
    batches = context.kind.batches(context, source, encoded(context, source, split))
    precision = _PRECISIONS[settings.amp]
    if precision == "auto":
        precision = context.kind.precision(context, model, batches, loss)
    state = context.folder / STATE
    if state.is_file():
        context.log.info("%s: continues from its last saved step", context.stage)
    config = TrainConfig(
        epochs=settings.epochs,
        lr=settings.lr,
        warmup=settings.warmup,
        schedule=settings.schedule,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        max_steps=settings.max_steps,
        precision=precision,
        device=context.device,
        seed=seed,
        accumulation=settings.accumulate,
        select_by=_select_by(context),
        early_stopping=settings.early_stopping,
    )
    log = TrainingLog(
        context.log.info,
        partial(context.log.info, extra=FILE_ONLY if context.progress else None),
        name=context.section,
        config=config,
        batches=len(batches),
        examples=len(batches.data),
        measures=tuple({"loss", context.task.deciding.key, *(config.select_by or ())}),
    )
    history = train(
        model,
        batches,
        loss,
        config,
        teachers=[] if teacher is None and soft_labels is None else [Teacher(teacher, soft_labels)],
        validation=context.task.validation(Batches(encoded(context, source, "validation"), VALIDATION_BATCH), answers),
        callbacks=[_Clock(context), log, *([ProgressBar()] if context.progress else [])],
        state_path=state,
        save_every=settings.save_every,
        resume=True,
    )
    model.cpu()
    return {
        "parameters": parameters(model),
        "steps": history.steps,
        "best_epoch": history.best,
        "history": [_point(entry) for entry in history.epochs],
    }


def as_it_is(context: Context, model: nn.Module, source: str) -> dict[str, Any]:
    """The figures of `fit` for a model that has learned enough: it is measured on the validation split, not trained."""
    _check_recipe(context, source, model)
    data = encoded(context, source, "validation")
    found = context.task.measured(predict(model, data, batch_size=VALIDATION_BATCH, device=context.device))
    model.cpu()
    deciding = context.task.deciding
    context.log.info(
        "%s: the teacher is already fine-tuned and is not trained; validation %s %s",
        context.section,
        deciding.name,
        deciding.text(found[deciding.key]),
    )
    return {"parameters": parameters(model), "steps": 0, "best_epoch": None, "history": [], "validation": found}


def asks_teacher(context: Context) -> bool:
    """Whether the stage needs the teacher's answers to the validation split."""
    return context.settings.select_best and _measure(context) == context.task.from_teacher


def _select_by(context: Context) -> tuple[str, str] | None:
    """The measure that makes an epoch the best, and whether most or least of it is better."""
    if not context.settings.select_best:
        return None
    name = _measure(context)
    return name, context.task.selectable[name]


def _measure(context: Context) -> str:
    usual = context.task.from_teacher if context.settings.follows_teacher else context.task.deciding.key
    return context.settings.select_by or usual


def _check_recipe(context: Context, source: str, model: nn.Module) -> None:
    """What only the model itself can tell of a recipe (one of the hub has not been rehearsed), before it is trained."""
    recipe, who = context.recipe, "teacher" if context.of_teacher else "student"
    context.kind.check_sizes(recipe, who, source, model, [stage.name for stage in recipe.active_stages()])
    context.kind.check_training(context, source)


def save_model(context: Context, model: nn.Module, source: str) -> int:
    """Saves the stage's model with what it reads its inputs by, and returns the bytes of the model file."""
    from kdnative.checkpoint import file_size

    path = context.folder / MODEL
    context.kind.save(context, model, source, path)
    return file_size(path)


def load_model(context: Context, stage: str) -> nn.Module:
    """The model that an earlier stage saved, on the CPU, in evaluation mode."""
    return context.kind.load_saved(context.input(stage) / MODEL)


def compared(context: Context, before: Predictions, after: Predictions) -> dict[str, float]:
    """What the conversion of a model changed on the validation split."""
    task, key = context.task, context.task.deciding.key
    scores = {f"{key}_before": task.score(before), f"{key}_native": task.score(after)}
    return {**scores, "agreement": task.agreement(before, after).value}


def seeded(context: Context) -> None:
    """What is drawn at random next depends on the recipe's seed only, not on what ran before in this process."""
    torch.manual_seed(context.recipe.seed)


class _Clock(Callback):
    """Keeps the stage's seconds within the state of its training, so that those of interrupted attempts count."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.context.seconds()}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.context.earlier_seconds = state["seconds"]


def _point(entry: dict[str, float]) -> dict[str, float]:
    """One entry of the loop's history under the names that the report reads."""
    return {key.replace("val_", "validation_", 1): value for key, value in entry.items()}
