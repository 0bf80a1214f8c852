"""The Triton kernels as a backend: which schemes they compute, in which layouts, and the operators.

Schemes without a kernel here run in plain torch, in the layout of the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdnative.formats.gpu import blocks, sections, w8a8
from kdnative.formats.gpu.form import Form
from kdnative.formats.gpu.layouts import W8A8, TritonBlocks, TritonW4A16
from kdnative.formats.layouts import Layout
from kdnative.formats.scheme import NAMES, Scheme
from kdnative.ops.backends import capability
from kdnative.ops.backends.base import Backend
from kdnative.ops.backends.implementing import implement
from kdnative.ops.backends.reference import IMPLEMENTATIONS as IN_TORCH
from kdnative.ops.backends.triton.blocks import linear_blocks
from kdnative.ops.backends.triton.layer_norm_quantize import MOST_INPUTS, layer_norm_quantize
from kdnative.ops.backends.triton.quantize import quantize_rows
from kdnative.ops.backends.triton.w4a16 import linear_w4a16
from kdnative.ops.backends.triton.w8a8 import linear_w8a8
from kdnative.ops.reference import check_norm

__all__ = ["IMPLEMENTATIONS", "TRITON", "start"]


class _Triton(Backend):
    def has_kernels(self, scheme: Scheme) -> bool:
        return _layout(scheme, 1, scheme.group_size or 1, True) is not None

    def device_refusal(self, device: torch.device) -> str | None:
        return capability.device_refusal(device)

    def layout(self, scheme: Scheme, shape: tuple[int, int] | None = None, bias: bool = True) -> Layout:
        if shape is None:
            raise ValueError("a weight for the Triton kernels has no header: its layout needs the shape of the layer")
        return _layout(scheme, *shape, bias) or super().layout(scheme)

    def pays(self, qweight: Tensor, scheme: Scheme) -> tuple[bool, str] | None:
        if scheme.sparsity != "mask":
            return False, f"{self.name} has no {scheme.sparsity} kernel"
        why = blocks.refusal(qweight)
        return why is None, why or ""

    def operator(self, scheme: Scheme) -> str:
        if scheme.integer_scales:  # its codes times their group scales are int8
            return "linear_w8a8"
        return super().operator(scheme)


def _layout(scheme: Scheme, n: int, k: int, bias: bool) -> Layout | None:
    """How weights of a scheme lie for the kernels; None: there are none for it."""
    widths = scheme.weight_bits, scheme.activation_bits
    if scheme.sparsity == "mask":
        return TritonBlocks(n, k, bias)
    if widths == (8, 8):  # with the zeros of other sparse schemes: results are the same
        return W8A8(n, k, bias, scheme.input_scales)
    if scheme.integer_scales:
        return W8A8(n, k, bias, scheme.input_scales, scheme.group_size or 0)
    if widths == (4, 16) and scheme.group_size is not None:
        return TritonW4A16(n, k, bias, scheme.group_size, not scheme.symmetric, scheme.input_scales)
    return None


TRITON = _Triton("triton", NAMES, fused=False)


def _linear(name: str, x: Tensor, packed: Tensor, out_features: int, activation: int, form: int = 0) -> Tensor:
    """The operator ``name``, for weights in the layouts of this backend; others are for the reference.

    Raises:
        RuntimeError: the input or the packed weight is none that the kernels take.
    """
    if form == 0:
        in_torch: Tensor = IN_TORCH[name](x, packed, out_features, activation)
        return in_torch
    if packed.device != x.device:
        raise RuntimeError(f"{name}: the input is on {x.device} and the packed weight on {packed.device}")
    if x.dim() < 1:
        raise RuntimeError(f"{name}: the input must have at least one dimension (got a scalar)")
    try:
        parsed = Form.parse(form)
        family = _FAMILIES.get(parsed.family)
        if family is None:
            raise ValueError(f"the packed weight is laid out for the CUDA kernels: {parsed}")
        return family(parsed, x, packed, out_features, activation)
    except (TypeError, ValueError) as error:
        raise RuntimeError(f"{name}: {error} (input {list(x.shape)}, {out_features} outputs)") from error


def _w8a8(form: Form, x: Tensor, packed: Tensor, n: int, activation: int) -> Tensor:
    k = x.shape[-1]
    sizes = w8a8.sizes(n, k, form.bias, form.input_scales, form.group)
    sections.check_size(packed, sections.total(sizes), f"an int8 weight [{n}, {k}] of this form")
    codes, scale, bias, inputs = (part.view(torch.float32) for part in sections.split(packed, sizes)[:4])
    return linear_w8a8(
        x,
        codes.view(torch.int8).view(n, -1),
        scale,
        bias if form.bias else None,
        inputs if form.input_scales else None,
        activation,
    )


def _w4a16(form: Form, x: Tensor, packed: Tensor, n: int, activation: int) -> Tensor:
    parts = TritonW4A16(n, x.shape[-1], form.bias, form.group, form.zeros, form.input_scales).parts(packed)
    return linear_w4a16(x, parts.codes, parts.scale, parts.zero, parts.bias, parts.input_scale, activation)


def _blocks(form: Form, x: Tensor, packed: Tensor, n: int, activation: int) -> Tensor:
    parts = TritonBlocks(n, x.shape[-1], form.bias, form.block).parts(packed)
    return linear_blocks(x, parts.starts, parts.places, parts.values, n, parts.scale, parts.bias, activation=activation)


def _quantize_per_token(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.dim() < 1 or x.shape[-1] == 0:
        codes, scale = IN_TORCH["quantize_per_token"](x)
        return codes, scale
    codes, scale = quantize_rows(x, multiple=1)
    return codes.view(x.shape), scale.view(x.shape[:-1])


def _norm_quantize(
    x: Tensor, gamma: Tensor, beta: Tensor | None, eps: float, input_scale: Tensor | None = None, rms: int = 0
) -> tuple[Tensor, Tensor]:
    check_norm(x, gamma, beta, eps, input_scale)
    if x.shape[-1] > MOST_INPUTS:
        codes, scale = IN_TORCH["norm_quantize"](x, gamma, beta, eps, input_scale, rms)
        return codes, scale
    try:
        rows = x.reshape(x.shape[:-1].numel(), x.shape[-1])
        codes, scale, _ = layer_norm_quantize(rows, gamma, beta, eps, None, input_scale, not rms, multiple=1)
    except (TypeError, ValueError) as error:
        raise RuntimeError(f"norm_quantize of an input of shape {list(x.shape)}: {error}") from error
    return codes.view(x.shape), scale.view(x.shape[:-1])


_FAMILIES: dict[str, Callable[[Form, Tensor, Tensor, int, int], Tensor]] = {
    "w8a8": _w8a8,
    "triton_w4a16": _w4a16,
    "triton_blocks": _blocks,
}

IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    "quantize_per_token": _quantize_per_token,
    "norm_quantize": _norm_quantize,
    **{name: partial(_linear, name) for name in ("linear_w8a8", "linear_w4a16", "linear_sparse")},
}
"""By the names of operators; the reference keeps the others."""


def start(device_type: str = "cuda") -> Backend:
    """Let the kernels compute the operators of a type of device."""
    implement(device_type, IMPLEMENTATIONS)
    return TRITON
