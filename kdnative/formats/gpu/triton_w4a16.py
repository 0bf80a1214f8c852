"""4-bit weights <-> the packed buffer of the Triton product with floating-point activations.

The buffer has no header: its sections follow from N, K, the group, and what the layer has.

=============  ========================  =====================================================================
codes          uint8 [N, 32 ceil(K/64)]  two codes u = q + 8 a byte: of 64 inputs, byte i has input i in its low half,
                                         and input 32 + i in its high one
scale          float32 [K / G, N]        so that the scales of neighbouring outputs lie side by side
zero           uint8 [K / G, N]          as u, with zero points only
bias           float32 [N]               if there is one
input scales   float32 [K]               if there are any
=============  ========================  =====================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdnative.formats import dense
from kdnative.formats.dense import pad, round_up
from kdnative.formats.gpu import sections
from kdnative.formats.weight import QuantizedWeight

__all__ = ["Parts", "pack", "parts", "size", "unpack"]

PAIRED = 64
_MIDDLE = 8


@dataclass(frozen=True)
class Parts:
    """Views of the sections, in their shapes; None: there is none."""

    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    bias: Tensor | None
    input_scale: Tensor | None


def pack(weight: QuantizedWeight, bias: Tensor | None, zeros: bool) -> Tensor:
    """Pack a weight of 4 bits in groups.

    Args:
        weight: int8 ``[N, K]``, with groups of 32, 64 or 128, and fp32 scales.
        bias: float ``[N]`` or None.
        zeros: whether there is a section of zero points. Without one, those of the weight must be 0.

    Raises:
        ValueError: another kind of weight.
    """
    dense.check(weight)
    n, k = weight.qweight.shape
    if weight.bits != 4 or weight.group_scale is not None:
        raise ValueError(f"the 4-bit product takes 4-bit weights with fp32 scales, this one has {weight.bits} bits")
    dense.check_group(weight.group_size, k)
    if not zeros and weight.zero is not None and bool(weight.zero.any()):
        raise ValueError("the weight has zero points, for which this layout has no place")
    u = (pad(weight.qweight.detach(), n, round_up(k, PAIRED)) + _MIDDLE).to(torch.uint8).view(n, -1, 2, PAIRED // 2)
    raw = [u[:, :, 0] | u[:, :, 1] << 4, weight.scale.detach().t()]
    if zeros:
        zero = torch.zeros_like(weight.scale, dtype=torch.int8) if weight.zero is None else weight.zero.detach()
        raw.append((zero + _MIDDLE).to(torch.uint8).t())
    if bias is not None:
        raw.append(bias.detach().to(u.device).float())
    if weight.input_scale is not None:
        raw.append(weight.input_scale.detach())
    return sections.join(raw)


def size(n: int, k: int, group: int, zeros: bool, bias: bool, input_scales: bool) -> int:
    """Bytes of what :func:`pack` returns for a weight ``[n, k]``."""
    return sections.total(_sizes(n, k, group, zeros, bias, input_scales))


def parts(packed: Tensor, n: int, k: int, group: int, zeros: bool, bias: bool, input_scales: bool) -> Parts:
    """The sections of a packed weight ``[n, k]``.

    Raises:
        ValueError: the buffer has not the size of such a weight.
    """
    sizes = _sizes(n, k, group, zeros, bias, input_scales)
    sections.check_size(packed, sections.total(sizes), f"a 4-bit weight [{n}, {k}] in groups of {group} of this form")
    codes, scale, zero, shift, inputs = sections.split(packed, sizes)
    return Parts(
        codes.view(n, -1),
        scale.view(torch.float32).view(-1, n),
        zero.view(-1, n) if zeros else None,
        shift.view(torch.float32) if bias else None,
        inputs.view(torch.float32) if input_scales else None,
    )


def unpack(
    packed: Tensor, n: int, k: int, group: int, zeros: bool, bias: bool, input_scales: bool
) -> tuple[QuantizedWeight, Tensor | None]:
    """The inverse of :func:`pack`, bit for bit: the weight, and the bias (float32, or None).

    Raises:
        ValueError: the buffer has not the size of such a weight.
    """
    found = parts(packed, n, k, group, zeros, bias, input_scales)
    pairs = found.codes.view(n, -1, 1, PAIRED // 2)
    u = torch.cat([pairs & 15, pairs >> 4], 2).view(n, -1)[:, :k]
    zero = None if found.zero is None else (found.zero.t().to(torch.int8) - _MIDDLE).contiguous()
    weight = QuantizedWeight.unchecked(
        (u.to(torch.int8) - _MIDDLE).contiguous(),
        found.scale.t().contiguous(),
        zero,
        4,
        group,
        input_scale=None if found.input_scale is None else found.input_scale.clone(),
    )
    return weight, None if found.bias is None else found.bias.clone()


def _sizes(n: int, k: int, group: int, zeros: bool, bias: bool, input_scales: bool) -> list[int]:
    scales = n * (k // group)
    codes = n * round_up(k, PAIRED) // 2
    return [codes, 4 * scales, scales if zeros else 0, 4 * n if bias else 0, 4 * k if input_scales else 0]
