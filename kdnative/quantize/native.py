"""The forward of quantization-aware training on the native kernels, where this machine has fast ones."""

from __future__ import annotations

import torch
from torch import Tensor

from kdnative.formats import QuantizedWeight, Scheme, dense

__all__ = ["native_linear"]


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
    except ImportError:
        return None
    if ops.isa() == "reference":
        return None
    if scheme.group_size is None:
        scale = scale[:, 0]
    zero = None if zero is None else zero.to(torch.int8)
    plain = QuantizedWeight.unchecked(
        codes.flatten(1).to(torch.int8), scale, zero, scheme.weight_bits, scheme.group_size
    )
    packed = dense.pack(plain, bias)
    return ops.linear(x.float(), packed, scheme.weight_bits, codes.shape[0])
