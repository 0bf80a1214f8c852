"""The product of a layer in training: the bits of the integer kernel, with gradients as if nothing were rounded.

Gradients pass through the rounding (straight-through estimator, Bengio et al. 2013); weights outside a clipped range
get no gradient, and learned steps get the gradient of LSQ (Esser et al. 2020).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdnative.formats import arithmetic
from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import code_range
from kdnative.quantize.native import native_linear
from kdnative.quantize.steps import Steps, round_to

__all__ = ["QuantizedProduct", "Settings"]

_W8A8 = Scheme.parse("w8a8")


class Settings(NamedTuple):
    """What the forward needs besides the tensors that have gradients."""

    zero: Tensor | None
    group_scale: Tensor | None
    scheme: Scheme
    largest: int | None
    compute: torch.dtype


class QuantizedProduct(torch.autograd.Function):
    """See `kdnative.quantize.FakeQuantLinear`. Codes are kept for the backward, not floats, in a quarter of the memory."""

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None, settings: Settings
    ) -> Tensor:
        scheme = settings.scheme
        steps = None if scale is None else Steps(scale, settings.zero, settings.group_scale)
        rounded = round_to(weight.float(), scheme, steps, settings.largest)
        codes, step, zero = rounded.codes, rounded.scale, rounded.zero
        if scheme.integer_scales:  # 8-bit weights, bit for bit, that happen to be stored in fewer
            codes, zero, scheme = rounded.decoded().flatten(1)[:, None], None, _W8A8
        rows = x.reshape(x.shape[:-1].numel(), x.shape[-1])
        if scheme.activation_bits == 8:
            rows, row_scale = arithmetic.quantize_rows(rows)
            y = native_linear(x, codes, step, zero, scheme, bias)
        if zero is not None:
            codes = rounded.decoded()
        if scheme.activation_bits != 8:
            row_scale = None
            dequantized = (codes * step[..., None]).view(weight.shape)
            y = torch.nn.functional.linear(rows.float(), dequantized, None if bias is None else bias.float())
        elif y is None and scheme.group_size is None:
            y = arithmetic.per_channel_linear(rows, row_scale, codes.view(weight.shape), step[:, 0], bias)
        elif y is None:
            y = arithmetic.grouped_linear(rows, row_scale, codes, step, bias)
        ctx.compute, ctx.input_shape, ctx.input_type = settings.compute, x.shape, x.dtype
        ctx.weight_type = weight.dtype
        ctx.bias_type = None if bias is None else bias.dtype
        ctx.largest_code = settings.largest or code_range(scheme.weight_bits)[1]
        ctx.steps = None if scale is None else scale.shape[1]
        clipped = weight if scale is not None and not settings.scheme.integer_scales else None
        if row_scale is not None:
            rows = rows.to(torch.int8)
        ctx.save_for_backward(rows, row_scale, codes.to(torch.int8), step, clipped)
        return y.view(*x.shape[:-1], weight.shape[0]).to(settings.compute)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        rows, row_scale, codes, step, weight = ctx.saved_tensors
        need_x, need_weight, need_bias, need_scale = ctx.needs_input_grad[:4]
        grad_x = grad_weight = grad_bias = grad_scale = None
        grad = grad.reshape(rows.shape[0], codes.shape[0])
        compute = ctx.compute
        with torch.autocast(grad.device.type, enabled=False):
            if need_x:
                dequantized = (codes * step[..., None]).flatten(1).to(compute)
                grad_x = (grad.to(compute) @ dequantized).view(ctx.input_shape).to(ctx.input_type)
            if need_weight or need_scale:
                inputs = rows if row_scale is None else rows * row_scale[:, None]
                grad_weight = grad.to(compute).t() @ inputs.to(compute)
            if need_bias:
                grad_bias = grad.sum(0, dtype=torch.float32).to(ctx.bias_type)
            if weight is not None and grad_weight is not None:
                grad_weight, grad_scale = _through_steps(
                    grad_weight, weight, codes, step, ctx.steps == 1, ctx.largest_code
                )
        if need_weight:
            grad_weight = grad_weight.to(ctx.weight_type)
        return grad_x, grad_weight if need_weight else None, grad_bias, grad_scale if need_scale else None, None


def _through_steps(
    grad: Tensor, weight: Tensor, codes: Tensor, step: Tensor, one: bool, largest_code: int
) -> tuple[Tensor, Tensor]:
    """Gradients of the weight and of its steps, from that of the dequantized weight.

    A weight is clipped when its code is more than half a step away from it. Then the dequantized weight moves with the
    step alone; otherwise with the weight, and with the step by the rounding error (LSQ, equation 3, and its gradient
    scale 1 / sqrt(count * largest code)). ``one``: all groups of a channel have one step.
    """
    grad = grad.float().view_as(codes)
    error = codes - weight.float().view_as(codes) / step[..., None]
    inside = error.abs() <= 0.5
    of_steps = (grad * torch.where(inside, error, codes.float())).sum(-1)
    count = codes.shape[-1]
    if one:
        of_steps, count = of_steps.sum(-1, keepdim=True), weight.shape[1]
    return (grad * inside).view_as(weight), of_steps / (max(count, 1) * largest_code) ** 0.5
