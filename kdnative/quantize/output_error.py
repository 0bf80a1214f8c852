"""What quantization does to the output of one linear layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdnative.formats import arithmetic
from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight

__all__ = ["output_error"]


@torch.no_grad()
def output_error(weight: Tensor, quantized: QuantizedWeight, scheme: Scheme, inputs: Tensor) -> float | None:
    """``|y' - y|^2 / |y|^2`` over some inputs, y' with the activations rounded as the scheme does.

    Args:
        weight: [N, K], the float one.
        quantized: of the same shape, perhaps with input scales, by which inputs are multiplied before they are rounded.
        scheme: says whether activations are int8 or stay as they are.
        inputs: fp32 [M, K].

    Returns:
        0 where both outputs are the same, such as those of no inputs. None where y alone is 0, or float32 can't hold
        the outputs.
    """
    quantized = quantized.to("cpu")
    exact = inputs @ weight.float().cpu().t()
    if quantized.input_scale is not None:
        inputs = inputs * quantized.input_scale
        quantized = quantized.changed(input_scale=None)
    if scheme.activation_bits == 8:
        codes, scale = arithmetic.quantize_rows(inputs)
        inputs = codes * scale[:, None]
    difference = (inputs @ quantized.dequantize().t() - exact).double().square().sum()
    size = exact.double().square().sum()
    error = float(difference / size) if bool(difference) else 0.0
    return error if math.isfinite(error) else None
