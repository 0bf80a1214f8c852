"""The student: trained on labels alone for comparison, distilled, pruned, and recovered for its integer weights."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn

from kdnative.distill import SoftLabels
from kdnative.evaluate import Predictions, predict
from kdnative.pipeline.kinds.texts import TEXTS
from kdnative.pipeline.sections import Distilling, Prune, Recover, Training
from kdnative.pipeline.stages.base import Context, Row, Stage, named
from kdnative.pipeline.stages.calibrating import calibration_of, student_calibration, with_calibration
from kdnative.pipeline.stages.pruning import cut, rehearse_channels, shaped
from kdnative.pipeline.stages.recovering_networks import finish, prepare, rehearse_networks
from kdnative.pipeline.stages.teacher import SOFT_LABELS, for_hidden_states
from kdnative.pipeline.stages.training import (
    MODEL,
    asks_teacher,
    distillation_loss,
    encoded,
    fit,
    hard_loss,
    load_model,
    save_model,
    seeded,
)
from kdnative.pipeline.vocabulary import TranslatingTeacher, id_table

if TYPE_CHECKING:
    from kdnative.pipeline.rehearsed_models import Rehearsal
    from kdnative.pipeline.schema import Recipe


def _train_baseline(context: Context) -> dict[str, Any]:
    model = _new_student(context)
    source = context.recipe.student_source
    metrics = fit(context, model, hard_loss(context), source)
    metrics["bytes"] = save_model(context, model, source)
    return metrics


def _distil(context: Context) -> dict[str, Any]:
    return _learn(context, _new_student(context))


def _prune(context: Context) -> dict[str, Any]:
    """Removes heads, neurons and layers for good, then lets what is left learn from the teacher again."""
    model = load_model(context, context.recipe.student_before("prune"))
    figures = cut(context, model, context.recipe.student_source)
    return {**_learn(context, model), **figures}


def _recover(context: Context) -> dict[str, Any]:
    """Quantization-aware distillation: forward in the integer arithmetic of the kernels, learning from the teacher."""
    from kdnative.convert import native_forward
    from kdnative.quantize import prepare_qat_

    model = load_model(context, context.recipe.student_before("recover"))
    if context.task.pictures:
        prepare(context, model)
        inner = replace(context, device="cpu")  # where native kernels run
        metrics = _learn(inner, model)
        context.earlier_seconds = inner.earlier_seconds
        return {**metrics, "quantized_layers": finish(context, model)}
    settings = context.settings
    weights = student_calibration(context)
    quantized = prepare_qat_(model, settings.schemes, clip=settings.clip, ternary=settings.ternary, weights=weights)
    context.log.info("recover: %d linear layers now run in integer arithmetic", len(quantized))
    if settings.forward == "linears":
        return {**_learn(context, model), "quantized_layers": quantized}
    inner = replace(context, device="cpu")  # where native kernels run
    options = {"keep": context.recipe.convert.keep, "embeddings": context.recipe.convert.embeddings}
    metrics = _learn(inner, model, native_forward(model, context.recipe.final_schemes(), **options))
    context.earlier_seconds = inner.earlier_seconds
    return {**metrics, "quantized_layers": quantized}


def _rehearse_distil(rehearsal: Rehearsal) -> None:
    rehearsal.check_hidden("distil", "distil", rehearsal.recipe.distil, rehearsal.student)


def _rehearse_prune(rehearsal: Rehearsal) -> None:
    if rehearsal.kind.convolutions:
        rehearse_channels(rehearsal, rehearsal.student, rehearsal.recipe.prune, "prune", {"prune"})
    rehearsal.shrink(rehearsal.student, rehearsal.recipe.prune, "prune", {"prune"})
    rehearsal.check_hidden("prune", "prune", rehearsal.recipe.prune, rehearsal.student)


def _rehearse_recover(rehearsal: Rehearsal) -> None:
    from kdnative.quantize import prepare_qat_

    settings = rehearsal.recipe.recover
    if rehearsal.kind.convolutions:
        rehearse_networks(rehearsal)
        return
    rehearsal.check_hidden("recover", "recover", settings, rehearsal.student)
    with rehearsal.blaming("recover.schemes", {"recover"}):
        prepare_qat_(rehearsal.student, settings.schemes, clip=settings.clip, ternary=settings.ternary)


def _new_student(context: Context) -> nn.Module:
    """The student before any training: parts of the fine-tuned teacher, or a model of its own."""
    settings = context.recipe.student
    seeded(context)
    if settings.source == "teacher":
        model = context.kind.copied(context, context.input("train_teacher") / MODEL)
    else:
        model = context.kind.load(context, settings)
    return shaped(context, model)


def _learn(context: Context, model: nn.Module, forward: AbstractContextManager | None = None) -> dict[str, Any]:
    """Trains with the recipe's distillation loss, on the cached soft labels and the teacher's hidden states.

    `forward`: what to train within. Where inputs change from epoch to epoch (tokens are hidden, pictures cropped), the
    teacher has to label what they become, and runs with every batch.
    """
    source, settings = context.recipe.student_source, context.settings
    changed = context.kind.changes_inputs(context)
    labels_batches = settings.soft_weight and changed
    teacher = _running_teacher(context) if settings.hidden_weight or labels_batches else None
    soft_labels = None
    if settings.soft_weight and not changed:
        labelled = encoded(context, context.recipe.teacher.source, "train")
        soft_labels = SoftLabels.load(context.input("compress_teacher") / SOFT_LABELS, dataset=labelled)
    loss = distillation_loss(context, model, teacher)
    answers = _answers(context) if asks_teacher(context) else None
    with forward or nullcontext():
        metrics = fit(context, model, loss, source, soft_labels=soft_labels, teacher=teacher, answers=answers)
    metrics["bytes"] = save_model(context, model, source)
    return metrics


def _answers(context: Context) -> Predictions:
    """What the teacher of the soft labels says of the validation split."""
    settings = context.recipe.compress_teacher
    teacher = _labelling_teacher(context)
    device = context.device if settings.scheme is None else "cpu"
    data = encoded(context, context.recipe.teacher.source, "validation")
    return predict(teacher, data, batch_size=settings.batch_size, device=device)


def _labelling_teacher(context: Context) -> nn.Module:
    """The teacher of the soft labels, compressed if the recipe says so."""
    settings = context.recipe.compress_teacher
    compressed = settings.scheme is not None or settings.prune is not None
    return load_model(context, "compress_teacher" if compressed else "train_teacher")


def _running_teacher(context: Context) -> nn.Module:
    """The teacher for the hidden states and labels of single batches, on the student's token ids."""
    settings = context.recipe.compress_teacher
    if context.task.pictures:  # on a GPU in float: the native one runs on the CPU
        return _labelling_teacher(context) if context.device == "cpu" else load_model(context, "train_teacher")
    # What was calibrated for the pruned teacher doesn't fit the whole one, which hidden states come from.
    fits = settings.calibrate is not None and settings.prune is None
    calibration = calibration_of(context.input("compress_teacher")) if fits else None
    whole = load_model(context, "train_teacher")
    teacher = for_hidden_states(whole, settings.scheme, context.device, calibration)
    ours, theirs = context.recipe.student_source, context.recipe.teacher.source
    if ours == theirs:
        return teacher
    table = id_table(*(TEXTS.tokenizer(context.shared, source) for source in (ours, theirs)), pair=context.task.pair)
    return TranslatingTeacher(teacher, table)


