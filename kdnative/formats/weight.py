"""The plain form of a quantized weight: what algorithms produce, checkpoints store and `convert_` packs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

MOST_GROUP_SCALE = 17
"""Largest integer group scale: 15 * 17 = 255, so that a 4-bit code times its group scale stays within a byte."""

__all__ = ["MOST_GROUP_SCALE", "QuantizedWeight", "code_range", "pack_bits", "unpack_bits"]


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
    """An integer weight matrix and its scales: ``w = (qweight - zero) * scale``.

    With two levels of scales ``w = (qweight - zero) * group_scale * scale``: `scale` is one per output channel, and
    ``(qweight - zero) * group_scale`` is within [-127, 127].

    Args:
        qweight: int8 [N, K], N outputs and K inputs, codes within `code_range(bits)`.
        scale: fp32, [N] without groups and with two levels, else [N, K / group_size]; finite and positive.
        zero: int8, [N] or [N, K / group_size], codes within `code_range(bits)`; None means symmetric (all zeros).
        bits: 2, 4 or 8.
        group_size: how many consecutive inputs share a scale; must divide K. None: one scale per output.
        group_scale: uint8 [N, K / group_size] within [1, 17], for two levels of scales (4 bits, with zero points); None
            otherwise.

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

    def __post_init__(self) -> None:
        low, high = code_range(self.bits)
        _expect("qweight", self.qweight, torch.int8)
        _expect("scale", self.scale, torch.float32)
        if self.qweight.dim() != 2:
            raise ValueError(f"qweight must be a matrix [N, K]; its shape is {list(self.qweight.shape)}")
        n, k = self.qweight.shape
        shape = [n] if self.group_size is None else [n, groups_of(k, self.group_size)]
        scales = shape if self.group_scale is None else [n]
        if list(self.scale.shape) != scales:
            raise ValueError(
                f"scale has shape {list(self.scale.shape)}; qweight {[n, k]} with group_size={self.group_size}"
                f"{'' if self.group_scale is None else ' and group_scale'} needs {scales}"
            )
        if self.zero is not None:
            _expect("zero", self.zero, torch.int8)
            if list(self.zero.shape) != shape:
                raise ValueError(f"zero has shape {list(self.zero.shape)}; it must be {shape}")
            _expect_codes("zero", self.zero, self.bits, low, high)
        _expect_codes("qweight", self.qweight, self.bits, low, high)
        if self.scale.numel() and not bool((torch.isfinite(self.scale) & (self.scale > 0)).all()):
            raise ValueError(
                "scale holds zero, negative, infinite or NaN values; use 1.0 for groups that are all zeros"
            )
        if self.group_scale is not None:
            self._check_group_scale(shape)

    @classmethod
    def unchecked(cls, qweight, scale, zero, bits, group_size, group_scale=None) -> QuantizedWeight:
        """The same without its checks, for codes that were just computed: a training step packs its weights."""
        weight = object.__new__(cls)
        fields = (qweight, scale, zero, bits, group_size, group_scale)
        for field, value in zip(dataclasses.fields(cls), fields, strict=True):
            object.__setattr__(weight, field.name, value)
        return weight

    @classmethod
    def joined(cls, weights: Sequence[QuantizedWeight]) -> QuantizedWeight:
        """One weight whose outputs are those of all ``weights`` one after the other; not checked again.

        Raises:
            ValueError: they differ in bits, group size or number of scale levels.
        """
        if len({(w.bits, w.group_size, w.group_scale is None) for w in weights}) != 1:
            raise ValueError("weights that are joined must have the same bits, group size and levels of scales")
        zero = group_scale = None
        if any(w.zero is not None for w in weights):
            zeros = [w.zero if w.zero is not None else torch.zeros_like(w.scale, dtype=torch.int8) for w in weights]
            zero = torch.cat(zeros)
        if weights[0].group_scale is not None:
            group_scale = torch.cat([w.group_scale for w in weights])
        codes, scale = (torch.cat([getattr(w, name) for w in weights]) for name in ("qweight", "scale"))
        return cls.unchecked(codes, scale, zero, weights[0].bits, weights[0].group_size, group_scale)

    def _check_group_scale(self, shape: list[int]) -> None:
        _expect("group_scale", self.group_scale, torch.uint8)
        if self.bits != 4 or self.zero is None:
            raise ValueError("group_scale goes with 4-bit weights that have zero points, and with no others")
        if list(self.group_scale.shape) != shape:
            raise ValueError(f"group_scale has shape {list(self.group_scale.shape)}; it must be {shape}")
        if self.group_scale.numel() == 0:
            return
        smallest, largest = (int(v) for v in self.group_scale.aminmax())
        if smallest < 1 or largest > MOST_GROUP_SCALE:
            raise ValueError(f"group_scale holds {smallest} to {largest}; allowed are 1 to {MOST_GROUP_SCALE}")
        steps = self.qweight.view(*shape, -1).to(torch.int16) - self.zero[..., None]
        most = int((steps.abs().amax(-1) * self.group_scale).max())
        if most > 127:
            raise ValueError(f"(qweight - zero) * group_scale reaches {most}; it must stay within [-127, 127]")

    @property
    def out_features(self) -> int:
        return self.qweight.shape[0]

    @property
    def in_features(self) -> int:
        return self.qweight.shape[1]

    def dequantize(self) -> torch.Tensor:
        """The float weight this stands for, fp32 [N, K]: one subtraction of integers and one fp32 multiplication."""
        if self.group_scale is not None:
            return self.decoded().dequantize()
        codes = self.qweight.float()
        if self.group_size is None:
            return (codes if self.zero is None else codes - self.zero.float()[:, None]) * self.scale[:, None]
        grouped = codes.view(*self.scale.shape, self.group_size)
        if self.zero is not None:
            grouped = grouped - self.zero.float()[..., None]
        return (grouped * self.scale[..., None]).reshape(self.qweight.shape)

    def decoded(self) -> QuantizedWeight:
        """Two levels of scales as the 8-bit weights that they stand for, exactly: codes [N, K] and scale [N]."""
        if self.group_scale is None:
            raise ValueError(
                "only weights with integer group scales are 8-bit weights too; this one has no group_scale"
            )
        steps = self.qweight.view(*self.group_scale.shape, -1).to(torch.int16) - self.zero[..., None]
        codes = (steps * self.group_scale[..., None]).to(torch.int8).view(self.qweight.shape)
        return QuantizedWeight.unchecked(codes, self.scale, None, 8, None)

    def bytes(self) -> int:
        """Stored size in bytes: codes at `bits` bits (rows rounded up to bytes), fp32 scales, int8 zeros and scales."""
        row = (self.in_features * self.bits + 7) // 8
        zeros = 0 if self.zero is None else self.zero.numel()
        group_scales = 0 if self.group_scale is None else self.group_scale.numel()
        return self.out_features * row + 4 * self.scale.numel() + zeros + group_scales


def groups_of(k: int, group_size: int) -> int:
    """How many groups of `group_size` a row of `k` weights has; ValueError when they do not divide."""
    if group_size < 1 or k % group_size:
        raise ValueError(
            f"group_size={group_size} does not divide the {k} input features; choose a divisor of {k}, "
            "or a scheme without groups"
        )
    return k // group_size


def pack_bits(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Packs signed codes densely for storage.

    Args:
        codes: int8 [..., K], within `code_range(bits)`.
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
