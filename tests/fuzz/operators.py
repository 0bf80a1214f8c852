"""Target: calls of ``torch.ops.kdnative.*`` with hostile packed buffers and tensors of any kind."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdnative import ops

from .buffers import Buffer, hostile, make_buffers, tensor_of
from .target import Finding
from .words import NUMBERS

__all__ = ["Call", "Operators"]

_INTEGERS = [number for number in NUMBERS if type(number) is int and abs(number) < 2**63]
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_OTHERS = (torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64)
_RAW = ("std::", "vector::", "basic_string", "bad_alloc")  # words of C++'s own library, not of a person
_MOST = 2**22  # numbers of a tensor


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

    def make(self, number: int, rng: random.Random) -> Call:
        operator = rng.choice(ops.OPERATORS)
        kind = "encoder" if operator.startswith("encoder") else "sparse" if operator == "linear_sparse" else "dense"
        if operator == "quantize_per_token":
            arguments: list[Any] = [_rows(rng, rng.choice((0, 1, 7, 64, 200)))]
        else:
            fitting = [b for b in self._buffers if b.kind == kind and _takes(operator, b)]
            buffer = rng.choice(fitting if rng.random() < 0.95 else self._buffers)
            packed = _buffer_tensor(rng, hostile(rng, buffer, self._buffers))
            arguments = (_encoder_arguments if kind == "encoder" else _linear_arguments)(rng, operator, buffer, packed)
        return Call(operator, arguments, rng.choice(self._isas), rng.choice((1, 1, 2)))

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
        arguments = ", ".join(_describe(argument) for argument in made.arguments)
        return f"{made.operator}({arguments}) on {made.isa}, {made.threads} threads"

    def save(self, made: Call, folder: Path) -> None:
        folder.mkdir()
        torch.save(made.arguments, folder / "arguments.pt")


def _takes(operator: str, buffer: Buffer) -> bool:
    """Whether it is a buffer for this operator."""
    if buffer.kind == "encoder":
        return buffer.embeddings != (operator == "encoder_layers")
    return operator == "linear_sparse" or operator.startswith(f"linear_w{buffer.bits}a")


def _number(rng: random.Random, right: int) -> int:
    return right if rng.random() < 0.9 else rng.choice((*_INTEGERS, right + 1, right - 1))


def _linear_arguments(rng: random.Random, operator: str, buffer: Buffer, packed: Tensor) -> list[Any]:
    return [_rows(rng, _number(rng, buffer.k)), packed, _number(rng, buffer.n), _number(rng, rng.randrange(6))]


def _encoder_arguments(rng: random.Random, operator: str, buffer: Buffer, packed: Tensor) -> list[Any]:
    batch, tokens = rng.choice(((1, 1), (1, 7), (2, 5), (3, 17), (2, 40), (4, 64), (0, 3), (2, 0), (1, 300)))
    shape = [_size(rng, batch), _size(rng, tokens)]

    def optional(*types: torch.dtype) -> Tensor | None:
        return None if rng.random() < 0.5 else _integers(rng, shape, *types)

    if operator == "encoder_layers":
        states = _strided(rng, _values(rng, [batch, tokens, _size(rng, buffer.k)], rng.choice((torch.float32,) * 9 + _OTHERS)))
        half = rng.choice((8, 8, 1, 16))
        angles = torch.randn([rng.choice((1, batch)), tokens, 2, half]) if rng.random() < 0.3 else None
        return [packed, states, optional(*_OTHERS), rng.randrange(2), angles, None if rng.random() < 0.8 else optional(*_OTHERS)]
    arguments = [packed, _integers(rng, [batch, tokens]), optional(*_OTHERS, *_FLOATS), optional(), optional()]
    arguments.append(_number(rng, buffer.n))
    return arguments + ([_number(rng, buffer.layers)] if operator == "encoder_hidden_states" else [])


def _size(rng: random.Random, right: int) -> int:
    return right if rng.random() < 0.95 else rng.choice((0, 1, right + 1, 5))


def _rows(rng: random.Random, k: int) -> Tensor:
    """[..., K] of any dtype and strides."""
    k = min(max(k, 0), 4096)
    leading = rng.choice(([], [1], [3], [2, 3], [17], [300], [0], [2, 0, 3], [1, 1, 5], [1] * 15, [1] * 16))
    if rng.random() < 0.03:
        return _empty(rng, k)
    dtype = rng.choice(_FLOATS) if rng.random() < 0.9 else rng.choice(_OTHERS)
    return _strided(rng, _values(rng, [*leading, k], dtype))


def _empty(rng: random.Random, k: int) -> Tensor:
    """Without numbers, but with sizes and strides whose products leave 64 bits."""
    sizes = [*rng.sample((0, 1, 2, 2**31, 2**40, 2**62), rng.choice((1, 2, 3))), rng.choice((k, 0, 2**40))]
    strides = [rng.choice((0, 1, 2**31, 2**40, 2**62)) for _ in sizes]
    try:
        return torch.empty(0, dtype=rng.choice(_FLOATS)).as_strided(sizes, strides)
    except RuntimeError:  # not empty, or too large for torch itself
        return torch.empty(0, k)


def _values(rng: random.Random, shape: list[int], dtype: torch.dtype) -> Tensor:
    numbers = 1
    for size in shape:
        numbers *= size
    if numbers > _MOST:
        shape, numbers = [1], 1
    what = rng.random()
    if numbers == 0:
        return torch.empty(shape, dtype=dtype)
    generator = torch.Generator().manual_seed(rng.randrange(2**32))
    t = torch.randn(shape, generator=generator) * rng.choice((1.0, 1.0, 1e-30, 1e30, 0.0, 100.0))
    if what < 0.2:
        odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 3.4e38, -3.4e38, 1e-45, 0.0, -0.0])
        at = torch.randint(0, numbers, (rng.choice((1, 5, numbers)),), generator=generator)
        t.view(-1)[at] = odd[torch.randint(0, 8, at.shape, generator=generator)]
    return t.to(dtype) if dtype.is_floating_point or dtype.is_complex else t.nan_to_num(0, 1, -1).clamp(-9, 99).to(dtype)


def _integers(rng: random.Random, shape: list[int], *types: torch.dtype) -> Tensor:
    """Ids, masks and the like: mostly small ones that are not negative."""
    dtype = rng.choice((torch.int64, torch.int64, torch.int32, *types, *types[:1], *((torch.int16,) if rng.random() < 0.1 else ())))
    generator = torch.Generator().manual_seed(rng.randrange(2**32))
    t = torch.randint(0, rng.choice((2, 2, 40)), shape, generator=generator)
    if t.numel() and rng.random() < 0.15:
        t.view(-1)[rng.randrange(t.numel())] = rng.choice(_INTEGERS)
    return _strided(rng, t.to(dtype))


def _strided(rng: random.Random, t: Tensor) -> Tensor:
    """The same shape with other strides, mostly."""
    what = rng.randrange(14)
    if t.dim() == 0 or t.numel() == 0 or what > 6:
        return t
    if what == 0:
        return t.transpose(0, -1).contiguous().transpose(0, -1)
    if what == 1:
        return torch.cat([t, t], dim=-1)[..., ::2]
    if what == 2:
        return torch.cat([t, t], dim=0)[::2]
    if what == 3:
        return t[..., :1].expand(t.shape)
    if what == 4:
        return t[:1].expand(t.shape)
    if what == 5:
        return t.requires_grad_() if t.is_floating_point() else t
    return rng.choice((t.to("meta"), t.to_sparse(), t.flatten(), t.unsqueeze(0), t.t() if t.dim() == 2 else t))


def _buffer_tensor(rng: random.Random, data: bytearray) -> Tensor:
    """As bytes; now and then where no number can be read, of another dtype or shape, or with gaps."""
    packed, what = tensor_of(data), rng.randrange(60)
    if what == 0:
        return torch.cat([torch.zeros(rng.choice((1, 4, 8, 12)), dtype=torch.uint8), packed])[rng.choice((1, 4, 8, 12)) :]
    if what == 1:
        return packed.view(torch.int8)
    if what == 2:
        return packed.unsqueeze(0)
    if what == 3:
        return packed.repeat_interleave(2)[::2]
    if what == 4:
        return packed.to("meta")
    return packed


def _describe(argument: Any) -> str:
    if isinstance(argument, Tensor):
        return f"{str(argument.dtype).removeprefix('torch.')} {list(argument.shape)} strides {argument.layout == torch.strided and argument.stride()} on {argument.device}"
    return repr(argument)
