"""Target: calls of ``torch.ops.kdnative.*`` with hostile packed buffers and tensors of any kind."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdnative import ops
from tests.fuzz.buffers import Buffer, hostile, make_buffers, tensor_of
from tests.fuzz.guarded import Guarded
from tests.fuzz.target import Finding
from tests.fuzz.tensors import FLOATS, INTEGERS, OTHERS, describe, floats, integers, rows

__all__ = ["Call", "Operators"]

_RAW = ("std::", "vector::", "basic_string", "bad_alloc")  # words of C++'s own library, not of a person


@dataclass
class Call:
    """A call of an operator, and how: which instruction set, how many threads."""

    operator: str
    arguments: list[Any]
    isa: str
    threads: int

    def run(self) -> Any:
        ops.select_isa(self.isa)
        torch.set_num_threads(self.threads)
        return getattr(torch.ops.kdnative, self.operator)(*self.arguments)


class Operators:
    """See :class:`tests.fuzz.target.Target`."""

    inputs = None

    def __init__(self, folder: Path) -> None:
        self._buffers = make_buffers()
        self._isas = ops.available_isas()
        self._guarded = [Guarded() for _ in range(6)]

    def make(self, number: int, rng: random.Random) -> Call:
        operator = rng.choice(ops.OPERATORS)
        kind = _KINDS.get(operator, "encoder" if operator.startswith("encoder") else "dense")
        if operator == "quantize_per_token":
            arguments: list[Any] = [rows(rng, rng.choice((0, 1, 7, 64, 200)))]
        elif operator == "norm_quantize":
            arguments = _norm_arguments(rng)
        else:
            fitting = [b for b in self._buffers if b.kind == kind and _takes(operator, b)]
            buffer = rng.choice(fitting if rng.random() < 0.95 else self._buffers)
            packed = _buffer_tensor(rng, hostile(rng, buffer, self._buffers))
            arguments = _ARGUMENTS.get(kind, _linear_arguments)(rng, operator, buffer, packed)
        if rng.random() < 0.5:  # the other half keeps the memory that a sanitizer surrounds
            arguments = [self._guard(place, argument) for place, argument in enumerate(arguments)]
        return Call(operator, arguments, rng.choice(self._isas), rng.choice((1, 1, 2)))

    def _guard(self, place: int, argument: Any) -> Any:
        if not isinstance(argument, Tensor):
            return argument
        is_packed = argument.dtype == torch.uint8 and argument.dim() == 1
        return self._guarded[place].place(argument, alignment=8 if is_packed else 1)

    def run(self, made: Call, folder: Path) -> bool:
        try:
            made.run()
        except RuntimeError as error:
            text = str(error)
            if len(text) < 10 or any(word in text for word in _RAW):
                raise Finding(f"an error without words: {text!r}") from error
            return False
        return True

    def describe(self, made: Call) -> str:
        arguments = ", ".join(describe(a) if isinstance(a, Tensor) else repr(a) for a in made.arguments)
        return f"{made.operator}({arguments}) on {made.isa}, {made.threads} threads"

    def save(self, made: Call, folder: Path) -> None:
        folder.mkdir()
        torch.save(made.arguments, folder / "arguments.pt")


def _takes(operator: str, buffer: Buffer) -> bool:
    """Whether it is a buffer for this operator."""
    if buffer.kind == "encoder":
        return buffer.embeddings != (operator == "encoder_layers")
    return operator in _KINDS or operator.startswith(f"linear_w{buffer.bits}a")


def _number(rng: random.Random, right: int) -> int:
    return right if rng.random() < 0.9 else rng.choice((*INTEGERS, right + 1, right - 1))


def _linear_arguments(rng: random.Random, operator: str, buffer: Buffer, packed: Tensor) -> list[Any]:
    return [rows(rng, _number(rng, buffer.k)), packed, _number(rng, buffer.n), _number(rng, rng.randrange(6))]


def _norm_arguments(rng: random.Random) -> list[Any]:
    k = rng.choice((0, 1, 7, 64, 200))
    dtype = torch.float32 if rng.random() < 0.95 else rng.choice(OTHERS)
    gamma, beta, factors = (floats(rng, [_size(rng, k)], dtype) for _ in range(3))
    eps = rng.choice((0.0, 1e-12, 1e-5, 1e30, -1.0, math.inf, math.nan))
    optional = [each if rng.random() < 0.5 else None for each in (beta, factors)]
    return [rows(rng, k), gamma, optional[0], eps, optional[1], rng.randrange(2)]


def _encoder_arguments(rng: random.Random, operator: str, buffer: Buffer, packed: Tensor) -> list[Any]:
    batch, tokens = rng.choice(((1, 1), (1, 7), (2, 5), (3, 17), (2, 40), (4, 64), (0, 3), (2, 0), (1, 300)))
    if rng.random() < 0.02:
        batch, tokens = 2**25, 2**25  # more than any memory holds
    shape = [_size(rng, batch), _size(rng, tokens)]

    def optional(share: float, others: Sequence[torch.dtype] = ()) -> Tensor | None:
        return integers(rng, shape, others) if rng.random() < share else None

    mask = optional(0.5, (*OTHERS, *FLOATS))
    if operator == "encoder_layers":
        dtype = torch.float32 if rng.random() < 0.95 else rng.choice(OTHERS)
        states = floats(rng, [batch, tokens, _size(rng, buffer.k)], dtype)
        angles = [rng.choice((1, batch)), tokens, 2, rng.choice((8, 8, 1, 16))]
        rotary = floats(rng, angles, torch.float32) if rng.random() < 0.3 else None
        return [packed, states, mask, rng.randrange(2), rotary, optional(0.2, OTHERS)]
    arguments = [packed, integers(rng, [batch, tokens]), mask, optional(0.5), optional(0.5), _number(rng, buffer.n)]
    return arguments + ([_number(rng, buffer.layers)] if operator == "encoder_hidden_states" else [])


def _image_arguments(rng: random.Random, operator: str, buffer: Buffer, packed: Tensor) -> list[Any]:
    height, width = (12, 9) if rng.random() < 0.9 else (rng.choice((0, 1, 3, 40)), rng.choice((0, 1, 7, 33)))
    shape = [rng.choice((0, 1, 2, 5)), _size(rng, buffer.k), height, width]
    dtype = torch.float32 if rng.random() < 0.8 else rng.choice((*FLOATS, *OTHERS))
    return [packed, floats(rng, shape, dtype), _number(rng, buffer.n)]


_KINDS = {"linear_sparse": "sparse", "convnet": "convnet"}
_ARGUMENTS = {"encoder": _encoder_arguments, "convnet": _image_arguments}


def _size(rng: random.Random, right: int) -> int:
    return right if rng.random() < 0.95 else rng.choice((0, 1, right + 1, 5))


def _buffer_tensor(rng: random.Random, data: bytearray) -> Tensor:
    """As bytes; now and then where no number can be read, of another dtype or shape, or with gaps."""
    packed, what = tensor_of(data), rng.randrange(60)
    if what == 0:
        gap = rng.choice((1, 4, 8, 12))
        return torch.cat([torch.zeros(gap, dtype=torch.uint8), packed])[gap:]
    if what == 1:
        return packed.view(torch.int8)
    if what == 2:
        return packed.unsqueeze(0)
    if what == 3:
        return packed.repeat_interleave(2)[::2]
    if what == 4:
        return packed.to("meta")
    return packed
