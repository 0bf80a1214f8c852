"""The arithmetic of the integer kernels in plain torch operations, bit for bit, on any device.

Training runs through this (whatever the kernels will compute after conversion, the loss has already seen), and so does
every device without kernels of its own (:mod:`kdnative.ops.reference`). The rules are those of `csrc/cpu/kernels.h`;
the matrix product is done by the fastest routine of the device that is exact.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from kdnative.formats.scheme import Scheme

__all__ = ["grouped_linear", "integer_matmul", "overflow", "per_channel_linear", "quantize_rows"]

# Every partial sum of this many products of int8 codes is an integer that fp32 holds: 1040 * 127 * 127 < 2^24.
EXACT_FP32_INPUTS = 1040

# Beyond this many inputs, the int32 sums of the kernels could overflow.
MAX_INPUTS = (2**31 - 1) // (127 * 127)
TOO_MANY_INPUTS = (
    f"the weight has more than {MAX_INPUTS} inputs, whose int8 products could overflow int32; use a scheme with groups "
    "(w4a8-g64) or float activations (w8a16)"
)


def overflow(scheme: Scheme, inputs: int) -> str | None:
    """Why a linear of a scheme can't sum so many int8 products, in words; None where it can.

    A group with an fp32 scale has a sum of its own, which stays small. Without such groups all inputs share one.
    """
    one_sum = scheme.activation_bits == 8 and (scheme.group_size is None or scheme.integer_scales)
    return TOO_MANY_INPUTS if one_sum and inputs > MAX_INPUTS else None


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Dynamic per-token int8, as the kernels quantize activations.

    Args:
        x: [M, K], fp32, bf16 or fp16.

    Returns:
        Codes in [-127, 127] as integer-valued fp32 [M, K], and scale fp32 [M]. ``scale = max|x| / 127`` and
        ``q = rint(x * (127 / max|x|))``, halves to even. Rows whose largest magnitude is below 1e-30 have codes 0; rows
        with NaN or infinity have codes 0 and scale NaN.
    """
    x = x.float()
    if x.shape[1] == 0:
        return x, x.new_zeros(x.shape[0])
    amax = x.abs().amax(-1)
    finite = torch.isfinite(amax)
    # Tensors on both sides: torch turns number / tensor, and on a GPU tensor / number, into a product with a rounded
    # reciprocal, which is another result in the last bit.
    steps = torch.full_like(amax, 127.0)
    inverse = torch.where(amax >= 1e-30, steps / amax, 0.0)
    codes = (x * inverse[:, None]).round_()
    if not bool(finite.all()):
        codes.masked_fill_(~finite[:, None], 0.0)
    return codes, torch.where(finite, amax / steps, torch.nan)


def integer_matmul(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T`` of int8 codes, each sum exact before its single rounding to fp32 (as an int32 conversion rounds).

    Args:
        a: integer-valued fp32 [M, K] within [-127, 127].
        b: integer-valued fp32 [N, K] within [-127, 127].

    Returns:
        fp32 [M, N].
    """
    if _has_int8_product(a, b):
        return torch._int_mm(a.to(torch.int8), b.to(torch.int8).t()).float()
    k = a.shape[1]
    if k <= EXACT_FP32_INPUTS:
        return a @ b.t()
    total = torch.zeros(a.shape[0], b.shape[0], dtype=torch.int32, device=a.device)
    for start in range(0, k, EXACT_FP32_INPUTS):
        columns = slice(start, start + EXACT_FP32_INPUTS)
        total += (a[:, columns] @ b[:, columns].t()).to(torch.int32)
    return total.float()


def per_channel_linear(
    codes: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None
) -> Tensor:
    """The 8-bit kernel: ``acc * (scale * weight_scale) + bias``, every operation rounded to fp32.

    Args:
        codes, scale: from `quantize_rows`.
        weight: integer-valued fp32 [N, K]; weight_scale: fp32 [N]; bias: [N] or None.

    Returns:
        fp32 [M, N].
    """
    y = integer_matmul(codes, weight)
    y *= scale[:, None] * weight_scale
    return y if bias is None else y.add_(bias.float())


def grouped_linear(codes: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """The 4-bit kernel: ``acc = fma(dot, weight_scale, acc)`` over the groups in order, then ``acc * scale + bias``.

    Args:
        codes, scale: from `quantize_rows`.
        weight: integer-valued fp32 [N, G, K / G], zero points already subtracted.
        weight_scale: fp32 [N, G]; bias: [N] or None.

    Returns:
        fp32 [M, N].
    """
    groups, size = weight.shape[1:]
    acc = codes.new_zeros(codes.shape[0], weight.shape[0])
    for g in range(groups):
        dot = codes[:, g * size : (g + 1) * size] @ weight[:, g].t()  # below 128 * 127 * 15: exact in fp32
        acc = fused_multiply_add(dot, weight_scale[:, g], acc)
    acc *= scale[:, None]
    return acc if bias is None else acc.add_(bias.float())


def fused_multiply_add(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """``x * y + z`` of fp32 tensors with one rounding.

    In float64 the product is exact and the sum is rounded once, to 53 bits; rounding that to fp32 is right unless the
    53 bits happen to lie exactly between two fp32 numbers while the true sum does not. Those few elements are moved one
    float64 step towards the true sum first (the rounding error of the sum is known exactly: Knuth's TwoSum).
    """
    x, y, z = torch.broadcast_tensors(x.double(), y.double(), z.double())
    total = torch.addcmul(z, x, y)
    halfway = (total.view(torch.int64) & 0x1FFFFFFF) == 0x10000000
    if bool(halfway.any()):
        product, addend, rounded = x[halfway] * y[halfway], z[halfway], total[halfway]
        back = rounded - product
        error = (product - (rounded - back)) + (addend - back)
        target = torch.where(error > 0, torch.inf, -torch.inf)
        total[halfway] = torch.where(error == 0, rounded, torch.nextafter(rounded, target))
    return total.float()


def _has_int8_product(a: Tensor, b: Tensor) -> bool:
    if a.is_cuda:  # the shapes that cuBLAS takes
        return a.shape[0] > 16 and a.shape[1] % 8 == 0 and b.shape[0] % 8 == 0 and a.shape[1] > 0
    # One column leaves the layout of b.t() ambiguous, and oneDNN then returns memory that it never wrote.
    known_layout = a.shape[1] > 1 and a.shape[0] > 0 and b.shape[0] > 0
    return a.device.type == "cpu" and known_layout and _cpu_int8_is_fast_and_exact()


@cache
def _cpu_int8_is_fast_and_exact() -> bool:
    """Whether `torch._int_mm` is better than fp32 here: without VNNI or AMX it is far slower, and it may saturate."""
    if not getattr(torch.cpu, "_is_vnni_supported", lambda: False)():
        return False
    a = torch.full((32, 192), -127, dtype=torch.int8)
    b = torch.full((64, 192), 127, dtype=torch.int8)
    return bool((torch._int_mm(a, b.t()) == -127 * 127 * 192).all())
