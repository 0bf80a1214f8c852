"""The order in which tiles of logits are made, so that a gradient of the weight is summed once and no logits are kept.

*One pass*, where products are computed in the dtype of the weights and sums of gradients lie in it as well: tiles are
some rows by all classes, whose logits are made once. *Two passes* otherwise (16-bit weights, autocast, Triton): tiles
are all rows by some classes. The first pass finds the sums of exponentials, the second makes the logits again; a part
of the weight is cast, and its gradient summed in fp32, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kdnative.distill.tiled import tiles
from kdnative.distill.tiled.logits import LinearLogits
from kdnative.distill.tiled.tiles import Rows, Tile

__all__ = ["TILE", "Found", "Problem", "Tiles", "run"]

# Logits of a tile: a sixteenth of all of them, within 4 and 64 MB of fp32. Some tiles are in memory at a time.
SHARE, TILE, SMALL_TILE = 16, 1 << 24, 1 << 20
ROWS, CLASSES = 8192, 256  # of a tile: at most, and at least where there are so many
WIDENED = 1 << 20  # factors of a product that are copied to fp32 at a time


@dataclass(frozen=True)
class Tiles:
    """Who computes tiles: functions as in `kdnative.distill.tiled.tiles`."""

    log_sums: Callable[..., list[Tensor]] = tiles.log_sums
    tile: Callable[..., Tile] = tiles.tile
    whole: bool = True  # whether it can have all classes in a tile


@dataclass(frozen=True)
class Problem:
    """All of a loss but the student.

    Attributes:
        teachers: their hidden states are [N, K_k]. shares: of the teachers, which sum up to 1.
        temperature: of the soft labels.
        soft: factors of the rows' divergences, fp32 or fp64 [N]. hard: the same of hard labels, or None.
        labels: int64 [N], below 0 where there is none.
        weights: of soft and hard labels in the loss.
        tiles: who computes.
    """

    teachers: Sequence[LinearLogits]
    shares: Sequence[float]
    temperature: float
    soft: Tensor
    hard: Tensor | None
    labels: Tensor | None
    weights: tuple[float, float]
    tiles: Tiles


class Found(NamedTuple):
    """``sum_i soft_i KL_i`` and ``-sum_i hard_i log softmax(s_i)[label_i]``, scalars, and gradients of the loss.

    Gradients are None where nobody asked for them, else of the shape and dtype of hidden states, weight and bias.
    """

    soft: Tensor
    hard: Tensor
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None]


def run(problem: Problem, student: LinearLogits, needs: tuple[bool, bool, bool]) -> Found:
    """Loss and gradients.

    Args:
        student: hidden states [N, K] in the dtype of the product.
        needs: of what gradients are wanted: hidden states, weight, bias.
    """
    return _Run(problem, student, needs).result()


class _Run:
    """One loss on its way."""

    def __init__(self, problem: Problem, student: LinearLogits, needs: tuple[bool, bool, bool]):
        self.problem, self.student, self.needs = problem, student, needs
        self.everybody = [student, *problem.teachers]
        hidden, weight = student.hidden, student.weight
        self.rows, self.classes, self.wide = len(hidden), len(weight), problem.soft.dtype
        self.tile = min(TILE, max(SMALL_TILE, self.rows * self.classes // SHARE))
        # The gradients of 16-bit logits are multiplied by the number of rows, by which the mean has divided: what is
        # small would be 0 in fp16.
        self.lift = float(self.rows) if hidden.dtype != self.wide else 1.0
        self.divergence, self.likelihood = hidden.new_zeros((2, self.rows), dtype=self.wide)
        of_hidden, of_weight, of_bias = needs
        self.of_hidden = torch.zeros_like(hidden, dtype=self.wide) if of_hidden else None
        self.of_weight = torch.zeros_like(weight, memory_format=torch.contiguous_format) if of_weight else None
        self.of_bias = torch.zeros_like(student.bias, dtype=self.wide) if of_bias else None

    def result(self) -> Found:
        problem = self.problem
        casts = any(each.weight.dtype != each.hidden.dtype for each in self.everybody)
        sums_elsewhere = self.of_weight is not None and self.of_weight.dtype != self.wide
        if casts or sums_elsewhere or not problem.tiles.whole:
            self._two_passes()
        else:
            self._one_pass()
        soft = (self.divergence * problem.soft).sum()
        hard = torch.zeros_like(soft) if problem.hard is None else -(self.likelihood * problem.hard).sum()
        of_hidden = None if self.of_hidden is None else self.of_hidden.div_(self.lift).to(self.student.hidden.dtype)
        of_bias = None if self.of_bias is None else self.of_bias.div_(self.lift).to(self.student.bias.dtype)
        return Found(soft, hard, (of_hidden, self.of_weight, of_bias))

    def _one_pass(self) -> None:
        problem, everything = self.problem, slice(0, self.classes)
        temperature, dtype = problem.temperature, self.student.hidden.dtype
        for rows in _parts(self.rows, max(self.tile // self.classes, 1)):
            logits = [tiles.logits_of_tile(each.hidden[rows], *each.columns(everything)) for each in self.everybody]
            sums = [tiles.log_sum_of_logits(each, temperature) for each in logits]
            hard_sum = tiles.log_sum_of_logits(logits[0], 1.0) if problem.hard is not None else None
            known = self._known(rows, everything, sums, hard_sum)
            found = tiles.tile_of_logits(
                logits[0], logits[1:], problem.shares, temperature, known, any(self.needs), dtype
            )
            self._add(rows, everything, self.student.weight, found, self.of_weight)

    def _two_passes(self) -> None:
        problem = self.problem
        hard = problem.hard is not None
        sums = [self._log_sums(self.student, (problem.temperature, 1.0) if hard else (problem.temperature,))]
        sums += [self._log_sums(teacher, (problem.temperature,)) for teacher in problem.teachers]
        for classes in self._class_parts():
            factors = [each.columns(classes) for each in self.everybody]
            part = self.of_weight
            if part is not None:
                part = part.new_zeros((classes.stop - classes.start, part.shape[1]), dtype=self.wide)
            for rows in self._row_parts():
                known = self._known(rows, classes, [own[0][rows] for own in sums], sums[0][1][rows] if hard else None)
                student, *teachers = (
                    (each.hidden[rows], *own) for each, own in zip(self.everybody, factors, strict=True)
                )
                found = problem.tiles.tile(
                    student, teachers, problem.shares, problem.temperature, known, any(self.needs)
                )
                self._add(rows, classes, factors[0][0], found, part)
            if part is not None:
                self.of_weight[classes] = part.div_(self.lift)

    def _log_sums(self, logits: LinearLogits, temperatures: Sequence[float]) -> list[Tensor]:
        """[N] for each temperature, over all classes."""
        wide = torch.float64 if logits.hidden.dtype == torch.float64 else torch.float32
        found = logits.hidden.new_full((len(temperatures), self.rows), -torch.inf, dtype=wide)
        for classes in self._class_parts():
            factors = logits.columns(classes)
            for rows in self._row_parts():
                parts = self.problem.tiles.log_sums(logits.hidden[rows], *factors, temperatures)
                found[:, rows] = torch.logaddexp(found[:, rows], torch.stack(parts))
        return list(found)

    def _known(self, rows: slice, classes: slice, sums: Sequence[Tensor], hard_sum: Tensor | None) -> Rows:
        problem = self.problem
        soft_weight, hard_weight = problem.weights
        soft = problem.soft[rows] * (soft_weight * self.lift / problem.temperature)
        if problem.hard is None:
            return Rows(sums[0], sums[1:], soft)
        return Rows(
            sums[0],
            sums[1:],
            soft,
            hard_sum,
            problem.hard[rows] * (hard_weight * self.lift),
            problem.labels[rows] - classes.start,
        )

    def _add(self, rows: slice, classes: slice, weight: Tensor, found: Tile, of_weight: Tensor | None) -> None:
        """Adds what a tile gave; the gradient of the weight to `of_weight`, whose rows are those of `weight`."""
        self.divergence[rows] += found.divergence
        if found.likelihood is not None:
            self.likelihood[rows] += found.likelihood
        gradient = found.gradient
        if gradient is None:
            return
        if self.of_hidden is not None:
            _add_product(self.of_hidden[rows], gradient, weight)
        if of_weight is not None:
            _add_product(of_weight, gradient.T, self.student.hidden[rows])
        if self.of_bias is not None:
            self.of_bias[classes] += gradient.sum(0, dtype=self.wide)

    def _class_parts(self) -> Iterator[slice]:
        return _parts(self.classes, max(self.tile // min(self.rows, ROWS), CLASSES))

    def _row_parts(self) -> Iterator[slice]:
        return _parts(self.rows, ROWS)


def _parts(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _add_product(to: Tensor, a: Tensor, b: Tensor) -> None:
    """``to += a @ b``, where `to` may be wider than the factors: nothing is rounded to their dtype on the way.

    Parts of a gradient are large where their sum is small, as probabilities sum up to 1: rounded parts would lose it.
    """
    if a.dtype == to.dtype:
        to.addmm_(a, b)
    elif a.is_cuda:
        to += torch.mm(a, b, out_dtype=to.dtype)
    else:  # which torch has on GPUs alone: copies of some of the terms, which are exact
        for terms in _parts(a.shape[1], max(WIDENED // (a.shape[0] + b.shape[1]), 64)):
            to.addmm_(a[:, terms].to(to.dtype), b[terms].to(to.dtype))