def _sources(recipe: Recipe) -> tuple[str, ...]:
    """Where a new student comes from, when that is not a stage of the run."""
    return () if recipe.student.source == "teacher" else named(recipe.student)


_STUDENT = ("data", "teacher", "student")
BASELINE = Row("baseline", "student, hard labels only")
TRAIN_BASELINE = Stage(
    "train_baseline",
    _train_baseline,
    does="Trains the same student on the hard labels alone, for comparison. null leaves the stage out.",
    section=Training,
    default=Training(),
    optional=True,
    needs=lambda recipe: ("train_teacher",),
    uses=_STUDENT,
    version=1,
    sources=_sources,
    new=True,
    row=BASELINE,
)
DISTIL = Stage(
    "distil",
    _distil,
    does="Trains the student on the teacher's soft labels and hidden states, and on the hard labels.",
    section=Distilling,
    default=Distilling(),
    needs=lambda recipe: ("train_teacher", "compress_teacher"),
    uses=_STUDENT,
    version=2,
    sources=_sources,
    student=True,
    new=True,
    row=Row("distilled", "distilled"),
    rehearse=_rehearse_distil,
)
PRUNE = Stage(
    "prune",
    _prune,
    does="Removes heads, neurons, layers or channels, then distils again. null leaves the stage out.",
    section=Prune,
    default=None,
    optional=True,
    needs=lambda recipe: ("train_teacher", "compress_teacher", recipe.student_before("prune")),
    uses=_STUDENT,
    version=2,
    student=True,
    row=Row("pruned", "pruned, recovered"),
    rehearse=_rehearse_prune,
)
RECOVER = Stage(
    "recover",
    _recover,
    does="Distils with the chosen layers in the integer arithmetic of the kernels. null leaves the stage out.",
    section=Recover,
    default=Recover(),
    optional=True,
    needs=lambda recipe: (
        "train_teacher",
        "compress_teacher",
        recipe.student_before("recover"),
        *with_calibration(recipe),
    ),
    uses=_STUDENT,
    version=2,
    student=True,
    rehearse=_rehearse_recover,
)
