"""The parts of a packed weight on the GPU: one buffer without a header, each part at a multiple of 256 bytes.

The host can't look into the memory of a device, so where a part lies must follow from the shape and the form of the
weight; ``csrc/cuda`` has the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdnative.formats import arithmetic, dense
from kdnative.formats.dense import round_up
from kdnative.formats.weight import QuantizedWeight

__all__ = ["check_buffer", "check_int8", "check_size", "check_sums", "join", "scale_and_bias", "split", "total"]

ALIGNMENT = 256


def join(parts: Sequence[Tensor]) -> Tensor:
    """uint8 ``[total]``: the bytes of the parts in order, with zeros between them."""
    sizes = [part.numel() * part.element_size() for part in parts]
    out = torch.zeros(total(sizes), dtype=torch.uint8, device=parts[0].device)
    for into, part in zip(split(out, sizes), parts, strict=True):
        into.copy_(part.contiguous().view(-1).view(torch.uint8))
    return out


def split(packed: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Views of the parts of these sizes in bytes."""
    starts = [total(sizes[:i]) for i in range(len(sizes))]
    return [packed[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def total(sizes: Sequence[int]) -> int:
    """Bytes of a buffer with parts of these sizes."""
    return sum(round_up(size, ALIGNMENT) for size in sizes)


def check_size(packed: Tensor, size: int, what: str) -> None:
    """ValueError unless ``packed`` is a buffer of ``size`` bytes; ``what`` says which weight has that size."""
    check_buffer(packed, f"{what} has {size} bytes")
    if packed.numel() != size:
        raise ValueError(f"a damaged packed weight: {packed.numel()} bytes, and {what} has {size} bytes; pack it again")


def check_buffer(packed: Tensor, what: str) -> None:
    """ValueError unless ``packed`` is a row of bytes; ``what`` says which weight it should hold."""
    if packed.dtype != torch.uint8 or packed.dim() != 1:
        raise ValueError(
            f"not a packed weight: {packed.dtype} of shape {list(packed.shape)}; one row of uint8 holds {what}; "
            "pack it again"
        )


def check_int8(weight: QuantizedWeight, sparsity: str) -> None:
    """ValueError unless the weight is a matrix of 8 bits with one scale per output and without input scales, of no
    more inputs than int32 sums hold."""
    dense.check(weight)
    if weight.bits != 8 or weight.group_size is not None or weight.zero is not None:
        raise ValueError(
            f"{sparsity} weights have 8 bits, one scale per output and no zero points (got {weight.bits} bits"
            f"{'' if weight.group_size is None else f' in groups of {weight.group_size}'}); pack these dense"
        )
    if weight.input_scale is not None:
        raise ValueError(f"weights with input scales can't be packed as {sparsity}; pack these dense")
    check_sums(weight.qweight.shape[1])


def check_sums(k: int) -> None:
    """ValueError if int32 doesn't hold the sums of int8 products over ``k`` inputs."""
    if k > arithmetic.MAX_INPUTS:
        raise ValueError(f"K = {k}: {arithmetic.TOO_MANY_INPUTS}")


def scale_and_bias(weight: QuantizedWeight, bias: Tensor | None) -> list[Tensor]:
    """The last parts of every packed weight: float32 ``[N]`` each, the second only if there is a bias."""
    scale = weight.scale.detach().float()
    return [scale] if bias is None else [scale, bias.detach().to(scale.device).float()]
