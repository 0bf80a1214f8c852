"""The weight of a packed linear as an operator, for programs of torch.compile that look at it.

A graph holds the call and drops it where nothing but the shape or dtype is used.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdnative.formats import layouts
from kdnative.formats.gpu.layouts import of_form

__all__ = ["linear_weight"]


@torch.library.custom_op("kdnative::linear_weight", mutates_args=())
def linear_weight(packed: Tensor, out_features: int, in_features: int, form: int = 0) -> Tensor:
    """The dequantized weight, float32 ``[out_features, in_features]``, of a packed linear in any layout."""
    layout = of_form(form, out_features, in_features) if form else layouts.of_packed(packed)
    weight, _ = layout.unpack(packed)
    return weight.dequantize()


@linear_weight.register_fake
def _(packed: Tensor, out_features: int, in_features: int, form: int = 0) -> Tensor:
    return packed.new_empty((out_features, in_features), dtype=torch.float32)
