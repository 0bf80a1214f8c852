"""What a format alone costs: weights and activations rounded to it and back, in float64 and without any kernel.

A result is right when it is as near as its format allows. Ours are compared with the product of the rounded operands,
so that only a kernel that computes the format itself passes; formats of peers are known in kind only, and their results
may be off by twice what a format of that kind costs on the same data (`Check`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.formats.scheme import Scheme

MOST = 0.5
"""No result may be off by more than half of its own size, whatever its format costs: zeros are off by 1."""


def rounded(values: Tensor, bits: int, dims: int | tuple[int, ...] | None = -1) -> Tensor:
    """Symmetric integers of that many bits and back, float64; one range for the values along ``dims``.

    The largest magnitude is the largest code, 2^(bits - 1) - 1. The range of `None` is that of the whole tensor.
    """
    top = 2 ** (bits - 1) - 1
    exact = values.double()
    largest = exact.abs().amax() if dims is None else exact.abs().amax(dims, keepdim=True)
    step = torch.where(largest > 0, largest, 1.0) / top
    return (exact / step).round() * step


def rounded_asymmetric(values: Tensor, bits: int) -> Tensor:
    """The same with a zero point: 2^bits - 1 steps from the least to the largest value of the last dimension, and 0."""
    exact = values.double()
    low, high = exact.amin(-1, keepdim=True).clamp(max=0), exact.amax(-1, keepdim=True).clamp(min=0)
    step = (high - low) / (2**bits - 1)
    step = torch.where(step > 0, step, 1.0)
    zero = (low / step).round()
    return (((exact / step).round() - zero).clamp(0, 2**bits - 1) + zero) * step


def rounded_weight(weight: Tensor, scheme: Scheme) -> Tensor:
    """A weight ``[N, K]`` as one of our schemes stores it, float64.

    Integer group scales are chosen by a search: for those it asks the quantizer, which no kernel takes part in.
    """
    if scheme.integer_scales:
        from kdnative.quantize import quantize_weight

        return quantize_weight(weight, scheme).dequantize().double()
    groups = weight.reshape(weight.shape[0], -1, scheme.group_size or weight.shape[1])
    found = rounded if scheme.symmetric else rounded_asymmetric
    return found(groups, scheme.weight_bits).reshape(weight.shape)


def rounded_input(x: Tensor, scheme: Scheme) -> Tensor:
    """Activations ``[..., K]`` as the scheme's kernels read them: int8 with a range for each row, or as they are."""
    return x.double() if scheme.activation_bits == 16 else rounded(x, 8)


def brain(values: Tensor) -> Tensor:
    """bfloat16 and back, float64."""
    return values.bfloat16().double()


class RoundTrip(nn.Module):
    """A linear layer of rounded weights that rounds its input, in fp32.

    Args:
        linear: the layer; it stays as it is.
        weight, x: round a weight and an input, and return float64.
    """

    def __init__(self, linear: nn.Linear, weight: Callable[[Tensor], Tensor], x: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight(linear.weight.detach()).float(), requires_grad=False)
        self.bias, self.rounded_input = linear.bias, x

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.rounded_input(x).float(), self.weight, self.bias)


def round_outputs_(model: nn.Module, rounding: Callable[[Tensor], Tensor]) -> nn.Module:
    """Rounds what each part of a model returns, in place: embeddings and norms as well as products."""

    def hook(_module: nn.Module, _given: tuple[Any, ...], y: Any) -> Any:
        return rounding(y).float() if isinstance(y, Tensor) and y.is_floating_point() else y

    for module in model.modules():
        if not list(module.children()):
            module.register_forward_hook(hook)
    return model


def round_trip_(
    model: nn.Module,
    weight: Callable[[Tensor], Tensor],
    x: Callable[[Tensor], Tensor],
    embeddings: Callable[[Tensor], Tensor] | None = None,
) -> nn.Module:
    """Rounds the weights and inputs of every linear layer of an encoder, in place.

    Args:
        model: fp32.
        weight, x: as for `RoundTrip`.
        embeddings: rounds the tables of embeddings that are as wide as the model; None: they stay.
    """
    width = model.config.hidden_size
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, RoundTrip(child, weight, x))
            elif isinstance(child, nn.Embedding) and embeddings is not None and child.embedding_dim == width:
                child.weight.data = embeddings(child.weight.data).float()
        if isinstance(parent, nn.MultiheadAttention):  # its products are no modules: queries, keys, values; output
            for tensor in (parent.in_proj_weight, parent.out_proj.weight):
                tensor.data = weight(tensor.data).float()
            parent.register_forward_pre_hook(lambda _, given: tuple(x(tensor).float() for tensor in given))
    return model
