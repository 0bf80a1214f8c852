"""Tensors of any dtype, shape, strides and values."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from tests.fuzz.words import NUMBERS

__all__ = ["FLOATS", "INTEGERS", "OTHERS", "describe", "floats", "integers", "rows"]

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
OTHERS = (
    *(torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    torch.complex64,
)
INTEGERS = [number for number in NUMBERS if type(number) is int and abs(number) < 2**63]
_ODD = (float("nan"), float("inf"), -float("inf"), 3.4e38, -3.4e38, 1e-45, 0.0, -0.0)
_MOST = 2**22  # numbers that are really there


def rows(rng: random.Random, k: int) -> Tensor:
    """[..., K], mostly of a dtype that operators take."""
    k = min(max(k, 0), 4096)
    if rng.random() < 0.05:
        return rng.choice((_empty, _endless))(rng, k)
    leading = rng.choice(([], [1], [3], [2, 3], [17], [300], [0], [2, 0, 3], [1, 1, 5], [1] * 15, [1] * 16))
    return floats(rng, [*leading, k], rng.choice(FLOATS if rng.random() < 0.9 else OTHERS))


def floats(rng: random.Random, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Of a size, or with numbers that are none."""
    count = math.prod(shape)
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    if count > _MOST:
        return torch.ones([1] * len(shape), dtype=dtype).expand(shape)
    generator = torch.Generator().manual_seed(rng.randrange(2**32))
    t = torch.randn(shape, generator=generator) * rng.choice((1.0, 1.0, 1e-30, 1e30, 0.0, 100.0))
    if rng.random() < 0.2:
        at = torch.randint(0, count, (rng.choice((1, 5, count)),), generator=generator)
        t.view(-1)[at] = torch.tensor(_ODD)[torch.randint(0, len(_ODD), at.shape, generator=generator)]
    if not dtype.is_floating_point and not dtype.is_complex:
        t = t.nan_to_num(0, 1, -1).clamp(-9, 99)
    return _strided(rng, t.to(dtype))


def integers(rng: random.Random, shape: Sequence[int], others: Sequence[torch.dtype] = ()) -> Tensor:
    """Ids, masks and the like: mostly small ones that are not negative."""
    usual = (torch.int64, torch.int64, torch.int32, *others)
    dtype = rng.choice(usual) if rng.random() < 0.95 else rng.choice((*OTHERS, *FLOATS))
    if math.prod(shape) > _MOST:
        return torch.zeros([1] * len(shape), dtype=dtype).expand(shape)
    generator = torch.Generator().manual_seed(rng.randrange(2**32))
    t = torch.randint(0, rng.choice((2, 2, 40)), shape, generator=generator)
    if t.numel() and rng.random() < 0.15:
        t.view(-1)[rng.randrange(t.numel())] = rng.choice(INTEGERS)
    return _strided(rng, t.to(dtype))


def _empty(rng: random.Random, k: int) -> Tensor:
    """Without numbers, but with sizes and strides whose products leave 64 bits."""
    sizes = [*rng.sample((0, 1, 2, 2**31, 2**40, 2**62), rng.choice((1, 2, 3))), rng.choice((k, 0, 2**40))]
    strides = [rng.choice((0, 1, 2**31, 2**40, 2**62)) for _ in sizes]
    try:
        return torch.empty(0, dtype=rng.choice(FLOATS)).as_strided(sizes, strides)
    except RuntimeError:  # not empty, or too large for torch itself
        return torch.empty(0, k)


def _endless(rng: random.Random, k: int) -> Tensor:
    """A few numbers again and again: more than any memory holds."""
    sizes = rng.choice(([2**25, 2**25], [2**50], [1, 2**45], [2**20, 2**20]))
    return torch.ones([1] * len(sizes) + [k], dtype=rng.choice(FLOATS)).expand(*sizes, k)


def _strided(rng: random.Random, t: Tensor) -> Tensor:
    """The same shape with other strides, sometimes; seldom another shape, or a tensor of another kind."""
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
    return rng.choice((t.to("meta"), t.to_sparse(), t.flatten(), t.unsqueeze(0), t.transpose(0, -1)))


def describe(t: Tensor) -> str:
    strides = list(t.stride()) if t.layout == torch.strided else t.layout
    return f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)} strides {strides} on {t.device}"
