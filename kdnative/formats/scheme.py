"""What a linear layer stores and computes with, as a short name such as ``w8a8`` or ``w4a16-g64``.

A scheme is two formats: that of the weight and that of the activations. A format says what numbers mean; whether a
device has a kernel for it is a question to its backend (:mod:`kdnative.ops.backends`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

GROUP_SIZES = (32, 64, 128)
SPARSITIES = ("4x1", "2:4", "mask")
WEIGHT_BITS = (8, 4, 2)
KINDS = {"8": "dynamic", "16": "float", "u8": "static"}
"""The kinds of activations, by what a name has after its ``a``."""

_PATTERN = re.compile(
    r"w(?P<w>\d+)a(?P<a>u?\d+)(?:-g(?P<g>\d+))?(?P<scales>-asym|-int)?(?:-ag(?P<ag>\d+))?(?P<inputs>-is)?(?:\+(?P<sparse>.*))?"
)


@dataclass(frozen=True)
class WeightFormat:
    """How a weight is stored.

    Args:
        bits: of a code: 8, 4 or 2.
        group_size: inputs that share a scale; None for one scale per output.
        symmetric: False adds a zero point per scale.
        integer_scales: two levels of scales: an fp32 one per output and a small integer one per group, with zero points
            (4 bits; QServe, Lin et al. 2024).
        sparsity: zeros that are left out: None, "4x1" (blocks of four consecutive outputs and one input), "2:4" (two of
            four consecutive inputs) or "mask" (single weights).

    Raises:
        ValueError: there is no such format.
    """

    bits: int
    group_size: int | None = None
    symmetric: bool = True
    integer_scales: bool = False
    sparsity: str | None = None

    def __post_init__(self) -> None:
        if self.bits not in WEIGHT_BITS:
            raise ValueError(f"weights have 8, 4 or 2 bits, not {self.bits}")
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"group_size={self.group_size}: a group has at least one input; None: no groups")
        if self.integer_scales and (self.bits != 4 or self.group_size is None or self.symmetric):
            raise ValueError("integer scales go with 4 bits, groups and zero points, and with nothing else")
        if self.sparsity not in (None, *SPARSITIES):
            raise ValueError(f"sparsity {self.sparsity!r} is none of {', '.join(SPARSITIES)}")

    @property
    def suffix(self) -> str:
        """What a scheme's name has behind its bits, without the sparsity."""
        group = "" if self.group_size is None else f"-g{self.group_size}"
        return group + ("-int" if self.integer_scales else "" if self.symmetric else "-asym")


@dataclass(frozen=True)
class ActivationFormat:
    """What becomes of the input of a linear layer before it is multiplied.

    Args:
        kind: "dynamic": int8, symmetric, with a scale for each token that is found while running. "static": uint8, with
            one scale and zero point for the whole tensor that calibration finds. "float": it stays as it is.
        group_size: inputs of a token that share a scale ("dynamic" only); None for one scale per token.
        input_scales: whether inputs are multiplied by a vector, one factor per input, in the quantizing step. The
            weight has been divided by it, so the layer computes the same, with fewer outliers in its inputs
            (SmoothQuant, Xiao et al. 2023) or less error in the weights that matter (AWQ, Lin et al. 2024).

    Raises:
        ValueError: there is no such format.
    """

    kind: str = "dynamic"
    group_size: int | None = None
    input_scales: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS.values():
            raise ValueError(f"activations are {', '.join(KINDS.values())}, not {self.kind!r}")
        if self.group_size is not None and (self.kind != "dynamic" or self.group_size < 1):
            raise ValueError("activations have groups of at least one input, if they are dynamic; others have none")

    @property
    def bits(self) -> int:
        """8, or 16 for floats of any width."""
        return 16 if self.kind == "float" else 8

    @property
    def code(self) -> str:
        """What a scheme's name has behind its ``a``."""
        return next(code for code, kind in KINDS.items() if kind == self.kind)

    @property
    def suffix(self) -> str:
        """What a scheme's name has behind the weight's group."""
        return ("" if self.group_size is None else f"-ag{self.group_size}") + ("-is" if self.input_scales else "")


