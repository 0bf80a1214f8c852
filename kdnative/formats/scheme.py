"""The format a weight is stored in and computed with, as a short name such as ``w8a8`` or ``w4a16-g64``."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace

GROUP_SIZES = (32, 64, 128)
ACTIVATION_BITS = (8, 16)
SPARSITIES = ("4x1", "2:4", "mask")
_PATTERN = re.compile(r"w(?P<w>\d+)a(?P<a>\d+)(?:-g(?P<g>\d+))?(?P<kind>-asym|-int)?(?:\+(?P<sparse>.*))?")


@dataclass(frozen=True)
class Scheme:
    """Weight and activation format of a linear layer.

    ``w8a8``: int8 weights, symmetric, one fp32 scale per output channel. ``w4a8-gG`` and ``w2a8-gG``: 4-bit or 2-bit
    codes, one fp32 scale per output channel and G input columns (G = 32, 64 or 128, dividing the layer's in_features);
    with ``-asym`` also one integer zero point per group. ``a8``: activations are int8, symmetric, quantized per token
    while running. ``a16`` in its place: the same weights, and activations stay in floating point (float32, bfloat16 or
    float16, summed in float32): more exact, and where there are few rows as fast, since reading weights is the cost.
    ``w4a8-gG-int``: two levels of scales, an fp32 one per output channel and a small integer one per group, and an
    integer zero point per group (QServe, Lin et al. 2024): sums stay integers over all inputs, so many rows run as fast
    as with ``w8a8``.
    ``w8a8+4x1``, ``w8a8+2:4`` and ``w8a8+mask`` store and multiply only what the weight has besides zeros, and
    compute exactly what ``w8a8`` computes: blocks of four consecutive outputs and one input, two of four consecutive
    inputs, or single weights (:mod:`kdnative.prune` makes such zeros; :mod:`kdnative.convert.sparse_crossover` knows
    when they pay).

    Args:
        weight_bits: 8, 4 or 2.
        activation_bits: 8, or 16 for floats of any width.
        group_size: input columns per scale, None for one scale per output channel (8 bits only).
        symmetric: False adds a zero point per group (2 and 4 bits only).
        sparsity: None, "4x1", "2:4" or "mask" (weights and activations of 8 bits).
        integer_scales: integer scales of the groups (4 bits, activations of 8 bits, not symmetric).

    Raises:
        ValueError: the combination has no kernel; the text lists those that have one.
    """

    weight_bits: int
    activation_bits: int = 8
    group_size: int | None = None
    symmetric: bool = True
    sparsity: str | None = None
    integer_scales: bool = False

    def __post_init__(self) -> None:
        per_channel = self.weight_bits == 8 and self.group_size is None and self.symmetric
        grouped = self.weight_bits in (2, 4) and self.group_size in GROUP_SIZES
        if self.integer_scales:
            grouped &= (self.weight_bits, self.activation_bits, self.symmetric) == (4, 8, False)
            per_channel = False
        known = self.activation_bits in ACTIVATION_BITS and (per_channel or grouped)
        sparse = self.sparsity in SPARSITIES and per_channel and self.activation_bits == 8
        if not known or not (self.sparsity is None or sparse):
            raise ValueError(_refusal(str(self)))

    def __str__(self) -> str:
        group = "" if self.group_size is None else f"-g{self.group_size}"
        sparse = "" if self.sparsity is None else f"+{self.sparsity}"
        kind = "-int" if self.integer_scales else "" if self.symmetric else "-asym"
        return f"w{self.weight_bits}a{self.activation_bits}{group}{kind}{sparse}"

    @classmethod
    def parse(cls, text: str | Scheme) -> Scheme:
        """The scheme a name stands for; a Scheme is returned as it is, and ``Scheme.parse(str(s)) == s``.

        Raises:
            ValueError: unknown name, or one without a kernel. TypeError: neither a string nor a Scheme.
        """
        if isinstance(text, Scheme):
            return text
        if not isinstance(text, str):
            raise TypeError(f"a scheme is a string such as 'w8a8' or a kdnative.Scheme, not {type(text).__name__}")
        match = _PATTERN.fullmatch(text.strip().lower())
        if match is None:
            raise ValueError(_refusal(text))
        group = None if match["g"] is None else int(match["g"])
        symmetric, integers = match["kind"] is None, match["kind"] == "-int"
        return cls(int(match["w"]), int(match["a"]), group, symmetric, match["sparse"], integers)

    @staticmethod
    def allowed() -> list[str]:
        """The names of every scheme that has a kernel."""
        grouped = [
            f"w{bits}a{activation}-g{group}{asym}"
            for bits in (4, 2)
            for activation in ACTIVATION_BITS
            for group in GROUP_SIZES
            for asym in ("", "-asym")
        ]
        grouped += [f"w4a8-g{group}-int" for group in GROUP_SIZES]
        sparse = [f"w8a8+{s}" for s in SPARSITIES]
        return ["w8a8", "w8a16", *grouped, *sparse]

    @property
    def dense(self) -> Scheme:
        """The scheme that stores zeros like any other weight, and computes the same."""
        return replace(self, sparsity=None)

    def groups(self, in_features: int) -> int:
        """Number of scales along ``in_features`` input columns (1 without groups).

        Raises:
            ValueError: the group size does not divide ``in_features``.
        """
        if self.group_size is None:
            return 1
        if in_features % self.group_size:
            raise ValueError(
                f"scheme {self} needs in_features divisible by its group size {self.group_size}, got {in_features}"
                f"{self._fitting_groups(in_features)}"
            )
        return in_features // self.group_size

    def _fitting_groups(self, in_features: int) -> str:
        fitting = [f"g{g}" for g in GROUP_SIZES if in_features % g == 0]
        return f"; use {' or '.join(fitting) or f'w8a{self.activation_bits}, which has no groups'}"


def _refusal(text: str) -> str:
    """Why a name is no scheme, what is allowed, and the nearest allowed name."""
    allowed = Scheme.allowed()
    reason = f"unknown scheme {text!r}"
    match = _PATTERN.fullmatch(text.strip().lower())
    if match and match["a"] not in ("8", "16"):
        reason = f"scheme {text!r} keeps {match['a']}-bit activations, and there is no kernel for that: only a8 and a16"
    elif match and match["w"] in ("2", "4") and match["g"] is None:
        reason = f"scheme {text!r} has no group size: {match['w']}-bit weights need one"
    elif match and match["sparse"] is not None:
        reason = f"scheme {text!r} has no kernel: only w8a8 weights are stored without zeros"
    near = difflib.get_close_matches(text.strip().lower(), allowed, n=1, cutoff=0.5)
    suggestion = f"; did you mean {near[0]!r}?" if near else ""
    return f"{reason}{suggestion} Allowed: {', '.join(allowed)}"
