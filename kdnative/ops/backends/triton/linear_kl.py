# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Tiles of logits for the divergence of two heads: a product whose epilogue keeps a few numbers a row, or a gradient.

The functions have the signatures of `kdnative.distill.tiled.tiles`, which computes the same in plain torch.
Products are of fp16 or bf16 factors with fp32 sums, which nobody rounds before the softmax.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["CONFIGURATION", "gradient_kernel", "log_sum_kernel", "log_sums", "tile"]

# Without spills, and within the shared memory of sm_86: `tests/gpu/test_triton_linear_kl.py` compiles them.
CONFIGURATION: dict[str, int] = {"ROWS": 64, "COLUMNS": 128, "DEPTH": 64, "num_warps": 8, "num_stages": 3}

WIDTH, ALIGNMENT = 16, 16  # of factors: values and bytes


class Tile(NamedTuple):
    """As `kdnative.distill.tiled.tiles.Tile`."""

    divergence: Tensor
    likelihood: Tensor | None
    gradient: Tensor | None


@triton.jit
def _logits(hidden, weight, bias, rows, columns, R, C, K, HAS_BIAS: tl.constexpr, DEPTH: tl.constexpr):
    """A block of ``hidden [R, K] @ weight [C, K].T + bias``, fp32; -inf in columns beyond the last."""
    depth = tl.arange(0, DEPTH)
    a = hidden + rows.to(tl.int64)[:, None] * K + depth[None, :]
    b = weight + columns.to(tl.int64)[:, None] * K + depth[None, :]
    sums = tl.zeros((rows.shape[0], columns.shape[0]), tl.float32)
    for k in range(0, K, DEPTH):
        inside = (depth < K - k)[None, :]
        x = tl.load(a + k, mask=(rows < R)[:, None] & inside, other=0.0)
        # Rows of the weight as they lie, transposed by the product: loaded transposed, bytes would be permuted.
        y = tl.load(b + k, mask=(columns < C)[:, None] & inside, other=0.0)
        sums = tl.dot(x, tl.trans(y), sums)
    if HAS_BIAS:
        sums += tl.load(bias + columns, mask=columns < C, other=0.0).to(tl.float32)[None, :]
    return tl.where((columns < C)[None, :], sums, -float("inf"))


