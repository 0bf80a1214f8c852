"""What an operator must be told of a packed weight on a GPU, as one number: it can't read a header there."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAMILIES", "Form"]

FAMILIES = {"w8a8": 1, "w4a16": 2, "sparse24": 3, "blocks": 4, "triton_w4a16": 5, "triton_blocks": 6}
"""The families of kernels and their codes; ``csrc/ops/cuda.h`` has the same, but for those of Triton."""

_FIELDS = {"family": (0, 4), "bits": (4, 4), "bias": (8, 1), "input_scales": (9, 1), "zeros": (10, 1)}
_FIELDS |= {"block": (12, 4), "group": (16, 12)}
"""The lowest bit and the number of bits of each field."""


@dataclass(frozen=True)
class Form:
    """The form of a packed weight; with N and K it says where everything lies.

    Args:
        family: one of :data:`FAMILIES`.
        bits: of a code: 8 or 4.
        bias, input_scales, zeros: whether there are such sections; zeros are zero points.
        block: outputs and inputs of a block that may be left out: 16, 32 or 64; 0 without blocks.
        group: inputs that share a scale; 0: one scale for each output.
    """

    family: str
    bits: int
    bias: bool = False
    input_scales: bool = False
    zeros: bool = False
    block: int = 0
    group: int = 0

    @property
    def code(self) -> int:
        """The form as a positive number below 2^63."""
        values = {**vars(self), "family": FAMILIES[self.family], "block": self.block // 16}
        code = 0
        for name, (lowest, bits) in _FIELDS.items():
            if not 0 <= values[name] < 1 << bits:
                raise ValueError(f"{name}={values[name]} doesn't fit into the form of a packed weight: {self}")
            code |= int(values[name]) << lowest
        return code

    @classmethod
    def parse(cls, code: int) -> Form:
        """The form of a code; ValueError for a number that is none."""
        families = {number: name for name, number in FAMILIES.items()}
        values = {name: code >> lowest & (1 << bits) - 1 for name, (lowest, bits) in _FIELDS.items()}
        if values["family"] not in families:
            raise ValueError(f"{code} is not the form of a packed weight on a GPU")
        flags = {name: bool(values[name]) for name in ("bias", "input_scales", "zeros")}
        return cls(
            families[values["family"]], values["bits"], **flags, block=values["block"] * 16, group=values["group"]
        )
