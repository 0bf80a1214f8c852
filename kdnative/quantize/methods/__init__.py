"""Methods of quantization after training, one file each, by the name that users give."""

from __future__ import annotations

import difflib

from kdnative.quantize.methods.awq import AWQ
from kdnative.quantize.methods.base import Method
from kdnative.quantize.methods.clip import Clip
from kdnative.quantize.methods.gptq import GPTQ
from kdnative.quantize.methods.hqq import HQQ
from kdnative.quantize.methods.rtn import RoundToNearest
from kdnative.quantize.methods.smoothquant import SmoothQuant
from kdnative.quantize.methods.ternary import Ternary

__all__ = [
    "AWQ",
    "GPTQ",
    "HQQ",
    "METHODS",
    "Clip",
    "Method",
    "RoundToNearest",
    "SmoothQuant",
    "Ternary",
    "method_named",
]

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        RoundToNearest(),
        Clip(),
        SmoothQuant(),
        GPTQ(),
        AWQ(),
        AWQ(weights=GPTQ()),
        HQQ(),
    )
}
"""Every method with its usual options, but for `Ternary`, which is for schemes of 2 bits alone."""


def method_named(name: str | Method) -> Method:
    """The method of a name, with its usual options; a `Method` is returned as it is.

    Raises:
        ValueError: no such method. TypeError: neither a name nor a `Method`.
    """
    if isinstance(name, Method):
        return name
    if not isinstance(name, str):
        raise TypeError(f"a method is a name such as 'gptq' or a Method, not {type(name).__name__}")
    if name in METHODS:
        return METHODS[name]
    if name.strip().lower() == Ternary.name:
        raise ValueError(
            "method 'ternary' needs step=: give kdnative.quantize.methods.Ternary(step='channel') or "
            "step='group'; in a recipe set recover.ternary"
        )
    near = next(iter(difflib.get_close_matches(name.strip().lower(), METHODS, n=1, cutoff=0.5)), None)
    hint = "." if near is None else f"; did you mean {near!r}?"
    raise ValueError(f"unknown method {name!r}{hint} Allowed: {', '.join(METHODS)}")
