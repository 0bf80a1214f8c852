"""A linear layer for quantization-aware training: its forward gives the bits that the integer kernel will give.

Gradients pass through the rounding as if it were not there (straight-through estimator, Bengio et al. 2013); weights
outside a clipped range get no gradient, and a learned range gets the gradient of LSQ (Esser et al. 2020).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kdnative.formats import arithmetic
from kdnative.formats.scheme import NAMES, Scheme, refusal_of
from kdnative.formats.weight import QuantizedWeight, checked_input_scale, code_range
from kdnative.quantize import rtn
from kdnative.quantize.native import native_linear
from kdnative.quantize.two_level import quantize_two_level

__all__ = ["FakeQuantLinear"]

_W8A8 = Scheme.parse("w8a8")
_CLIP_MODES = (None, "search", "learn")
_INPUT_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_SMALLEST_CLIP = 0.05  # keeps a learned factor away from 0, where the scale would vanish


class FakeQuantLinear(nn.Linear):
    """``nn.Linear`` whose forward equals the native integer layer of a scheme bit for bit.

    The weight is quantized anew in every forward, activations dynamically per token. Schemes with float activations
    (``a16``) are computed in fp32 with the quantized weight instead; the native layer adds in another order, so the two
    differ by the rounding of fp32 sums. ``weight`` and ``bias`` stay float parameters under their usual names, so
    optimizers and checkpoints of the float model fit.

    Args:
        in_features, out_features, bias, device, dtype: as for `nn.Linear`.
        scheme: a `Scheme` or its text, such as "w8a8" or "w4a8-g64".
        clip: how the range of a channel or group is chosen. None: it covers every weight. "search": a shrink factor per
            channel or group found by `search_clip`; the factors stay as they are until `refresh_clip()`. "learn": they
            start there and are trained with the weights. Both keep them under the name ``clip_factor``, fp32 [N, G].
            Schemes with integer scales (``-int``) can't learn them, and give clipped weights their gradient too.
        input_scale: fp32 [K], finite and positive, what inputs are multiplied by before they are quantized; the codes
            are those of ``weight / input_scale`` then, so that ``weight`` stays the weight of the plain layer. It is
            kept as a buffer and not trained; the scheme becomes its ``-is`` form. None for a scheme ``-is``: 1, until
            a state dict brings others.

    Input [..., K] in fp32, bf16 or fp16 -> [..., N], in the dtype of the input or, under autocast, in autocast's. The
    forward is exact in both cases; the matrix products of the backward run in autocast's dtype.

    Raises:
        ValueError: a shape that a converted layer of the scheme can't have, such as a group size that does not divide
            `in_features`; an unknown `clip`; other input scales.
        TypeError: an input of another dtype.
    """

    clip_factor: Tensor | None
    input_scale: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        scheme: Scheme | str = "w8a8",
        clip: str | None = None,
        input_scale: Tensor | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self._configure(Scheme.parse(scheme), clip, input_scale)

    @classmethod
    def from_float(
        cls, linear: nn.Linear, scheme: Scheme | str, clip: str | None = None, input_scale: Tensor | None = None
    ) -> FakeQuantLinear:
        """A layer that shares the very parameters of `linear` (an optimizer that holds them goes on working)."""
        plain = Scheme.parse(scheme) if input_scale is None else Scheme.parse(scheme).with_input_scales(False)
        layer = cls(linear.in_features, linear.out_features, False, scheme=plain, device="meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        layer._configure(plain, clip, input_scale)
        return layer.train(linear.training)

    def become(self, linear: nn.Linear) -> None:
        """Gives `linear` the class and the settings of this layer; its parameters, buffers and hooks stay its own."""
        linear.__class__ = FakeQuantLinear
        linear._configure(self.scheme, None, self.input_scale)
        linear.clip, linear.clip_factor = self.clip, self.clip_factor

    @torch.no_grad()
    def plain(self) -> nn.Linear:
        """An `nn.Linear` with the values of the integer weight, and this layer's bias."""
        linear = nn.Linear(self.in_features, self.out_features, False, device="meta", dtype=self.weight.dtype)
        weight = self.quantized().dequantize().to(self.weight.dtype)
        linear.weight, linear.bias = nn.Parameter(weight, self.weight.requires_grad), self.bias
        return linear.train(self.training)

    def become_float(self) -> None:
        """Turns this object into an `nn.Linear`; the weight stays as it is."""
        del self.clip_factor, self.input_scale, self.clip, self.scheme
        self.__class__ = nn.Linear

    def _configure(self, scheme: Scheme, clip: str | None, input_scale: Tensor | None = None) -> None:
        if input_scale is not None:
            scheme = scheme.with_input_scales()
            input_scale = checked_input_scale(input_scale.detach(), self.in_features).to(self.weight.device)
        if refusal := _refusal(scheme, (self.out_features, self.in_features)):
            raise ValueError(refusal)
        if scheme.input_scales and input_scale is None:
            input_scale = torch.ones(self.in_features, dtype=torch.float32, device=self.weight.device)
        if clip not in _CLIP_MODES:
            raise ValueError(f"clip={clip!r}; allowed are None, 'search' and 'learn'")
        if clip == "learn" and scheme.integer_scales:
            raise ValueError(f"clip='learn' has no gradient for the integer scales of {scheme}; use None or 'search'")
        self.scheme, self.clip = scheme, clip
        self.register_buffer("input_scale", input_scale)
        self.register_buffer("clip_factor", None if clip is None else self.searched_clip())
        if clip == "learn":
            self.clip_factor = nn.Parameter(self.clip_factor)

    def searched_clip(self) -> Tensor:
        if self.weight.is_meta:
            groups = self.scheme.groups(self.in_features)
            return torch.ones(self.out_features, groups, dtype=torch.float32, device="meta")
        return rtn.search_clip(self._divided(), self.scheme)

    def _divided(self) -> Tensor:
        """What the codes are of: the weight, or with input scales its quotient by them, fp32."""
        return self.weight if self.input_scale is None else self.weight.float() / self.input_scale

    @torch.no_grad()
    def refresh_clip(self) -> None:
        """Searches the shrink factors again for the current weight; nothing to do when ``clip`` is None."""
        if self.clip_factor is not None:
            self.clip_factor.copy_(self.searched_clip())

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype not in _INPUT_TYPES:
            raise TypeError(f"FakeQuantLinear got an input of {x.dtype}; float32, bfloat16 and float16 are allowed")
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(
                f"FakeQuantLinear got an input of shape {list(x.shape)}; it needs [..., {self.in_features}]"
            )
        kind = x.device.type
        compute = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        with torch.autocast(kind, enabled=False):
            x = x if self.input_scale is None else x.float() * self.input_scale  # rounded once, as in the kernels
            return _Linear.apply(x, self._divided(), self.bias, self.clip_factor, self.scheme, compute)

    @torch.no_grad()
    def quantized(self) -> QuantizedWeight:
        """The integer weight that the forward uses now, for `convert_` and for checkpoints."""
        clip = None if self.clip_factor is None else _usable(self.clip_factor)
        weight = rtn.quantize_weight(self._divided(), self.scheme, clip=clip)
        if self.input_scale is None:
            return weight
        return weight.changed(input_scale=checked_input_scale(self.input_scale, self.in_features).clone())

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ) -> None:
        missing: list[str] = []
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs)
        factor = prefix + "clip_factor"
        # A checkpoint of the float model has no factors: they are searched for the weight that it brings.
        if self.clip_factor is not None and factor not in state_dict and prefix + "weight" in state_dict:
            self.refresh_clip()
            missing = [key for key in missing if key != factor]
        if prefix + "weight" in state_dict:  # nor has it input scales: those of this layer stay
            missing = [key for key in missing if key != prefix + "input_scale"]
        missing_keys += missing

    def extra_repr(self) -> str:
        clip = "" if self.clip is None else f", clip={self.clip}"
        return f"{super().extra_repr()}, scheme={self.scheme}{clip}"


