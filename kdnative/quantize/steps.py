"""The steps of the channels or groups of a layer in training, once found, and rounding to their multiples.

They come from a search of the clipping range, or from an integer weight that is there already, such as GPTQ's. They do
not follow the weight of the moment, so that the codes of a given weight are the codes that training starts from.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import MOST_GROUP_SCALE, QuantizedWeight, code_range
from kdnative.quantize import rtn, two_level

__all__ = ["Steps", "Rounded", "steps_of", "round_to", "searched"]


class Steps(NamedTuple):
    """The steps of ``w = (code - zero) [* group_scale] * scale``.

    Args:
        scale: fp32 [N, G]; [N, 1] where all groups of a channel share a step, or where there are two levels of scales.
        zero: int8 [N, G], or None.
        group_scale: uint8 [N, G], or None.
    """

    scale: Tensor
    zero: Tensor | None = None
    group_scale: Tensor | None = None


class Rounded(NamedTuple):
    """A weight as codes.

    Args:
        codes: integer-valued fp32 [N, G, g], zero points not subtracted.
        scale: fp32 [N, G], positive; with two levels [N, 1].
        zero, group_scale: integer-valued fp32 [N, G], or None.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    group_scale: Tensor | None

    def decoded(self) -> Tensor:
        """What the steps are multiplied by, integer-valued fp32 [N, G, g]; of the storage of the codes."""
        if self.zero is not None:
            self.codes.sub_(self.zero[..., None])
        return self.codes if self.group_scale is None else self.codes.mul_(self.group_scale[..., None])

    def weight(self, scheme: Scheme, input_scale: Tensor | None = None) -> QuantizedWeight:
        """The plain form."""
        per_channel = scheme.group_size is None
        scale = self.scale[:, 0] if per_channel or scheme.integer_scales else self.scale.contiguous()
        zero = None if self.zero is None else self.zero.to(torch.int8)
        return QuantizedWeight.unchecked(
            self.codes.flatten(1).to(torch.int8),
            scale.clone(),
            zero[:, 0] if zero is not None and per_channel else zero,
            scheme.weight_bits,
            scheme.group_size,
            None if self.group_scale is None else self.group_scale.to(torch.uint8),
            input_scale=None if input_scale is None else input_scale.float().clone(),
        )


def steps_of(weight: QuantizedWeight) -> Steps:
    """The steps of an integer weight, without its input scales."""
    n = weight.qweight.shape[0]
    per_channel = weight.zero is not None and weight.zero.dim() == 1
    zero = weight.zero[:, None] if weight.zero is not None and per_channel else weight.zero
    return Steps(weight.scale.detach().reshape(n, -1).clone(), zero, weight.group_scale)


def searched(weight: Tensor, scheme: Scheme) -> Steps:
    """The steps of the clipping ranges that `search_clip` finds for a weight [N, K]; of one without values, shapes."""
    if not weight.is_meta:
        return steps_of(rtn.quantize_weight(weight, scheme, clip_search=True))
    shape = weight.shape[0], scheme.groups(weight.shape[1])

    def empty(dtype: torch.dtype, shape: tuple[int, int] = shape) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    if scheme.integer_scales:
        return Steps(empty(torch.float32, (shape[0], 1)), empty(torch.int8), empty(torch.uint8))
    return Steps(empty(torch.float32), None if scheme.symmetric else empty(torch.int8))


def round_to(weight: Tensor, scheme: Scheme, steps: Steps | None, largest: int | None = None) -> Rounded:
    """Rounds to the nearest code.

    Args:
        weight: [N, K], fp32.
        scheme: of the weight.
        steps: of its groups; None: the range of a channel or group covers its largest weight, as
            `quantize_weight` has it.
        largest: magnitude of the largest code, where it is below that of the scheme (1: ternary).
    """
    groups = rtn.grouped(weight, scheme.group_size)
    bits = scheme.weight_bits
    if steps is None and scheme.integer_scales:
        two = two_level.quantize_two_level(groups)
        return Rounded(two.codes, two.scale[:, None], two.zero, two.group_scale)
    if steps is None:
        used = rtn.apply_clip(rtn.base_range(groups, bits, scheme.symmetric), bits)
        return Rounded(rtn.round_codes(groups, used, bits), used.scale, used.zero, None)
    # Steps know nothing of weights that are NaN or infinite, which must not be taken for large ones.
    usable = torch.where(torch.isfinite(groups.sum(-1)), _usable(steps.scale, scheme), torch.nan)
    low, high = code_range(bits)
    zero = None if steps.zero is None else steps.zero.float().clamp(low, high)  # a file may say anything
    if steps.group_scale is not None and zero is not None:
        group_scale = steps.group_scale.float().clamp(1, MOST_GROUP_SCALE)
        scale = usable.amax(-1, keepdim=True)
        return Rounded(two_level.codes_of(groups / scale[..., None], zero, group_scale), scale, zero, group_scale)
    codes = rtn.round_codes(groups, rtn.Range(usable, zero), bits)
    return Rounded(codes if largest is None else codes.clamp_(-largest, largest), usable, zero, None)


def _usable(scale: Tensor, scheme: Scheme) -> Tensor:
    """Steps that a learning rate has driven through 0 or to infinity are held at the ends of what is allowed."""
    return scale.detach().float().clamp(rtn.TINY, rtn.largest_scale(scheme.weight_bits, scheme.symmetric))