@dataclass(frozen=True)
class Scheme:
    """Weight and activation format of a linear layer.

    ``w8a8``: int8 weights, symmetric, one fp32 scale per output channel. ``w4a8-gG`` and ``w2a8-gG``: 4-bit or 2-bit
    codes, one fp32 scale per output channel and G input columns; with ``-asym`` also one integer zero point per group.
    ``a8``: activations are int8, symmetric, quantized per token while running. ``a16`` in its place: the same weights,
    and activations stay in floating point (float32, bfloat16 or float16, summed in float32): more exact, and where
    there are few rows as fast, since reading weights is the cost. ``w4a8-gG-int``: two levels of scales, so that sums
    stay integers over all inputs, and many rows run as fast as with ``w8a8``. ``w8a8+4x1``, ``w8a8+2:4`` and
    ``w8a8+mask`` store and multiply only what the weight has besides zeros, and compute exactly what ``w8a8`` computes
    (:mod:`kdnative.prune` makes such zeros; :mod:`kdnative.convert.sparse_crossover` knows when they pay).

    ``-is``: inputs are multiplied by a vector first, which calibration finds. Nobody asks for it: a layer whose weight
    brings such a vector gets the ``-is`` form of the scheme that was asked for. Sparse schemes have none.

    ``au8`` (static uint8 activations) and ``-agG`` (groups of activations) are formats whose kernels are still to come.

    Args:
        weight, activation: the two formats.
    """

    weight: WeightFormat
    activation: ActivationFormat = field(default_factory=ActivationFormat)

    def __str__(self) -> str:
        sparse = "" if self.sparsity is None else f"+{self.sparsity}"
        weight, activation = self.weight, self.activation
        return f"w{weight.bits}a{activation.code}{weight.suffix}{activation.suffix}{sparse}"

    @classmethod
    def parse(cls, text: str | Scheme) -> Scheme:
        """The scheme a name stands for; a Scheme is returned as it is, and ``Scheme.parse(str(s)) == s``.

        Raises:
            ValueError: no such format. TypeError: neither a string nor a Scheme.
        """
        if isinstance(text, Scheme):
            return text
        if not isinstance(text, str):
            raise TypeError(f"a scheme is a string such as 'w8a8' or a kdnative.Scheme, not {type(text).__name__}")
        match = _PATTERN.fullmatch(text.strip().lower())
        if match is None or match["a"] not in KINDS:
            raise ValueError(refusal_of(text, NAMES))
        group, columns = (None if match[part] is None else int(match[part]) for part in ("g", "ag"))
        try:
            weight = WeightFormat(
                int(match["w"]), group, match["scales"] is None, match["scales"] == "-int", match["sparse"]
            )
            return cls(weight, ActivationFormat(KINDS[match["a"]], columns, match["inputs"] is not None))
        except ValueError:
            raise ValueError(refusal_of(text, NAMES)) from None

    @property
    def weight_bits(self) -> int:
        return self.weight.bits

    @property
    def activation_bits(self) -> int:
        """8, or 16 for floats of any width."""
        return self.activation.bits

    @property
    def group_size(self) -> int | None:
        """Input columns that share a scale of the weight; None for one scale per output."""
        return self.weight.group_size

    @property
    def symmetric(self) -> bool:
        """Whether the weight has no zero points."""
        return self.weight.symmetric

    @property
    def integer_scales(self) -> bool:
        """Whether the weight has two levels of scales."""
        return self.weight.integer_scales

    @property
    def sparsity(self) -> str | None:
        """Which zeros of the weight are left out."""
        return self.weight.sparsity

    @property
    def input_scales(self) -> bool:
        """Whether inputs are multiplied by a vector."""
        return self.activation.input_scales

    @property
    def dense(self) -> Scheme:
        """The scheme that stores zeros like any other weight, and computes the same."""
        return self.with_sparsity(None)

    @property
    def plain(self) -> Scheme:
        """The dense scheme without input scales."""
        return self.dense.with_input_scales(False)

    def with_input_scales(self, present: bool = True) -> Scheme:
        """The scheme that multiplies inputs by a vector, or does not."""
        return replace(self, activation=replace(self.activation, input_scales=present))

    def with_sparsity(self, sparsity: str | None) -> Scheme:
        """The scheme that leaves out other zeros, and computes the same."""
        return replace(self, weight=replace(self.weight, sparsity=sparsity))

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
        return f"; use {' or '.join(fitting) or f'w8a{self.activation.code}, which has no groups'}"