def _refusal(scheme: Scheme, shape: tuple[int, int]) -> str | None:
    """Why a layer ``(N, K)`` trained for a scheme could not be converted: it is better said before the training."""
    if scheme.activation.group_size is not None or scheme.activation.kind == "static":
        return refusal_of(str(scheme), NAMES)
    try:
        from kdnative.ops.backends import backend_for
    except ImportError:  # no native library here; the conversion will be elsewhere
        scheme.groups(shape[1])  # raises when the groups do not divide
        return arithmetic.overflow(scheme, shape[1])
    return backend_for("cpu").refusal(scheme, shape)


def _usable(clip: Tensor) -> Tensor:
    return clip.detach().float().clamp(_SMALLEST_CLIP, 1.0)


class _Linear(torch.autograd.Function):
    """See `FakeQuantLinear`. Codes are kept for the backward, not floats: a quarter of the memory."""

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, clip: Tensor | None, scheme: Scheme, compute: torch.dtype
    ) -> Tensor:
        groups = rtn.grouped(weight.float(), scheme.group_size)
        usable = None if clip is None else _usable(clip)
        if scheme.integer_scales:  # 8-bit weights, bit for bit, that happen to be stored in fewer
            two = quantize_two_level(groups, usable)
            scheme, clip = _W8A8, None
            codes, used = two.decoded()[:, None], rtn.Range(two.scale[:, None], None)
        else:
            full = rtn.base_range(groups, scheme.weight_bits, scheme.symmetric)
            used = rtn.apply_clip(full, scheme.weight_bits, usable)
            codes = rtn.round_codes(groups, used, scheme.weight_bits)
        rows = x.reshape(x.shape[:-1].numel(), x.shape[-1])
        if scheme.activation_bits == 8:
            rows, row_scale = arithmetic.quantize_rows(rows)
            y = native_linear(x, codes, used.scale, used.zero, scheme, bias)
        if used.zero is not None:
            codes -= used.zero[..., None]
        if scheme.activation_bits != 8:
            row_scale = None
            dequantized = (codes * used.scale[..., None]).view(weight.shape)
            y = torch.nn.functional.linear(rows.float(), dequantized, None if bias is None else bias.float())
        elif y is None and scheme.group_size is None:
            y = arithmetic.per_channel_linear(rows, row_scale, codes.view(weight.shape), used.scale[:, 0], bias)
        elif y is None:
            y = arithmetic.grouped_linear(rows, row_scale, codes, used.scale, bias)
        ctx.compute, ctx.input_shape, ctx.input_type = compute, x.shape, x.dtype
        ctx.weight_type = weight.dtype
        ctx.bias_type = None if bias is None else bias.dtype
        ctx.largest_code = code_range(scheme.weight_bits)[1]
        clipped = (None, None) if clip is None else (weight, full.scale)
        if row_scale is not None:
            rows = rows.to(torch.int8)
        ctx.save_for_backward(rows, row_scale, codes.to(torch.int8), used.scale, *clipped)
        return y.view(*x.shape[:-1], weight.shape[0]).to(compute)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        rows, row_scale, codes, scale, weight, full_scale = ctx.saved_tensors
        need_x, need_weight, need_bias, need_clip = ctx.needs_input_grad[:4]
        grad_x = grad_weight = grad_bias = grad_clip = None
        grad = grad.reshape(rows.shape[0], codes.shape[0])
        compute = ctx.compute
        with torch.autocast(grad.device.type, enabled=False):
            if need_x:
                dequantized = (codes * scale[..., None]).flatten(1).to(compute)
                grad_x = (grad.to(compute) @ dequantized).view(ctx.input_shape).to(ctx.input_type)
            if need_weight or need_clip:
                inputs = rows if row_scale is None else rows * row_scale[:, None]
                grad_weight = grad.to(compute).t() @ inputs.to(compute)
            if need_bias:
                grad_bias = grad.sum(0, dtype=torch.float32).to(ctx.bias_type)
            if weight is not None and grad_weight is not None:
                grad_weight, grad_clip = _through_clip(grad_weight, weight, codes, scale, full_scale, ctx.largest_code)
        if need_weight:
            grad_weight = grad_weight.to(ctx.weight_type)
        return grad_x, grad_weight if need_weight else None, grad_bias, grad_clip if need_clip else None, None, None


def _through_clip(
    grad: Tensor, weight: Tensor, codes: Tensor, scale: Tensor, full_scale: Tensor, largest_code: int
) -> tuple[Tensor, Tensor]:
    """Gradients of the weight and of its shrink factors, from that of the dequantized weight.

    A weight is clipped when its code is more than half a step away from it. Then the dequantized weight moves with the
    scale alone; otherwise with the weight, and with the scale by the rounding error (LSQ, equation 3, and its gradient
    scale 1 / sqrt(count * largest code)).
    """
    grad = grad.float().view_as(codes)
    error = codes - weight.float().view_as(codes) / scale[..., None]
    inside = error.abs() <= 0.5
    per_scale = (grad * torch.where(inside, error, codes.float())).sum(-1)
    grad_clip = per_scale * full_scale / (codes.shape[-1] * largest_code) ** 0.5
    return (grad * inside).view_as(weight), grad_clip