# Rows and classes of a tile are of any number: one kernel serves them all, so that no batch waits for a compiler.
@triton.jit(do_not_specialize=["R", "C"])
def log_sum_kernel(
    hidden, weight, bias, sums, hard_sums, factor, R, C, K,
    HAS_BIAS: tl.constexpr, HARD: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """``log(sum(exp(factor * logits)))`` over a block of columns; with HARD that of the logits too: [blocks, R]."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    logits = _logits(hidden, weight, bias, rows, columns, R, C, K, HAS_BIAS, DEPTH)
    top = tl.max(logits, 1)
    top = tl.where(top == -float("inf"), 0.0, top)  # of classes that are all impossible
    shifted = logits - top[:, None]
    to = tl.program_id(1).to(tl.int64) * R + rows
    tl.store(sums + to, factor * top + tl.log(tl.sum(tl.exp(factor * shifted), 1)), mask=rows < R)
    if HARD:
        tl.store(hard_sums + to, top + tl.log(tl.sum(tl.exp(shifted), 1)), mask=rows < R)


@triton.jit(do_not_specialize=["R", "C"])
def gradient_kernel(
    hidden, weight, bias, teacher_hidden, teacher_weight, teacher_bias,
    log_sum, teacher_log_sum, soft, hard_log_sum, hard, labels,
    divergence, likelihood, gradient, factor, R, C, K, TEACHER_K, STRIDE,
    HAS_BIAS: tl.constexpr, TEACHER_HAS_BIAS: tl.constexpr, HARD: tl.constexpr, GRADIENT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A block's part of the divergence, of the label's log-likelihood [blocks, R], and its gradient [R, STRIDE]."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    is_row = rows < R
    theirs = _logits(
        teacher_hidden, teacher_weight, teacher_bias, rows, columns, R, C, TEACHER_K, TEACHER_HAS_BIAS, DEPTH
    )
    log_p = factor * theirs - tl.load(teacher_log_sum + rows, mask=is_row, other=0.0)[:, None]
    logits = _logits(hidden, weight, bias, rows, columns, R, C, K, HAS_BIAS, DEPTH)
    log_q = factor * logits - tl.load(log_sum + rows, mask=is_row, other=0.0)[:, None]
    p = tl.exp(log_p)
    # A class that the teacher finds impossible adds nothing, whatever its logarithm; a column that is none is one.
    parts = tl.where(p == 0.0, 0.0, p * (log_p - log_q))
    to = tl.program_id(1).to(tl.int64) * R + rows
    tl.store(divergence + to, tl.sum(parts, 1), mask=is_row)
    change = (tl.exp(log_q) - p) * tl.load(soft + rows, mask=is_row, other=0.0)[:, None]
    if HARD:
        log_likelihood = logits - tl.load(hard_log_sum + rows, mask=is_row, other=0.0)[:, None]
        hit = tl.load(labels + rows, mask=is_row, other=-1)[:, None] == columns[None, :]
        hit = hit & (columns < C)[None, :]  # a label of the next tile may have the number of a column that is none
        tl.store(likelihood + to, tl.sum(tl.where(hit, log_likelihood, 0.0), 1), mask=is_row)
        change += (tl.exp(log_likelihood) - hit.to(tl.float32)) * tl.load(hard + rows, mask=is_row, other=0.0)[:, None]
    if GRADIENT:
        at = gradient + rows.to(tl.int64)[:, None] * STRIDE + columns[None, :]
        tl.store(at, change.to(gradient.dtype.element_ty), mask=is_row[:, None] & (columns < C)[None, :])


def log_sums(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperatures: Sequence[float]) -> list[Tensor]:
    """As `kdnative.distill.tiled.tiles.log_sums`, for one temperature, or for one and 1."""
    rows, classes = len(hidden), len(weight)
    hidden, weight = _padded(hidden), _padded(weight)
    grid, blocks = _grid(rows, classes)
    hard = len(temperatures) > 1
    sums = hidden.new_empty((len(temperatures), blocks, rows), dtype=torch.float32)
    with _on(hidden):
        log_sum_kernel[grid](
            hidden, weight, _or(bias, weight), sums[0], sums[-1], 1.0 / temperatures[0],
            rows, classes, hidden.shape[1], HAS_BIAS=bias is not None, HARD=hard, **CONFIGURATION,
        )  # fmt: skip
    return list(sums.logsumexp(1))


def tile(
    student: tuple[Tensor, Tensor, Tensor | None],
    teachers: Sequence[tuple[Tensor, Tensor, Tensor | None]],
    shares: Sequence[float],
    temperature: float,
    rows: Any,
    gradient: bool,
) -> Tile:
    """As `kdnative.distill.tiled.tiles.tile`, for one teacher."""
    ((their_hidden, their_weight, their_bias),) = teachers
    hidden, weight, bias = student
    count, classes = len(hidden), len(weight)
    grid, blocks = _grid(count, classes)
    hard = rows.labels is not None
    parts = hidden.new_empty((2 if hard else 1, blocks, count), dtype=torch.float32)
    stride = classes + -classes % WIDTH  # rows of the gradient begin at aligned addresses
    found = hidden.new_empty((count, stride))[:, :classes] if gradient else None
    hidden, weight = _padded(hidden), _padded(weight)
    their_hidden, their_weight = _padded(their_hidden), _padded(their_weight)
    with _on(hidden):
        gradient_kernel[grid](
            hidden, weight, _or(bias, weight), their_hidden, their_weight, _or(their_bias, weight),
            rows.log_sum, rows.teacher_log_sums[0], rows.soft,
            *((rows.hard_log_sum, rows.hard, rows.labels) if hard else (rows.soft, rows.soft, rows.soft)),
            parts[0], parts[-1], _or(found, parts), 1.0 / temperature,
            count, classes, hidden.shape[1], their_hidden.shape[1], stride,
            HAS_BIAS=bias is not None, TEACHER_HAS_BIAS=their_bias is not None, HARD=hard, GRADIENT=gradient,
            **CONFIGURATION,
        )  # fmt: skip
    sums = parts.sum(1)
    return Tile(sums[0], sums[1] if hard else None, found)


def _grid(rows: int, classes: int) -> tuple[tuple[int, int], int]:
    """Blocks of rows by blocks of classes, and how many of the latter there are."""
    blocks = triton.cdiv(classes, CONFIGURATION["COLUMNS"])
    return (triton.cdiv(rows, CONFIGURATION["ROWS"]), blocks), blocks


def _padded(factor: Tensor) -> Tensor:
    """A factor [n, K] as kernels read it: contiguous, aligned, and K a multiple of 16; else loads are of two bytes."""
    rest = -factor.shape[1] % WIDTH
    if rest or factor.data_ptr() % ALIGNMENT:
        return F.pad(factor, (0, rest))
    return factor.contiguous()


def _or(given: Tensor | None, other: Tensor) -> Tensor:
    """What is not there is not read: any pointer does."""
    return other if given is None else given


def _on(tensor: Tensor) -> Any:
    """Kernels start on the current device."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else torch.no_grad()