def _names() -> list[str]:
    grouped = [
        f"w{bits}a{activation}-g{group}{asym}"
        for bits in (4, 2)
        for activation in (8, 16)
        for group in GROUP_SIZES
        for asym in ("", "-asym")
    ]
    grouped += [f"w4a8-g{group}-int" for group in GROUP_SIZES]
    sparse = [f"w8a8+{s}" for s in SPARSITIES]
    return ["w8a8", "w8a16", *grouped, *sparse]


NAMES = _names()
"""The schemes of docs/schemes.md that have kernels, in the order in which errors list them."""


_MOST_NAMES = 8  # that an error lists one by one
_MEANT = {
    "w8a8": ("int8", "qint8", "w8", "8bit", "8-bit", "i8", "q8", "a8w8"),
    "w8a16": ("a16w8",),
    "w4a8-g64": ("w4a8", "int4", "w4", "4bit", "4-bit", "i4", "q4", "a8w4"),
    "w4a16-g64": ("w4a16", "a16w4"),
    "w2a8-g64": ("w2a8", "int2", "w2", "2bit", "2-bit"),
    "w2a16-g64": ("w2a16",),
}
"""What other libraries call a scheme, and names that lack the size of a group."""


def _near(text: str, allowed: list[str]) -> str | None:
    """The scheme that a wrong name most likely means."""
    groups_of_8_bits = re.fullmatch(r"w8a(8|16)-g\d+.*", text)
    if groups_of_8_bits:
        return f"w8a{groups_of_8_bits[1]}"
    for name, others in _MEANT.items():
        if text in others and name in allowed:
            return name
    return next(iter(difflib.get_close_matches(text, allowed, n=1, cutoff=0.5)), None)


def refusal_of(text: str, allowed: Iterable[str]) -> str:
    """Why a name is no scheme, or none of those ``allowed``; the nearest one, and which there are."""
    allowed = list(allowed)
    reason = f"unknown scheme {text!r}"
    match = _PATTERN.fullmatch(text.strip().lower())
    if match and match["a"] not in KINDS:
        reason = f"scheme {text!r} keeps {match['a']}-bit activations, and there is no kernel for that: only a8 and a16"
    elif match and match["a"] == "u8":
        reason = f"scheme {text!r} has static uint8 activations, and linears have no kernel for these: only a8 and a16"
    elif match and match["ag"] is not None:
        reason = f"scheme {text!r} has groups of activations, and there is no kernel for that: a8 has a scale per token"
    elif match and match["inputs"] is not None and match["sparse"] is not None:
        reason = f"scheme {text!r} has input scales, and weights that are stored without zeros have no place for them"
    elif match and match["w"] in ("2", "4") and match["g"] is None:
        reason = f"scheme {text!r} has no group size: {match['w']}-bit weights need one"
    elif match and match["sparse"] is not None:
        reason = f"scheme {text!r} has no kernel: only w8a8 weights are stored without zeros"
    near = _near(text.strip().lower(), allowed)
    return f"{reason}{f'; did you mean {near!r}?' if near else '.'} Allowed: {_in_short(allowed)}"


def _in_short(names: list[str]) -> str:
    """Names of schemes; of many those that differ in the size of groups are one."""
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    families: dict[str, list[str]] = {}
    for name in names:
        found = re.search(r"-g(\d+)", name)
        family = name if found is None else name.replace(found[0], "-gG")
        families.setdefault(family, []).extend(found.groups() if found else ())
    sizes = sorted({int(size) for group in families.values() for size in group})
    return ", ".join(families) + (f"; G is one of {', '.join(map(str, sizes))}" if sizes else "")
