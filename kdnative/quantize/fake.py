"""A linear layer for quantization-aware training: its forward gives the bits that the integer kernel will give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdnative.formats import arithmetic
from kdnative.formats.fitting import mismatch
from kdnative.formats.scheme import NAMES, Scheme, refusal_of
from kdnative.formats.weight import QuantizedWeight, checked_input_scale
from kdnative.quantize import rtn
from kdnative.quantize.steps import Rounded, Steps, round_to, searched, steps_of
from kdnative.quantize.straight_through import QuantizedProduct, Settings
from kdnative.quantize.ternary import refusal as ternary_refusal
from kdnative.quantize.ternary import ternary_weight

__all__ = ["FakeQuantLinear"]

_CLIP_MODES = (None, "search", "learn")
_INPUT_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_STEPS = ("scale", "zero", "group_scale")


class FakeQuantLinear(nn.Linear):
    """``nn.Linear`` whose forward equals the native integer layer of a scheme bit for bit.

    The weight is quantized anew in every forward, activations dynamically per token. Schemes with float activations
    (``a16``) are computed in fp32 with the quantized weight instead; the native layer adds in another order, so the two
    differ by the rounding of fp32 sums. ``weight`` and ``bias`` stay float parameters under their usual names, so
    optimizers and checkpoints of the float model fit.

    Args:
        in_features, out_features, bias, device, dtype: as for `nn.Linear`.
        scheme: a `Scheme` or its text, such as "w8a8" or "w4a8-g64".
        clip: how the step of a channel or group is chosen. None: its range covers the largest weight, in every forward.
            "search": `search_clip` finds it once, or `start_from_` brings it; it stays as it is until `refresh_clip()`.
            "learn": it starts there, and is a parameter that is trained with the weights (LSQ, Esser et al. 2020; its
            gradient is divided by sqrt(weights of a step * largest code)). Both keep it under the name ``scale``, fp32
            [N, G], beside ``zero`` int8 [N, G] and ``group_scale`` uint8 [N, G] where the scheme has them, which are
            not learned. Schemes with integer scales (``-int``) can't learn steps, and give clipped weights their
            gradient too.
        ternary: codes -1, 0 and 1 alone, of a scheme of 2 bits: "channel" (one step for all groups of an output, scale
            [N, 1]) or "group". The steps start from those of `ternary_weight`, and clip None means "search". A weight
            is 0 within half a step, which is 0.59 standard deviations of normal weights where that rule has 0.56.
        input_scale: fp32 [K], finite and positive, what inputs are multiplied by before they are quantized; the codes
            are those of ``weight / input_scale`` then, so that ``weight`` stays the weight of the plain layer. It is
            kept as a buffer and not trained; the scheme becomes its ``-is`` form. None for a scheme ``-is``: 1, until
            a state dict brings others.

    Input [..., K] in fp32, bf16 or fp16 -> [..., N], in the dtype of the input or, under autocast, in autocast's. The
    forward is exact in both cases; the matrix products of the backward run in autocast's dtype.

    Raises:
        ValueError: a shape that a converted layer of the scheme can't have, such as a group size that does not divide
            `in_features`; an unknown `clip` or `ternary`; other input scales.
        TypeError: an input of another dtype.
    """

    scale: Tensor | None
    zero: Tensor | None
    group_scale: Tensor | None
    input_scale: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        scheme: Scheme | str = "w8a8",
        clip: str | None = None,
        ternary: str | None = None,
        input_scale: Tensor | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self._configure(Scheme.parse(scheme), clip, ternary, input_scale)

    @classmethod
    def from_float(
        cls,
        linear: nn.Linear,
        scheme: Scheme | str,
        clip: str | None = None,
        *,
        ternary: str | None = None,
        input_scale: Tensor | None = None,
        weight: QuantizedWeight | None = None,
    ) -> FakeQuantLinear:
        """A layer that shares the very parameters of `linear` (an optimizer that holds them goes on working).

        Args:
            linear, scheme, clip, ternary, input_scale: see `FakeQuantLinear`.
            weight: an integer weight whose steps and input scales it takes, instead of a search; `start_from_` gives it
                the codes too.
        """
        plain = Scheme.parse(scheme).with_input_scales(False)
        layer = cls(linear.in_features, linear.out_features, False, scheme=plain, device="meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        if isinstance(weight, QuantizedWeight):  # what else it is will be refused
            input_scale = weight.input_scale
        layer._configure(plain if input_scale is not None else Scheme.parse(scheme), clip, ternary, input_scale, weight)
        return layer.train(linear.training)

    def become(self, linear: nn.Linear) -> None:
        """Gives `linear` the class and the settings of this layer; its parameters, buffers and hooks stay its own."""
        linear.__class__ = FakeQuantLinear
        linear.scheme, linear.clip, linear.ternary = self.scheme, self.clip, self.ternary
        for name in (*_STEPS, "input_scale"):
            linear._put(name, getattr(self, name))

    @torch.no_grad()
    def start_from_(self, weight: QuantizedWeight) -> None:
        """Takes an integer weight over: the next forward computes with its very codes and scales.

        The float weight becomes the dequantized one, in the middle of the cells of its codes. What it was before would
        say how near the next code is; but many weights of 2 bits have other codes than the nearest, and go back to
        these in the first steps if they begin near the edge of a cell. A classifier that began so ended further from
        the float model.

        Args:
            weight: [N, K], of the layer's scheme; of a ternary layer with codes -1, 0 and 1, and steps as it has them.

        Raises:
            ValueError: it does not fit, or the layer has clip None, which derives its steps from the float weight.
        """
        if why := self._misfit(weight):
            raise ValueError(why)
        weight = weight.to(self.weight.device)
        self._take(steps_of(weight))
        if weight.input_scale is not None:
            self._put("input_scale", weight.input_scale.clone())
        self.weight.copy_(weight.dequantize())

    def _misfit(self, weight: QuantizedWeight) -> str | None:
        """Why the layer can't start from an integer weight, in words; None where it can."""
        if self.clip is None:
            return "clip=None derives the steps from the largest weights: use clip='search' or 'learn'"
        if why := mismatch(weight, self.weight.shape, self.scheme):
            return f"the integer weight does not fit: {why}"
        if self.ternary is None or weight.qweight.numel() == 0:
            return None
        if int(weight.qweight.min()) < -1:
            return "the integer weight has codes of -2, and the layer is ternary"
        if self.ternary == "channel" and bool((weight.scale != weight.scale[:, :1]).any()):
            return "the integer weight has a step for each group, and ternary='channel' one for an output"
        return None

    @torch.no_grad()
    def plain(self) -> nn.Linear:
        """An `nn.Linear` with the values of the integer weight, and this layer's bias."""
        linear = nn.Linear(self.in_features, self.out_features, False, device="meta", dtype=self.weight.dtype)
        weight = self.quantized().dequantize().to(self.weight.dtype)
        linear.weight, linear.bias = nn.Parameter(weight, self.weight.requires_grad), self.bias
        return linear.train(self.training)

    def become_float(self) -> None:
        """Turns this object into an `nn.Linear`; the weight stays as it is."""
        for name in (*_STEPS, "input_scale", "clip", "ternary", "scheme"):
            delattr(self, name)
        self.__class__ = nn.Linear

    def _configure(
        self,
        scheme: Scheme,
        clip: str | None,
        ternary: str | None,
        input_scale: Tensor | None = None,
        weight: QuantizedWeight | None = None,
    ) -> None:
        device = self.weight.device
        if input_scale is not None:
            scheme = scheme.with_input_scales()
            input_scale = checked_input_scale(input_scale.detach(), self.in_features).to(device).clone()
        if refusal := _refusal(scheme, (self.out_features, self.in_features)):
            raise ValueError(refusal)
        if scheme.input_scales and input_scale is None:
            input_scale = torch.ones(self.in_features, dtype=torch.float32, device=device)
        if clip not in _CLIP_MODES:
            raise ValueError(f"clip={clip!r}; allowed are None, 'search' and 'learn'")
        if clip == "learn" and scheme.integer_scales:
            raise ValueError(f"clip='learn' has no gradient for the integer scales of {scheme}; use None or 'search'")
        if ternary is not None and (why := ternary_refusal(scheme, ternary)):
            raise ValueError(why)
        self.scheme, self.ternary = scheme, ternary
        self.clip = "search" if ternary is not None and clip is None else clip
        for name in _STEPS:
            self._put(name, None)
        self._put("input_scale", input_scale)
        if weight is None:
            self.refresh_clip()
        elif why := self._misfit(weight):
            raise ValueError(why)
        else:
            self._take(steps_of(weight))

    @torch.no_grad()
    def refresh_clip(self) -> None:
        """Finds the steps again for the current weight; nothing to do when ``clip`` is None."""
        if self.clip is not None:
            self._take(self.found())

    def found(self) -> Steps:
        """The steps that a search, or the rule of ternary weights, finds for the current weight."""
        weight = self._divided()
        if self.ternary is not None and not weight.is_meta:
            return steps_of(ternary_weight(weight, self.scheme, self.ternary))
        return searched(weight, self.scheme)

    def _take(self, steps: Steps) -> None:
        """Keeps steps as ``clip`` and ``ternary`` say."""
        if steps.zero is None and not self.scheme.symmetric:  # points of 0 go without saying
            steps = steps._replace(zero=torch.zeros_like(steps.scale, dtype=torch.int8))
        for name, value in self.kept(steps).items():
            self._put(name, value)

    def kept(self, steps: Steps) -> dict[str, Tensor | None]:
        """The parameter or buffers in which the layer keeps steps, by their names."""
        scale = steps.scale[:, :1].clone() if self.ternary == "channel" else steps.scale
        return {**steps._asdict(), "scale": nn.Parameter(scale) if self.clip == "learn" else scale}

    def _put(self, name: str, value: Tensor | None) -> None:
        """Sets a parameter or buffer, in place where an optimizer may hold it."""
        before = getattr(self, name, None)
        if before is not None and value is not None and before.shape == value.shape and not before.is_meta:
            with torch.no_grad():
                before.copy_(value)
            return
        if name in self._parameters or name in self._buffers:
            delattr(self, name)
        if isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
        else:
            self.register_buffer(name, value)

    @property
    def _steps(self) -> Steps | None:
        return None if self.scale is None else Steps(self.scale, self.zero, self.group_scale)

    @property
    def _largest(self) -> int | None:
        return None if self.ternary is None else 1

    def _divided(self) -> Tensor:
        """What the codes are of: the weight, or with input scales its quotient by them, fp32."""
        return self.weight if self.input_scale is None else self.weight.float() / self.input_scale

    def _rounded(self) -> Rounded:
        return round_to(self._divided().detach().float(), self.scheme, self._steps, self._largest)

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
            settings = Settings(self.zero, self.group_scale, self.scheme, self._largest, compute)
            return QuantizedProduct.apply(x, self._divided(), self.bias, self.scale, settings)

    @torch.no_grad()
    def quantized(self) -> QuantizedWeight:
        """The integer weight that the forward uses now, for `convert_` and for checkpoints.

        Raises:
            ValueError: NaN or infinite values in the weight or its steps; input scales that are not positive.
        """
        for name in ("weight", "scale"):
            values = getattr(self, name)
            if values is not None and not bool(torch.isfinite(values.sum())):  # the first look is cheap
                rtn.checked_matrix(values, name)
        if self.input_scale is not None:
            checked_input_scale(self.input_scale, self.in_features)
        return self._rounded().weight(self.scheme, self.input_scale)

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ) -> None:
        missing: list[str] = []
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs)
        # A checkpoint of the float model has no steps: they are searched for the weight that it brings.
        if self.scale is not None and prefix + "scale" not in state_dict and prefix + "weight" in state_dict:
            self.refresh_clip()
            missing = [key for key in missing if key.removeprefix(prefix) not in _STEPS]
        if prefix + "weight" in state_dict:  # nor has it input scales: those of this layer stay
            missing = [key for key in missing if key != prefix + "input_scale"]
        missing_keys += missing

    def extra_repr(self) -> str:
        clip = "" if self.clip is None else f", clip={self.clip}"
        ternary = "" if self.ternary is None else f", ternary={self.ternary}"
        return f"{super().extra_repr()}, scheme={self.scheme}{clip}{ternary}"


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
