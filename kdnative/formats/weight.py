"""The plain form of a quantized weight: what algorithms produce, checkpoints store and `convert_` packs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kdnative.formats.scheme import WeightFormat

MOST_GROUP_SCALE = 17
"""Largest integer group scale: 15 * 17 = 255, so that a 4-bit code times its group scale stays within a byte."""

__all__ = ["MOST_GROUP_SCALE", "QuantizedWeight", "checked_input_scale", "code_range", "pack_bits", "unpack_bits"]


def code_range(bits: int) -> tuple[int, int]:
    """Smallest and largest code of a signed `bits`-wide weight.

    8 bits use [-127, 127], so that a code and its negation are both valid and products with activations stay
    symmetric; 4 and 2 bits use all of [-2^(bits-1), 2^(bits-1) - 1].
    """
    if bits not in (2, 4, 8):
        raise ValueError(f"bits={bits!r} is not supported: weights have 2, 4 or 8 bits")
    return (-127, 127) if bits == 8 else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """An integer weight and its scales: ``w = (qweight - zero) * scale``.

    With two levels of scales ``w = (qweight - zero) * group_scale * scale``: `scale` is one per output channel, and
    ``(qweight - zero) * group_scale`` is within [-127, 127]. With a code book ``w = codebook[index] * scale``, where
    ``index = qweight + 2^(bits - 1)``. Of input scales ``w`` is a multiple too, ``w = ... * input_scale``: the layer
    multiplies its input by them, quantizes that, and multiplies it by the rest of ``w``.

    Groups run along the inputs of an output, flattened: those of a convolution are ``in_channels * height * width``.

    Args:
        qweight: int8 [N, ...], N outputs and K inputs in one or several dimensions (a matrix [N, K]; a convolution
            [N, in_channels / groups, height, width]), codes within `code_range(bits)`.
        scale: fp32, [N] without groups and with two levels, else [N, K / group_size]; finite and positive.
        zero: int8, [N] or [N, K / group_size], codes within `code_range(bits)`; None means symmetric (all zeros).
        bits: 2, 4 or 8.
        group_size: how many consecutive inputs share a scale; must divide K. None: one scale per output.
        group_scale: uint8 [N, K / group_size] within [1, 17], for two levels of scales (4 bits, with zero points); None
            otherwise.
        codebook: fp32 [2^bits], finite, the values of all codes from the lowest up, without zero points; None: a code
            is its own value.
        input_scale: fp32 [K], finite and positive, what the layer multiplies its input by; None: nothing.

    Raises:
        TypeError: a tensor has another dtype.
        ValueError: shapes do not fit together, or a value is outside its range.
    """

    qweight: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor | None
    bits: int
    group_size: int | None
    group_scale: torch.Tensor | None = None
    codebook: torch.Tensor | None = None
    input_scale: torch.Tensor | None = None

    def __post_init__(self) -> None:
        low, high = code_range(self.bits)
        _expect("qweight", self.qweight, torch.int8)
        _expect("scale", self.scale, torch.float32)
        if self.qweight.dim() < 2:
            raise ValueError(
                "qweight must have at least two dimensions, outputs and inputs; its shape is "
                f"{list(self.qweight.shape)}"
            )
        n, k = self.out_features, self.in_features
        shape = [n] if self.group_size is None else [n, groups_of(k, self.group_size)]
        scales = shape if self.group_scale is None else [n]
        if list(self.scale.shape) != scales:
            raise ValueError(
                f"scale has shape {list(self.scale.shape)}; qweight {list(self.qweight.shape)} with "
                f"group_size={self.group_size}{'' if self.group_scale is None else ' and group_scale'} needs {scales}"
            )
        if self.zero is not None:
            _expect("zero", self.zero, torch.int8)
            if list(self.zero.shape) != shape:
                raise ValueError(f"zero has shape {list(self.zero.shape)}; it must be {shape}")
            _expect_codes("zero", self.zero, self.bits, low, high)
        _expect_codes("qweight", self.qweight, self.bits, low, high)
        if not _all_positive(self.scale):
            raise ValueError(
                "scale holds zero, negative, infinite or NaN values; use 1.0 for groups that are all zeros"
            )
        if self.group_scale is not None:
            self._check_group_scale(self.group_scale, shape)
        if self.codebook is not None:
            self._check_codebook(self.codebook)
        if self.input_scale is not None:
            checked_input_scale(self.input_scale, k)

    @classmethod
    def unchecked(
        cls,
        qweight: torch.Tensor,
        scale: torch.Tensor,
        zero: torch.Tensor | None,
        bits: int,
        group_size: int | None,
        group_scale: torch.Tensor | None = None,
        codebook: torch.Tensor | None = None,
        input_scale: torch.Tensor | None = None,
    ) -> QuantizedWeight:
        """The same without its checks, for codes that were just computed: a training step packs its weights."""
        weight = object.__new__(cls)
        fields = (qweight, scale, zero, bits, group_size, group_scale, codebook, input_scale)
        for field, value in zip(dataclasses.fields(cls), fields, strict=True):
            object.__setattr__(weight, field.name, value)
        return weight

    @classmethod
    def joined(cls, weights: Sequence[QuantizedWeight]) -> QuantizedWeight:
        """One weight whose outputs are those of all ``weights`` one after the other; not checked again.

        Raises:
            ValueError: they differ in bits, group size, number of scale levels or input scales, as they are multiplied
                by the same quantized inputs; or have code books, which belong to one weight.
        """
        if any(w.codebook is not None for w in weights):
            raise ValueError("weights with code books can't be joined")
        inputs = weights[0].input_scale
        for other in (w.input_scale for w in weights[1:]):
            same = inputs is other or (inputs is not None and other is not None and torch.equal(inputs, other))
            if not same:
                raise ValueError("weights that are joined must have the same input scales, as they read the same input")
        if len({(w.bits, w.group_size, w.group_scale is None) for w in weights}) != 1:
            raise ValueError("weights that are joined must have the same bits, group size and levels of scales")
        zero = group_scale = None
        if any(w.zero is not None for w in weights):
            zeros = [w.zero if w.zero is not None else torch.zeros_like(w.scale, dtype=torch.int8) for w in weights]
            zero = torch.cat(zeros)
        if weights[0].group_scale is not None:
            group_scale = torch.cat([w.group_scale for w in weights if w.group_scale is not None])
        codes, scale = (torch.cat([getattr(w, name) for w in weights]) for name in ("qweight", "scale"))
        return cls.unchecked(codes, scale, zero, weights[0].bits, weights[0].group_size, group_scale, None, inputs)

    def _check_group_scale(self, group_scale: torch.Tensor, shape: list[int]) -> None:
        _expect("group_scale", group_scale, torch.uint8)
        if self.bits != 4 or self.zero is None:
            raise ValueError("group_scale goes with 4-bit weights that have zero points, and with no others")
        if list(group_scale.shape) != shape:
            raise ValueError(f"group_scale has shape {list(group_scale.shape)}; it must be {shape}")
        if group_scale.numel() == 0:
            return
        smallest, largest = (int(v) for v in group_scale.aminmax())
        if smallest < 1 or largest > MOST_GROUP_SCALE:
            raise ValueError(f"group_scale holds {smallest} to {largest}; allowed are 1 to {MOST_GROUP_SCALE}")
        steps = self.qweight.reshape(*shape, -1).to(torch.int16) - self.zero[..., None]
        most = int((steps.abs().amax(-1) * group_scale).max())
        if most > 127:
            raise ValueError(f"(qweight - zero) * group_scale reaches {most}; it must stay within [-127, 127]")

    def _check_codebook(self, codebook: torch.Tensor) -> None:
        _expect("codebook", codebook, torch.float32)
        if list(codebook.shape) != [1 << self.bits]:
            raise ValueError(
                f"codebook has shape {list(codebook.shape)}; {self.bits} bits have [{1 << self.bits}] codes"
            )
        if not bool(torch.isfinite(codebook).all()):
            raise ValueError("codebook holds NaN or infinite values")
        if self.zero is not None or self.group_scale is not None:
            raise ValueError("codebook goes without zero points and integer group scales: it has any values itself")

    @property
    def out_features(self) -> int:
        """N."""
        return self.qweight.shape[0]

    @property
    def in_features(self) -> int:
        """K, of all dimensions behind the first."""
        return math.prod(self.qweight.shape[1:])

    @property
    def format(self) -> WeightFormat:
        """How a scheme calls it; zeros and the code book are none of its business."""
        return WeightFormat(self.bits, self.group_size, self.zero is None, self.group_scale is not None)

    def dequantize(self) -> torch.Tensor:
        """The float weight this stands for, fp32, of the shape of `qweight`: one fp32 multiplication of an integer by
        its scale, one more by the input's."""
        if self.group_scale is not None:
            return self.decoded().dequantize()
        codes = self.qweight.reshape(*self.scale.shape, self.group_size or self.in_features)
        if self.codebook is not None:
            values = self.codebook[codes.long() + (1 << (self.bits - 1))]
        else:
            values = codes.float() if self.zero is None else codes.float() - self.zero.float()[..., None]
        values = (values * self.scale[..., None]).reshape(self.qweight.shape)
        if self.input_scale is not None:
            values = values * self.input_scale.view(self.qweight.shape[1:])
        return values

    def decoded(self) -> QuantizedWeight:
        """Two levels of scales as the 8-bit weights that they stand for, exactly: codes [N, ...] and scale [N]."""
        if self.group_scale is None or self.zero is None or self.group_size is None:
            raise ValueError(
                "only weights with integer group scales are 8-bit weights too; this one has no group_scale"
            )
        steps = self.qweight.reshape(*self.group_scale.shape, self.group_size).to(torch.int16) - self.zero[..., None]
        codes = (steps * self.group_scale[..., None]).to(torch.int8).view(self.qweight.shape)
        return QuantizedWeight.unchecked(codes, self.scale, None, 8, None, input_scale=self.input_scale)

    def bytes(self) -> int:
        """Stored size in bytes: codes at `bits` bits (an output's rounded up to bytes), and what else there is."""
        row = (self.in_features * self.bits + 7) // 8
        others = (self.scale, self.zero, self.group_scale, self.codebook, self.input_scale)
        return self.out_features * row + sum(t.numel() * t.element_size() for t in others if t is not None)

    def to(self, device: torch.device | str) -> QuantizedWeight:
        """The same on another device; not checked again."""
        return self.changed(**{name: v.to(device) for name, v in vars(self).items() if isinstance(v, torch.Tensor)})

    def changed(self, **tensors: Any) -> QuantizedWeight:
        """The same with other tensors, by name; not checked again."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return QuantizedWeight.unchecked(**{**values, **tensors})

    def outputs(self, rows: slice) -> QuantizedWeight:
        """The weight of some outputs; not checked again."""
        names = ("qweight", "scale", "zero", "group_scale")
        return self.changed(**{name: t[rows] for name in names if (t := getattr(self, name)) is not None})


def groups_of(k: int, group_size: int) -> int:
    """How many groups of `group_size` a row of `k` weights has; ValueError when they do not divide."""
    if group_size < 1 or k % group_size:
        raise ValueError(
            f"group_size={group_size} does not divide the {k} input features; choose a divisor of {k}, "
            "or a scheme without groups"
        )
    return k // group_size


def checked_input_scale(input_scale: torch.Tensor, in_features: int) -> torch.Tensor:
    """The same; TypeError unless it is fp32, ValueError unless it is [K], finite and positive."""
    _expect("input_scale", input_scale, torch.float32)
    if list(input_scale.shape) != [in_features]:
        raise ValueError(f"input_scale has shape {list(input_scale.shape)}; one factor per input is [{in_features}]")
    if not input_scale.is_meta and not _all_positive(input_scale):
        raise ValueError("input_scale holds zero, negative, infinite or NaN values")
    return input_scale


def pack_bits(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Packs signed codes densely for storage.

    Args:
        codes: int8 [..., K], within `code_range(bits)`; of a weight with more than two dimensions, its
            ``qweight.flatten(1)``.
        bits: 2, 4 or 8.

    Returns:
        uint8 [..., ceil(K * bits / 8)]. A code q is stored as u = q + 2^(bits-1), unsigned. Code k of a row lies in
        byte ``k // (8 / bits)``, at bit ``(k % (8 / bits)) * bits``: the first code is in the lowest bits. Unused
        bits of a row's last byte are zero.
    """
    low, high = code_range(bits)
    _expect("codes", codes, torch.int8)
    if codes.dim() == 0:
        raise ValueError("codes must have at least one dimension")
    _expect_codes("codes", codes, bits, low, high)
    unsigned = (codes.to(torch.int16) + (1 << (bits - 1))).to(torch.uint8)
    per_byte = 8 // bits
    k = codes.shape[-1]
    padded = torch.nn.functional.pad(unsigned, (0, -k % per_byte))
    packed = padded[..., ::per_byte].clone()
    for lane in range(1, per_byte):
        packed |= padded[..., lane::per_byte] << (lane * bits)
    return packed


