"""Integer weights of convolutions: one scale for each output channel, symmetric."""

from __future__ import annotations

import torch
from torch import Tensor

from kdnative.formats.convnet.graph import ConvWeight

__all__ = ["integer_weight"]


def integer_weight(weight: Tensor, bias: Tensor) -> ConvWeight:
    """The codes of a weight, rounded to the nearest: the largest of an output channel is 127.

    Scales of the least squared error, which cut the largest weights, made MobileNetV2 no better.

    Args:
        weight: [O, I / groups, kh, kw], finite. bias: [O].
    """
    rows = weight.detach().to(torch.float64).flatten(1)
    largest = rows.abs().amax(1).clamp(min=1e-30)  # a channel of zeros: any scale will do
    scale = (largest / 127).to(torch.float32)
    q = (rows / scale.to(torch.float64)[:, None]).round().clamp(-127, 127)
    return ConvWeight(q.to(torch.int8).reshape(weight.shape), scale, bias.detach().to(torch.float32).clone())
