"""8-bit weights, and 4-bit ones with integer group scales, <-> the packed buffer of the GPU's int8 product.

Layout: ``csrc/cuda/w8a8_layout.h``. The buffer has no header: its sections follow from N, K, and what the layer has. A
4-bit code times its integer group scale is an int8 code, so that such weights are stored as 8-bit ones; their group
scales and zero points, which no kernel reads, give the 4 bits back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdnative.formats import dense
from kdnative.formats.dense import pad, round_up
from kdnative.formats.gpu import sections
from kdnative.formats.weight import QuantizedWeight

__all__ = ["pack", "size", "sizes", "unpack"]

PAD_K = 128


def pack(weight: QuantizedWeight, bias: Tensor | None = None) -> Tensor:
    """Pack integer weights for the int8 product.

    Args:
        weight: int8 ``[N, K]``, of 8 bits with one scale per output, or of 4 bits with integer group scales; with
            input scales or without.
        bias: float ``[N]`` or None.

    Returns:
        uint8, :func:`size` bytes, on the device of the weight.

    Raises:
        ValueError: another kind of weight, or more inputs than sums of int32 hold.
    """
    dense.check(weight)
    n, k = weight.qweight.shape
    sections.check_sums(k)
    codes = weight.qweight.detach()
    repacked: list[Tensor] = []
    if weight.group_scale is not None:
        groups = weight.group_scale.shape[1]
        zero = torch.zeros(n, groups, dtype=torch.int8, device=codes.device) if weight.zero is None else weight.zero
        by_group = codes.view(n, groups, -1).to(torch.int16) - zero[:, :, None]
        codes = (by_group * weight.group_scale[:, :, None]).to(torch.int8).view(n, k)
        repacked = [weight.group_scale.detach(), zero.detach()]
    elif weight.bits != 8 or weight.group_size is not None or weight.zero is not None:
        groups_or_not = "" if weight.group_size is None else f", groups of {weight.group_size}"
        raise ValueError(
            f"the int8 product takes 8-bit weights with one scale per output and no zero points, or 4-bit weights with "
            f"integer group scales (w4a8-g64-int); the weight has {weight.bits} bits{groups_or_not}"
            f"{'' if weight.zero is None else ', zero points'}"
        )
    parts = [pad(codes, n, round_up(k, PAD_K)), *sections.scale_and_bias(weight, bias)]
    if weight.input_scale is not None:
        parts.append(weight.input_scale.detach())
    return sections.join([*parts, *repacked])


def size(n: int, k: int, bias: bool, input_scales: bool = False, group: int = 0) -> int:
    """Bytes of what :func:`pack` returns for a weight ``[n, k]``.

    Args:
        bias, input_scales: whether it has them.
        group: inputs that share an integer group scale; 0: an 8-bit weight.
    """
    return sections.total(sizes(n, k, bias, input_scales, group))


def unpack(
    packed: Tensor, n: int, k: int, bias: bool, input_scales: bool = False, group: int = 0
) -> tuple[QuantizedWeight, Tensor | None]:
    """The inverse of :func:`pack`: exact plain tensors and the bias (float32, or None).

    Args:
        packed: uint8, of a weight ``[n, k]``; the other arguments are those of :func:`size`.

    Raises:
        ValueError: the buffer has not the size of such a weight.
    """
    having = [name for name, there in (("a bias", bias), ("input scales", input_scales)) if there] or ["no bias"]
    what = f"an int8 weight [{n}, {k}] with {' and '.join(having)}{f' and groups of {group}' if group else ''}"
    sections.check_size(packed, size(n, k, bias, input_scales, group), what)
    codes, scale, shift, inputs, group_scale, zero = sections.split(packed, sizes(n, k, bias, input_scales, group))
    q = codes.view(torch.int8).view(n, -1)[:, :k].contiguous()
    plain_scale = scale.view(torch.float32).clone()
    plain_bias = shift.view(torch.float32).clone() if bias else None
    plain_inputs = inputs.view(torch.float32).clone() if input_scales else None
    if not group:
        return QuantizedWeight.unchecked(q, plain_scale, None, 8, None, input_scale=plain_inputs), plain_bias
    scales, zeros = group_scale.clone().view(n, -1), zero.view(torch.int8).clone().view(n, -1)
    by_group = torch.div(q.view(n, k // group, group), scales[:, :, None], rounding_mode="trunc") + zeros[:, :, None]
    q = by_group.to(torch.int8).view(n, k)
    weight = QuantizedWeight.unchecked(q, plain_scale, zeros, 4, group, scales, input_scale=plain_inputs)
    return weight, plain_bias


def sizes(n: int, k: int, bias: bool, input_scales: bool, group: int) -> list[int]:
    """Bytes of the sections: codes, scale, bias, input scales, group scales, zero points."""
    groups = n * (k // group) if group else 0
    return [n * round_up(k, PAD_K), 4 * n, 4 * n if bias else 0, 4 * k if input_scales else 0, groups, groups]
