"""The schemes that a recipe names: for all layers, by patterns, or those that a gate chooses among."""

from __future__ import annotations

from kdnative.formats.scheme import Scheme
from kdnative.ops.backends import accepted
from kdnative.quantize.methods import method_named
from kdnative.shown import shown

Schemes = str | dict[str, str | None]

GATE_SCHEMES = ("w4a8-g64", "w8a8")  # what a gate chooses among where nothing is said, as in `kdnative.Gate`

TWO_BITS = (
    "Rounding to nearest at 2 bits destroys most of a model's accuracy: add calibrate: {} (GPTQ). To round "
    "to nearest anyway, set calibrate: {method: rtn}"
)


def parse_schemes(schemes: Schemes | list[str] | None) -> Schemes | list[str] | None:
    """Schemes by their usual names; ValueError for one that no kernel runs."""
    if isinstance(schemes, list):
        found = [accepted(text) for text in schemes]
        bits = [scheme.weight.bits for scheme in found]
        if not found or bits != sorted(bits) or len(set(found)) < len(found):
            raise ValueError(f"give each scheme once, in ascending order of bits, got {shown(schemes)}")
        return [str(scheme) for scheme in found]
    if isinstance(schemes, dict):
        if not schemes:
            raise ValueError("schemes is empty: give one scheme such as w8a8, or a table of {pattern: scheme}")
        return {pattern: None if s is None else str(accepted(s)) for pattern, s in schemes.items()}
    return None if schemes is None else str(accepted(schemes))


def of_bits(bits: int, schemes: Schemes | list[str] | None) -> list[str]:
    """Those of a recipe's schemes whose weights have so many bits."""
    return sorted({str(scheme) for scheme in _each(schemes) if scheme.weight.bits == bits})


def _each(schemes: Schemes | list[str] | None) -> list[Scheme]:
    given = schemes.values() if isinstance(schemes, dict) else schemes if isinstance(schemes, list) else [schemes]
    return [Scheme.parse(text) for text in given if text is not None]


def check_scales_inputs(key: str, method: str | None, schemes: Schemes | list[str] | None) -> None:
    """ValueError for a method with a vector of input scales where a scheme leaves zeros out: it has no place for it."""
    sparse = [scheme for scheme in _each(schemes) if scheme.sparsity is not None]
    if method is not None and sparse and method_named(method).input_scales:
        raise ValueError(
            f"{key}.method is {method!r}, which scales inputs, but the sparse scheme {sparse[0]} can't store "
            "input scales: use gptq, clip or rtn, or leave the method out"
        )