def unpack_bits(packed: torch.Tensor, bits: int, k: int) -> torch.Tensor:
    """The inverse of `pack_bits`: uint8 [..., ceil(k * bits / 8)] -> int8 [..., k]."""
    code_range(bits)
    _expect("packed", packed, torch.uint8)
    per_byte = 8 // bits
    if packed.dim() == 0 or packed.shape[-1] != -(-k // per_byte):
        raise ValueError(
            f"packed has shape {list(packed.shape)}; k={k} at {bits} bits needs {-(-k // per_byte)} bytes a row"
        )
    lanes = torch.stack([(packed >> (lane * bits)) & ((1 << bits) - 1) for lane in range(per_byte)], dim=-1)
    unsigned = lanes.flatten(-2)[..., :k].to(torch.int16)
    return (unsigned - (1 << (bits - 1))).to(torch.int8)


def _expect(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> None:
    if not isinstance(tensor, torch.Tensor) or tensor.dtype != dtype:
        given = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise TypeError(f"{name} must be a {dtype} tensor; it is {given}")


def _expect_codes(name: str, codes: torch.Tensor, bits: int, low: int, high: int) -> None:
    if codes.numel() == 0:
        return
    smallest, largest = (int(v) for v in codes.aminmax())
    if smallest < low or largest > high:
        raise ValueError(f"{name} holds values from {smallest} to {largest}; {bits} bits allow {low} to {high}")


def _all_positive(values: torch.Tensor) -> bool:
    return bool((torch.isfinite(values) & (values > 0)).all())
