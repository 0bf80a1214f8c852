"""The forward of quantization-aware training on the native kernels, where this machine has fast ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..scheme import Scheme

__all__ = ["native_linear"]


class _Codes(NamedTuple):
    """The fields of a `QuantizedWeight`, without its checks: a training step packs weights it has just rounded."""

    qweight: Tensor
    scale: Tensor
    zero: Tensor | None
    bits: int
    group_size: int | None
    group_scale: None = None


def native_linear(
    x: Tensor, codes: Tensor, scale: Tensor, zero: Tensor | None, scheme: Scheme, bias: Tensor | None
) -> Tensor | None:
    """The output of the native kernel, or None where plain torch operations have to do (the bits are the same).

    Args:
        x: [..., K] fp32, bf16 or fp16.
        codes: integer-valued fp32 [N, G, K / G], zero points not subtracted.
        scale, zero: [N, G], zero integer-valued or None.

    Returns:
        fp32 [..., N], or None for other devices than the CPU, empty operands, a build without the library or with only
        the reference kernels, and under `torch.compile`.
    """
    if torch.compiler.is_compiling() or not (x.is_cpu and codes.is_cpu) or x.numel() == 0 or codes.numel() == 0:
        return None
    try:
        from kdnative import ops
        from kdnative.ops import packing
    except ImportError:
        return None
    if ops.isa() == "reference":
        return None
    if scheme.group_size is None:
        scale = scale[:, 0]
    zero = None if zero is None else zero.to(torch.int8)
    plain = _Codes(codes.flatten(1).to(torch.int8), scale, zero, scheme.weight_bits, scheme.group_size)
    packed = packing.pack(plain, bias)
    return ops.linear(x.float(), packed, scheme.weight_bits, codes.shape[0])
