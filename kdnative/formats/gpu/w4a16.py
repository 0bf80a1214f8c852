"""4-bit weights in groups, and 8-bit ones, for float activations <-> the packed buffer of the GPU's kernels.

Layout: ``csrc/cuda/w4a16_layout.h``, which says where each code lies and why. The buffer has no header: its sections
follow from N, K, and what the layer has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdnative.formats import dense
from kdnative.formats.dense import pad, round_up
from kdnative.formats.gpu import sections
from kdnative.formats.weight import QuantizedWeight

__all__ = ["pack", "size", "unpack"]

UNIT = 32

# The output of the 32 that column g of product j is, at place 8 j + g.
_OUTPUTS = [(j >> 1) * 16 + (g >> 1) * 4 + (j & 1) * 2 + (g & 1) for j in range(4) for g in range(8)]
_PLACES = [_OUTPUTS.index(output) for output in range(UNIT)]


def pack(weight: QuantizedWeight, bias: Tensor | None = None) -> Tensor:
    """Pack integer weights for float activations.

    Args:
        weight: ``qweight`` int8 ``[N, K]``, of 4 bits in groups of 32, 64 or 128 with zero points or without, or of 8
            bits with one scale per output; with input scales or without.
        bias: float ``[N]`` or None.

    Returns:
        uint8, :func:`size` bytes, on the device of the weight.

    Raises:
        ValueError: another kind of weight.
    """
    dense.check(weight)
    n, k = weight.qweight.shape
    _check(weight.bits, weight.group_size or 0, weight.zero is not None, k)
    if weight.group_scale is not None:
        raise ValueError(
            "weights with integer group scales have no kernel for float activations; they are for int8 activations "
            "(w4a8-g64-int)"
        )
    n_pad, k_pad, middle = round_up(n, UNIT), round_up(k, UNIT), 1 << (weight.bits - 1)
    codes = (pad(weight.qweight.detach(), n_pad, k_pad).to(torch.int16) + middle).to(torch.uint8)
    scale = weight.scale.detach().float().view(n, -1)
    parts = [_arrange(codes, weight.bits), pad(scale, n_pad).t()]
    nothing = codes.new_empty(0)
    parts.append(nothing if weight.zero is None else _arrange_zeros(pad(weight.zero.detach(), n_pad)))
    parts.append(nothing if bias is None else pad(bias.detach().to(scale.device).float(), n_pad))
    parts.append(nothing if weight.input_scale is None else pad(weight.input_scale.detach(), k_pad))
    return sections.join(parts)


def size(n: int, k: int, bits: int, group: int, zeros: bool, bias: bool, input_scales: bool = False) -> int:
    """Bytes of what :func:`pack` returns for a weight ``[n, k]``.

    Args:
        bits: 4 or 8.
        group: inputs that share a scale; 0: all of them.
        zeros, bias, input_scales: whether it has zero points, a bias, input scales.
    """
    return sections.total(_sizes(n, k, bits, group, zeros, bias, input_scales))


def unpack(
    packed: Tensor, n: int, k: int, bits: int, group: int, zeros: bool, bias: bool, input_scales: bool = False
) -> tuple[QuantizedWeight, Tensor | None]:
    """The inverse of :func:`pack`: exact plain tensors and the bias (float32, or None).

    Args:
        packed: uint8, of a weight ``[n, k]``; the other arguments are those of :func:`size`.

    Raises:
        ValueError: there is no such weight, or the buffer has not the size of one.
    """
    _check(bits, group, zeros, k)
    parts_there = {"zero points": zeros, "a bias": bias, "input scales": input_scales}
    having = " and ".join(name for name, there in parts_there.items() if there) or "no bias"
    what = f"a {bits}-bit weight [{n}, {k}] in groups of {group or k} with {having}"
    sections.check_size(packed, size(n, k, bits, group, zeros, bias, input_scales), what)
    parts = sections.split(packed, _sizes(n, k, bits, group, zeros, bias, input_scales))
    n_pad, middle = round_up(n, UNIT), 1 << (bits - 1)
    codes = _arranged(parts[0], n_pad, bits)[:n, :k].to(torch.int16)
    q = (codes - middle).to(torch.int8)
    scale = parts[1].view(torch.float32).view(-1, n_pad).t()[:n]
    zero = _arranged_zeros(parts[2], n_pad)[:n].contiguous() if zeros else None
    plain_bias = parts[3].view(torch.float32)[:n].clone() if bias else None
    inputs = parts[4].view(torch.float32)[:k].clone() if input_scales else None
    scale = scale.contiguous() if group else scale.reshape(n).clone()
    return QuantizedWeight.unchecked(q.contiguous(), scale, zero, bits, group or None, input_scale=inputs), plain_bias


def _check(bits: int, group: int, zeros: bool, k: int) -> None:
    if bits == 4:
        dense.check_group(group, k)
    elif bits != 8 or group or zeros:
        raise ValueError(
            "float activations take 4-bit weights in groups, or 8-bit weights with one scale per output and no zero "
            f"points; the weight has {bits} bits{f' in groups of {group}' if group else ''}"
            f"{', zero points' if zeros else ''}"
        )


def _sizes(n: int, k: int, bits: int, group: int, zeros: bool, bias: bool, input_scales: bool) -> list[int]:
    n_pad, k_pad, groups = round_up(n, UNIT), round_up(k, UNIT), k // group if group else 1
    scales = n_pad * groups
    return [
        n_pad * k_pad * bits // 8,
        4 * scales,
        scales if zeros else 0,
        4 * n_pad if bias else 0,
        4 * k_pad if input_scales else 0,
    ]


def _arrange(codes: Tensor, bits: int) -> Tensor:
    """uint8 codes ``[n_pad, k_pad]`` as the bytes of the first section."""
    strips, units = codes.shape[0] // UNIT, codes.shape[1] // UNIT
    order = torch.tensor(_OUTPUTS, device=codes.device)
    # A slot s of 8 inputs is 2 high + low; its inputs are 2 t + e.
    by_lane = codes.view(strips, UNIT, -1)[:, order].view(strips, 4, 8, units, 2, 2, 4, 2)
    strip, j, g, unit, high, low, t, e = range(8)
    if bits == 8:
        return by_lane.permute(strip, unit, high, g, t, j, e, low)
    by_lane = by_lane.permute(strip, unit, g, t, j, e, high, low)
    return by_lane[..., 0] | (by_lane[..., 1] << 4)


def _arranged(section: Tensor, n_pad: int, bits: int) -> Tensor:
    """The inverse of :func:`_arrange`: uint8 ``[n_pad, k_pad]``."""
    strips = n_pad // UNIT
    if bits == 8:
        strip, unit, high, g, t, j, e, low = range(8)
        by_lane = section.view(strips, -1, 2, 8, 4, 4, 2, 2)
    else:
        strip, unit, g, t, j, e, high, low = range(8)
        by_lane = section.view(strips, -1, 8, 4, 4, 2, 2)
        by_lane = torch.stack([by_lane & 15, by_lane >> 4], dim=-1)
    rows = by_lane.permute(strip, j, g, unit, high, low, t, e).reshape(strips, UNIT, -1)
    return rows[:, torch.tensor(_PLACES, device=section.device)].reshape(n_pad, -1)


def _arrange_zeros(zero: Tensor) -> Tensor:
    """int8 zero points ``[n_pad, groups]`` of 4 bits as codes ``[groups, strips, g, j]``."""
    order = torch.tensor(_OUTPUTS, device=zero.device)
    codes = (zero + 8).to(torch.uint8).view(-1, UNIT, zero.shape[1])[:, order]
    return codes.view(-1, 4, 8, zero.shape[1]).permute(3, 0, 2, 1)


def _arranged_zeros(section: Tensor, n_pad: int) -> Tensor:
    """The inverse of :func:`_arrange_zeros`."""
    by_lane = section.view(-1, n_pad // UNIT, 8, 4).permute(1, 3, 2, 0).reshape(n_pad // UNIT, UNIT, -1)
    codes = by_lane[:, torch.tensor(_PLACES, device=section.device)].reshape(n_pad, -1)
    return (codes.to(torch.int16) - 8).to(torch.int8)
