"""The student: trained on labels alone for comparison, distilled, pruned, and recovered for its integer weights."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kdnative.data import Batches
from kdnative.distill import SoftLabels
from kdnative.evaluate import logits_of
from kdnative.pipeline.models import load_classifier, parameters
from kdnative.pipeline.stages.base import Context, Stage
from kdnative.pipeline.stages.teacher import SOFT_LABELS, for_hidden_states
from kdnative.pipeline.stages.training import (
    distillation_loss,
    fit,
    hard_loss,
    load_model,
    save_model,
    seeded,
    student_source,
    tokenized,
    tokenizer,
)
from kdnative.pipeline.vocabulary import TranslatingTeacher, id_table

if TYPE_CHECKING:
    from kdnative.pipeline.schema import Recipe


def _train_baseline(context: Context) -> dict[str, Any]:
    model = _new_student(context)
    source = student_source(context.recipe)
    metrics = fit(context, model, hard_loss(context), source)
    metrics["bytes"] = save_model(context, model, source)
    return metrics


def _distil(context: Context) -> dict[str, Any]:
    return _learn(context, _new_student(context))


def _prune(context: Context) -> dict[str, Any]:
    """Removes heads, neurons and layers for good, then lets what is left learn from the teacher again."""
    from kdnative.prune import structured_

    settings = context.settings
    model = load_model(context, "distil")
    before = parameters(model)
    batches = _calibration(context)
    options: dict[str, Any] = {}
    if settings.importance == "taylor":
        options = {"calibration": batches, "loss": _task_loss}
    seeded(context)
    report = structured_(
        model,
        heads=settings.heads,
        ffn=settings.ffn,
        layers=settings.layers,
        multiple_of=settings.multiple_of,
        example_inputs=batches[0].inputs,
        **options,
    )
    context.log.info("prune: %d parameters before, %d after", before, parameters(model))
    return {**_learn(context, model), "parameters_before": before, "pruning": report.to_dict()["rows"]}


def _recover(context: Context) -> dict[str, Any]:
    """Quantization-aware distillation: forward in the integer arithmetic of the kernels, learning from the teacher."""
    from kdnative.quantize import prepare_qat_

    model = load_model(context, context.recipe.student_before("recover"))
    quantized = prepare_qat_(model, context.settings.schemes, clip=context.settings.clip)
    context.log.info("recover: %d linear layers run in integer arithmetic from here on", len(quantized))
    return {**_learn(context, model), "quantized_layers": quantized}


def _new_student(context: Context) -> nn.Module:
    """The student before any training: some layers of the fine-tuned teacher, or a model of its own."""
    settings = context.recipe.student
    seeded(context)
    if settings.source == "teacher":
        model = load_model(context, "train_teacher")
    else:
        model = load_classifier(settings.source, context.data.labels)
    if settings.layers is None:
        return model
    from kdnative.prune import student_from

    return student_from(model, layers=settings.layers)


def _learn(context: Context, model: nn.Module) -> dict[str, Any]:
    """Trains with the recipe's distillation loss, on the cached soft labels and the teacher's hidden states.

    Where tokens are hidden, the teacher has to label what is left, and runs with every batch.
    """
    source, settings = student_source(context.recipe), context.settings
    teacher = _running_teacher(context) if settings.hidden_weight or settings.mask_tokens else None
    soft_labels = None
    if settings.soft_weight and not settings.mask_tokens:
        labelled = tokenized(context, context.recipe.teacher.source, "train")
        soft_labels = SoftLabels.load(context.input("compress_teacher") / SOFT_LABELS, dataset=labelled)
    loss = distillation_loss(context, model, teacher)
    metrics = fit(context, model, loss, source, soft_labels=soft_labels, teacher=teacher)
    metrics["bytes"] = save_model(context, model, source)
    return metrics


def _running_teacher(context: Context) -> nn.Module:
    """The teacher for the hidden states and labels of single batches, on the student's token ids."""
    scheme = context.recipe.compress_teacher.scheme
    teacher = for_hidden_states(load_model(context, "train_teacher"), scheme, context.device)
    ours, theirs = student_source(context.recipe), context.recipe.teacher.source
    if ours == theirs:
        return teacher
    return TranslatingTeacher(teacher, id_table(tokenizer(context, ours), tokenizer(context, theirs)))


def _calibration(context: Context) -> list[Any]:
    """The first shuffled batches of the training split."""
    settings = context.settings
    data = tokenized(context, student_source(context.recipe), "train")
    batches = Batches(data, settings.batch_size, shuffle=True, seed=context.recipe.seed)
    return list(itertools.islice(batches, settings.calibration_batches))


def _task_loss(model: nn.Module, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(logits_of(model(**batch.inputs)), batch.labels)


def _sources(recipe: Recipe) -> tuple[str, ...]:
    """Where a new student comes from, when that is not a stage of the run."""
    return () if recipe.student.source == "teacher" else (recipe.student.source,)


_STUDENT = ("data", "teacher", "student")
TRAIN_BASELINE = Stage(
    "train_baseline",
    _train_baseline,
    needs=lambda recipe: ("train_teacher",),
    uses=_STUDENT,
    sources=_sources,
)
DISTIL = Stage(
    "distil",
    _distil,
    needs=lambda recipe: ("train_teacher", "compress_teacher"),
    uses=_STUDENT,
    sources=_sources,
)
PRUNE = Stage("prune", _prune, needs=lambda recipe: ("train_teacher", "compress_teacher", "distil"), uses=_STUDENT)
RECOVER = Stage(
    "recover",
    _recover,
    needs=lambda recipe: ("train_teacher", "compress_teacher", recipe.student_before("recover")),
    uses=_STUDENT,
)
