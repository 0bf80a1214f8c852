"""The divergence of two heads as one differentiable function."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.amp import is_autocast_available
from torch.compiler import is_compiling

from kdnative.distill.tiled.choosing import tiles_for
from kdnative.distill.tiled.logits import LinearLogits
from kdnative.distill.tiled.passes import Found, Problem, run

__all__ = ["LinearKL", "linear_kl"]


class LinearKL(NamedTuple):
    """Scalars, fp32 (fp64 of an fp64 student).

    Attributes:
        loss: ``soft_weight * soft + hard_weight * hard``, with gradients.
        soft: ``T^2 * KL``, mean over the rows that count. hard: cross entropy with the labels, mean over those that
            have one; 0 without labels. Both without gradients.
    """

    loss: Tensor
    soft: Tensor
    hard: Tensor


def linear_kl(
    student: LinearLogits,
    teachers: Sequence[LinearLogits],
    temperature: float = 2.0,
    *,
    teacher_weights: Sequence[float] | None = None,
    mask: Tensor | None = None,
    labels: Tensor | None = None,
    soft_weight: float = 1.0,
    hard_weight: float = 1.0,
    ignore_index: int = -100,
) -> LinearKL:
    """``soft_weight * T^2 * KL(p || softmax(s / T)) + hard_weight * CE(y, s)``, with logits made a tile at a time.

    ``p = sum_k w_k softmax(t_k / T) / sum_k w_k``: `SoftLabelLoss` and `HardLabelLoss` of ``student.hidden @
    student.weight.T + student.bias``, without [rows, V] in memory. The forward pass computes the gradients of hidden
    states, weight and bias too, and the backward pass multiplies them by what it is given (Hsu et al., "Liger Kernel:
    Efficient Triton Kernels for LLM Training", 2024); where even some rows by all classes are too large, sums of
    exponentials are found first, over parts of the vocabulary (Wijmans et al., "Cut Your Losses in Large-Vocabulary
    Language Models", 2024; Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018). A row that does
    not count costs nothing. 16-bit products of one teacher on a GPU run on Triton kernels, where Triton is installed;
    all else in plain torch.

    Under `torch.compile` it runs as it is, between two graphs: a compiler would keep what is freed here.

    The gradient of an fp16 weight is rounded to fp16 before a loss scale multiplies it: train fp32 weights under
    autocast.

    Args:
        student: fp32, bf16, fp16 or fp64. Its dtype of the product is that of autocast where it is on.
        teachers: one or more, of as many rows and classes; their widths are their own. No gradient flows into them.
        temperature: T > 0.
        teacher_weights: w_k >= 0, one for each teacher, one of them above 0; None: all alike.
        mask: [...], non-zero for rows whose divergence counts; None: all.
        labels: int64 [...]; None: no hard labels. `ignore_index`: the label of rows without one.
        soft_weight, hard_weight: >= 0.

    Raises:
        ValueError: no rows or teachers, settings out of range, or shapes, dtypes, devices and labels that do not fit.
        RuntimeError: second derivatives are asked for.
    """
    compute = torch.compiler.disable(_compute) if is_compiling() else _compute
    loss, soft, hard = compute(
        student, teachers, temperature, teacher_weights, mask, labels, soft_weight, hard_weight, ignore_index
    )
    return LinearKL(loss, soft, hard)


def _compute(
    student: LinearLogits,
    teachers: Sequence[LinearLogits],
    temperature: float,
    teacher_weights: Sequence[float] | None,
    mask: Tensor | None,
    labels: Tensor | None,
    soft_weight: float,
    hard_weight: float,
    ignore_index: int,
) -> tuple[Tensor, ...]:
    """`linear_kl`: what the problem is, and its loss, soft and hard part."""
    if not 0 < temperature < float("inf"):
        raise ValueError(f"linear_kl: temperature={temperature}: must be above 0")
    for name, weight in (("soft_weight", soft_weight), ("hard_weight", hard_weight)):
        if not 0 <= weight < float("inf"):
            raise ValueError(f"linear_kl: {name}={weight}: must not be negative")
    shares = _shares(teacher_weights, len(teachers))
    ours, theirs = _checked(student, teachers)
    shape = student.hidden.shape[:-1]
    wide = torch.float64 if ours.hidden.dtype == torch.float64 else torch.float32
    soft = torch.ones(len(ours.hidden), dtype=torch.bool, device=ours.hidden.device)
    if mask is not None:
        soft = _of_rows(mask, shape, "mask") != 0
    known = None
    if labels is not None and hard_weight:
        known = _classes(_of_rows(labels, shape, "labels"), ours.classes, ignore_index)
    if mask is not None and not mask.is_meta:  # a row that doesn't count is left out of everything
        places = (soft if known is None else soft | (known >= 0)).nonzero()[:, 0]
        if not len(places):
            nothing = ours.hidden[:0].sum(dtype=wide)
            return nothing, nothing.detach(), nothing.detach()
        ours, *theirs = (replace(each, hidden=each.hidden[places]) for each in (ours, *theirs))
        soft, known = soft[places], None if known is None else known[places]
    problem = Problem(
        teachers=theirs,
        shares=shares,
        temperature=float(temperature),
        soft=_share_of_mean(soft, wide) * temperature**2,
        hard=None if known is None else _share_of_mean(known >= 0, wide),
        labels=known,
        weights=(float(soft_weight), float(hard_weight)),
        tiles=tiles_for(ours, theirs),
    )
    return _Fused.apply(*_tensors(ours), problem)


class _Fused(torch.autograd.Function):
    """Loss, soft and hard part; gradients come with the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, problem: Problem) -> tuple[Tensor, ...]:
        found = _run(problem, hidden, weight, bias, ctx.needs_input_grad)
        ctx.problem, ctx.gradients = problem, found.gradients
        ctx.save_for_backward(hidden, weight, bias)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(found.soft, found.hard)
        soft_weight, hard_weight = problem.weights
        return soft_weight * found.soft + hard_weight * found.hard, found.soft, found.hard

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "linear_kl has first derivatives only, but create_graph=True needs second ones: compute "
                "SoftLabelLoss from logits"
            )
        if upstream is None:
            return None, None, None, None
        if ctx.gradients is None:  # given away by an earlier call with retain_graph=True
            hidden, weight, bias = ctx.saved_tensors
            ctx.gradients = _run(ctx.problem, hidden, weight, bias, ctx.needs_input_grad).gradients
        gradients, ctx.gradients = ctx.gradients, None
        return *(None if each is None else each.mul_(upstream) for each in gradients), None


