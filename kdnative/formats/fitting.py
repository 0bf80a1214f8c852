"""Whether an integer weight is one of a scheme."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight

__all__ = ["mismatch"]


def mismatch(weight: QuantizedWeight, shape: Sequence[int], scheme: Scheme) -> str | None:
    """Why a given weight can't be that of a layer which gets ``scheme``; None when it can.

    Args:
        weight: what was given, of whatever type.
        shape: of the layer's float weight.
        scheme: sparse forms are those of dense weights. Without zero points a weight is one of schemes that have some.
    """
    if not isinstance(weight, QuantizedWeight):
        return f"a QuantizedWeight is needed, not {type(weight).__name__}"
    if list(weight.qweight.shape) != list(shape):
        return f"it has shape {list(weight.qweight.shape)}, and the layer {list(shape)}"
    if weight.codebook is not None:
        return "it has a code book, and no kernel looks codes up"
    wanted = scheme.dense.weight
    if weight.zero is None and not wanted.integer_scales:  # points of 0 go without saying
        wanted = replace(wanted, symmetric=True)
    if weight.format != wanted or (weight.input_scale is not None) != scheme.input_scales:
        return f"it has {_in_words(weight)}, which is not {scheme}"
    return None


def _in_words(weight: QuantizedWeight) -> str:
    parts: Iterable[str] = (
        f"{weight.bits} bits",
        "no groups" if weight.group_size is None else f"groups of {weight.group_size}",
        "no zero points" if weight.zero is None else "zero points",
        "" if weight.group_scale is None else "integer scales of groups",
        "" if weight.input_scale is None else "input scales",
    )
    return ", ".join(filter(None, parts))
