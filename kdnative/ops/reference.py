"""The linear operators in plain torch, on any device, from the same packed weights: the fallback and the tests' oracle.

For int8 activations the results are those of the kernels bit for bit, up to the activation function: the kernels have
approximations of their own of gelu, silu and tanh.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnative.formats import QuantizedWeight, arithmetic, layouts
from kdnative.formats.gpu.layouts import of_form

__all__ = ["activate", "check_norm", "linear", "linear_plain", "norm_quantize", "quantize_per_token"]

_ACTIVATIONS: dict[int, Callable[[Tensor], Tensor]] = {
    0: lambda y: y,
    1: torch.relu,
    2: F.gelu,
    3: lambda y: F.gelu(y, approximate="tanh"),
    4: F.silu,
    5: torch.tanh,
}
_INPUT_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def quantize_per_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`kdnative.ops.quantize_per_token`."""
    _check_input("quantize_per_token", x)
    codes, scale = arithmetic.quantize_rows(x.reshape(x.shape[:-1].numel(), x.shape[-1]))
    return codes.to(torch.int8).view(x.shape), scale.view(x.shape[:-1])


def norm_quantize(
    x: Tensor, gamma: Tensor, beta: Tensor | None, eps: float, input_scale: Tensor | None = None, rms: int = 0
) -> tuple[Tensor, Tensor]:
    """See :func:`kdnative.ops.norm_quantize`. The norm is computed in float64, and rounded once."""
    check_norm(x, gamma, beta, eps, input_scale)
    rows = x.reshape(x.shape[:-1].numel(), x.shape[-1]).double()
    if not rms:
        rows = rows - rows.mean(-1, keepdim=True)
    rows = rows / (rows.square().mean(-1, keepdim=True) + eps).sqrt() * gamma
    rows = (rows if beta is None else rows + beta).float()
    codes, scale = arithmetic.quantize_rows(rows if input_scale is None else rows * input_scale)
    return codes.to(torch.int8).view(x.shape), scale.view(x.shape[:-1])


def check_norm(x: Tensor, gamma: Tensor, beta: Tensor | None, eps: float, input_scale: Tensor | None) -> None:
    """RuntimeError unless these are arguments of ``norm_quantize``."""
    _check_input("norm_quantize", x)
    k = x.shape[-1]
    called = f"norm_quantize of an input of shape {list(x.shape)}"
    if k == 0:
        raise RuntimeError(f"{called}: there is nothing to normalize; at least one column is needed")
    if not 0 <= eps < math.inf:
        raise RuntimeError(f"{called}: eps is {eps}; it must be 0 or more")
    for name, given in (("gamma", gamma), ("beta", beta), ("input_scale", input_scale)):
        if given is not None and (given.shape != (k,) or given.dtype != torch.float32 or given.device != x.device):
            raise RuntimeError(
                f"{called}: {name} must be float32 of shape [{k}] on {x.device}, not {given.dtype} of shape "
                f"{list(given.shape)} on {given.device}"
            )


def linear(
    name: str,
    bits: int | None,
    activation_bits: int,
    x: Tensor,
    packed: Tensor,
    out_features: int,
    activation: int,
    form: int = 0,
) -> Tensor:
    """The operator ``name``: see :func:`kdnative.ops.linear`.

    Args:
        bits: of the weight, None for any.

    Raises:
        RuntimeError: the packed weight is damaged or another one; the input does not fit it.
    """
    _check_input(name, x)
    if packed.device != x.device:
        raise RuntimeError(f"{name}: the input is on {x.device} and the packed weight on {packed.device}")
    try:
        layout = of_form(form, out_features, x.shape[-1]) if form else layouts.of_packed(packed)
        if form == 0 and isinstance(layout, layouts.Sparse) != (name == "linear_sparse"):
            raise ValueError(f"the packed weight is {type(layout).__name__.lower()}, which another operator takes")
        weight, bias = layout.unpack(packed)
    except (TypeError, ValueError) as error:
        raise RuntimeError(f"{name}: {error}") from error
    if bits is not None and weight.bits != bits:
        raise RuntimeError(f"{name}: the packed weight has {weight.bits} bits, the operator expects {bits}")
    if weight.out_features != out_features:
        raise RuntimeError(f"{name}: out_features is {out_features} but the packed weight has {weight.out_features}")
    if x.shape[-1] != weight.in_features:
        raise RuntimeError(
            f"{name}: the input has shape {list(x.shape)}, but its last dimension must be {weight.in_features} (the "
            f"weight is {list(weight.qweight.shape)})"
        )
    if activation not in _ACTIVATIONS:
        raise RuntimeError(f"{name}: activation code {activation} is unknown; allowed are 0 to {max(_ACTIVATIONS)}")
    return linear_plain(x, weight, bias, activation_bits, activation)


def linear_plain(
    x: Tensor, weight: QuantizedWeight, bias: Tensor | None = None, activation_bits: int = 8, activation: int = 0
) -> Tensor:
    """``activation(x @ W.T + bias)`` with a plain weight ``[N, K]``: ``[..., N]`` in the dtype of ``x``.

    Args:
        x: float32, bfloat16 or float16 ``[..., K]``.
        bias: float ``[N]`` or None.
        activation_bits: 8 quantizes each row to int8; 16 multiplies floats, in float64, rounded once.

    Raises:
        RuntimeError: int8 products over so many inputs that their sums could leave int32; or a code book.
    """
    if weight.codebook is not None:
        raise RuntimeError("no operator reads a code book: multiply by weight.dequantize()")
    rows = x.reshape(x.shape[:-1].numel(), x.shape[-1])
    if weight.input_scale is not None:
        rows = rows.float() * weight.input_scale
    if weight.group_scale is not None:
        weight = weight.decoded()
    y = _integer_product(rows, weight, bias) if activation_bits == 8 else _float_product(rows, weight, bias)
    return activate(y, activation).to(x.dtype).view(*x.shape[:-1], weight.out_features)


def activate(y: Tensor, activation: int) -> Tensor:
    """The activation of a code, see :data:`kdnative.ops.ACTIVATIONS`."""
    return _ACTIVATIONS[activation](y)


def _integer_product(rows: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    n, k = weight.qweight.shape
    codes, scale = arithmetic.quantize_rows(rows)
    if weight.group_size is None:
        if k > arithmetic.MAX_INPUTS:
            raise RuntimeError(arithmetic.TOO_MANY_INPUTS)
        return arithmetic.per_channel_linear(codes, scale, weight.qweight.float(), weight.scale, bias)
    steps = weight.qweight.float().view(n, -1, weight.group_size)
    if weight.zero is not None:
        steps = steps - weight.zero.float()[..., None]
    return arithmetic.grouped_linear(codes, scale, steps, weight.scale, bias)


def _float_product(rows: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Tensor:
    n, k = weight.qweight.shape
    steps = weight.qweight.double().view(n, -1, weight.group_size or k)
    if weight.zero is not None:
        steps = steps - weight.zero.double().view(n, -1, 1)
    values = (steps * weight.scale.double().view(n, -1, 1)).view(n, k)
    y = (rows.double() @ values.t()).float()
    return y if bias is None else y + bias.float()


def _check_input(name: str, x: Tensor) -> None:
    if x.dim() < 1:
        raise RuntimeError(f"{name}: the input must have at least one dimension (got a scalar)")
    if x.dtype not in _INPUT_TYPES:
        raise RuntimeError(f"{name}: the input is {x.dtype}; float32, bfloat16 and float16 are allowed")