def _run(problem: Problem, hidden: Tensor, weight: Tensor, bias: Tensor | None, needs: Sequence[bool]) -> Found:
    of_hidden, of_weight, of_bias = needs[:3]
    kind = hidden.device.type
    with torch.autocast(kind, enabled=False) if is_autocast_available(kind) else nullcontext():  # all is cast by now
        return run(problem, LinearLogits(hidden, weight, bias), (of_hidden, of_weight, of_bias))


def _tensors(logits: LinearLogits) -> tuple[Tensor, Tensor, Tensor | None]:
    return logits.hidden, logits.weight, logits.bias


def _checked(student: LinearLogits, teachers: Sequence[LinearLogits]) -> tuple[LinearLogits, list[LinearLogits]]:
    """All with hidden states [rows, K], if they are of the same rows and classes on one device."""
    ours, shape = student.checked("student"), student.hidden.shape[:-1]
    if not len(ours.hidden):
        raise ValueError(f"linear_kl: the student's hidden states {list(student.hidden.shape)} have no rows")
    theirs = []
    for teacher in teachers:
        checked = teacher.checked("teacher")
        if teacher.hidden.shape[:-1] != shape or checked.classes != ours.classes:
            raise ValueError(
                f"linear_kl: the teacher has logits {[*teacher.hidden.shape[:-1], checked.classes]}, the student "
                f"{[*shape, ours.classes]}: the same rows and classes are needed"
            )
        if checked.hidden.device != ours.hidden.device:
            raise ValueError(
                f"linear_kl: the teacher is on {checked.hidden.device}, the student on {ours.hidden.device}: move one "
                "to the other's device"
            )
        theirs.append(checked)
    return ours, theirs


def _shares(weights: Sequence[float] | None, teachers: int) -> list[float]:
    if not teachers:
        raise ValueError("linear_kl: teachers is empty: give at least one")
    given = [1.0] * teachers if weights is None else [float(w) for w in weights]
    if len(given) != teachers:
        raise ValueError(f"linear_kl: teacher_weights has {len(given)} entries for {teachers} teachers")
    if not (all(0 <= w < float("inf") for w in given) and sum(given) > 0):
        raise ValueError(f"linear_kl: teacher_weights={given}: none may be negative, and one must be above 0")
    return [w / sum(given) for w in given]


def _of_rows(values: Tensor, shape: torch.Size, name: str) -> Tensor:
    if values.shape != shape:
        raise ValueError(f"linear_kl: {name} has shape {list(values.shape)}; the hidden states call for {list(shape)}")
    return values.reshape(-1)


def _classes(labels: Tensor, classes: int, ignored: int) -> Tensor:
    """Labels, int64, with -1 for those that are ignored."""
    if labels.is_floating_point():
        raise ValueError(f"linear_kl: labels are {labels.dtype}; numbers of classes are needed, int64")
    known = labels.long().where(labels != ignored, -1)
    if not labels.is_meta:
        strange = labels[(labels != ignored) & ((labels < 0) | (labels >= classes))]
        if strange.numel():
            raise ValueError(f"linear_kl: a label is {int(strange[0])}; allowed are 0 to {classes - 1}, and {ignored}")
    return known


def _share_of_mean(counted: Tensor, dtype: torch.dtype) -> Tensor:
    return counted.to(dtype) / counted.sum().clamp(min=1)
