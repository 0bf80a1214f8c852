"""The fp32 numbers of a network's epilogues, and its tables: computed in float64, rounded once.

`csrc/cpu/convolution.h` says what kernels do with them. Packing writes these numbers, and the reference computes with
the same ones, so that the two can only differ in what they do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnative.formats.convnet.graph import Add, Conv, ConvWeight, Ending, Multiply, Range

__all__ = ["PARAMETERS", "Finish", "Sum", "add", "conv", "function", "is_table", "lookup", "multiply"]

PARAMETERS: dict[str, int] = {"elu": 1, "leaky_relu": 1}
"""How many numbers an activation has besides its argument, where that is not 0: the alpha of elu, a slope."""

_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "none": lambda x: x,
    "relu": lambda x: x.clamp(min=0),
    "relu6": lambda x: x.clamp(0, 6),
    "hard_swish": lambda x: x * (x + 3).clamp(0, 6) / 6,
    "hard_sigmoid": lambda x: (x + 3).clamp(0, 6) / 6,
    "silu": lambda x: x * torch.sigmoid(x),
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "leaky_relu": F.leaky_relu,
    "mish": F.mish,
    "softplus": F.softplus,
}
_LIMITS = ("none", "relu", "relu6")


@dataclass(frozen=True)
class Finish:
    """What comes behind the value of an epilogue: its members are those of `Epilogue8`.

    Args:
        kind: of `csrc/cpu/convolution.h`. low, high: limits of codes.
        out_scale, out_zero: of hard_swish. table: uint8 [256], or None.
    """

    kind: Literal["clamp", "hard_swish", "table", "real"]
    low: int = 0
    high: int = 255
    out_scale: float = 1.0
    out_zero: float = 0.0
    table: Tensor | None = None


@dataclass(frozen=True)
class Sum:
    """``v = float(acc) * scale + bias``, and ``v + float(r) * residual_scale`` where there is a residual.

    Args:
        scale, bias: float32 [O]. residual_scale: a number that float32 holds.
    """

    scale: Tensor
    bias: Tensor
    residual_scale: float
    finish: Finish


def is_table(ending: Ending, fused: bool) -> bool:
    """Whether an ending is a table of codes. ``fused``: behind a convolution, which computes hard-swish itself."""
    return ending.activation not in (*_LIMITS, *(("hard_swish",) if fused else ()))


def function(ending: Ending, x: Tensor) -> Tensor:
    """The activation of real numbers, in their type.

    Raises:
        ValueError: there is no such activation.
    """
    if ending.activation not in _FUNCTIONS:
        raise ValueError(f"activation {ending.activation!r} is not known; allowed: {', '.join(_FUNCTIONS)}")
    return _FUNCTIONS[ending.activation](x, *ending.parameters)


def lookup(ending: Ending, source: Range, out: Range) -> Tensor:
    """The code of ``f(x)`` in the range ``out`` for each code of x in the range ``source``: uint8 [256]."""
    x = (torch.arange(256, dtype=torch.float64, device="cpu") - source.zero_point) * source.scale
    q = function(ending, x) / out.scale + out.zero_point
    return q.round().clamp(0, 255).to(torch.uint8)


def conv(node: Conv, weight: ConvWeight, x: Range, residual: Range | None) -> Sum:
    """The epilogue of a convolution.

    Args:
        x, residual: ranges of the inputs; None where there is no residual.
    """
    target, finish = _finish(node.ending, node.out, fused=True)
    scale = x.scale * weight.scale.double() / target.scale
    bias = weight.bias.double() / target.scale + target.zero_point
    residual_scale = 0.0
    if residual is not None:
        residual_scale = residual.scale / target.scale
        bias = bias - residual.zero_point * residual_scale
    return Sum(scale.float(), bias.float(), _fp32(residual_scale), finish)


def add(node: Add, a: Range, b: Range) -> tuple[float, float, float, Finish]:
    """``scale_a``, ``offset`` and ``scale_b`` of `AddCodesFn`, and what comes behind."""
    target, finish = _finish(node.ending, node.out, fused=False)
    scale_a, scale_b = a.scale / target.scale, b.scale / target.scale
    offset = target.zero_point - a.zero_point * scale_a - b.zero_point * scale_b
    return _fp32(scale_a), _fp32(offset), _fp32(scale_b), finish


def multiply(node: Multiply, x: Range, gate: Range) -> float:
    """``scale`` of `MultiplyCodesFn`."""
    assert node.out is not None
    return _fp32(x.scale * gate.scale / node.out.scale)


def _finish(ending: Ending, out: Range | None, fused: bool) -> tuple[Range, Finish]:
    """The range in which the value is computed, and what comes behind."""
    if out is None:
        return Range(1.0, 0), Finish("real")
    if is_table(ending, fused):
        assert ending.before is not None
        return ending.before, Finish("table", table=lookup(ending, ending.before, out))
    if ending.activation == "hard_swish":
        return Range(1.0, 0), Finish("hard_swish", out_scale=_fp32(1 / out.scale), out_zero=float(out.zero_point))
    low = 0 if ending.activation == "none" else out.zero_point
    top = round(6 / out.scale) + out.zero_point if ending.activation == "relu6" else 255
    return out, Finish("clamp", low=low, high=min(top, 255))


def _fp32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32, device="cpu").item()
