"""What may stand in the configuration of a native module: it comes from a file, which can say anything."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from kdnative import ops
from kdnative.formats.scheme import Scheme
from kdnative.nn.lazy_weight import FLOAT_TYPES
from kdnative.ops.backends import backend_for
from kdnative.shown import shown

__all__ = [
    "ACTIVATION",
    "COUNT",
    "DTYPE",
    "FLAG",
    "NOT_NEGATIVE",
    "OPTIONAL_COUNT",
    "POSITIVE",
    "SCHEME",
    "SIZE",
    "Kind",
    "check_config",
    "one_of",
]

_MOST = 2**31 - 1  # packed headers have 32 bits for a size

Kind = tuple[Callable[[Any], bool], str]
"""Whether a value is of the kind, and the kind in words."""


def one_of(*values: Any) -> Kind:
    """Equal to one of these values and of its type: 1 is not True."""
    return lambda v: any(type(v) is type(value) and v == value for value in values), " or ".join(map(repr, values))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def _is_finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_scheme(value: Any) -> bool:
    try:
        return isinstance(value, str) and backend_for("cpu").supports(Scheme.parse(value))
    except ValueError:
        return False


SIZE: Kind = (lambda v: _is_count(v) and v > 0, f"an integer from 1 to {_MOST}")
COUNT: Kind = (_is_count, f"an integer from 0 to {_MOST}")
OPTIONAL_COUNT: Kind = (lambda v: v is None or _is_count(v), f"null or an integer from 0 to {_MOST}")
FLAG: Kind = one_of(True, False)
POSITIVE: Kind = (lambda v: _is_finite(v) and v > 0, "a positive number")
NOT_NEGATIVE: Kind = (lambda v: _is_finite(v) and v >= 0, "a number that is not negative")
SCHEME: Kind = (_is_scheme, "the name of a scheme")
ACTIVATION: Kind = one_of(*ops.ACTIVATIONS)
DTYPE: Kind = one_of(*FLOAT_TYPES)


def check_config(what: str, config: Any, kinds: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None) -> None:
    """Refuse a table that lacks an entry, has one of another kind, or one of another name.

    Raises:
        ValueError: in words that name ``what``, the entry, what it is and what it must be.
    """
    if not isinstance(config, dict):
        raise ValueError(f"{what}: its configuration is {shown(config)}, not a table")
    optional = optional or {}
    for name, (fits, words) in kinds.items():
        if name not in config:
            raise ValueError(f"{what}: {name} is missing; it must be {words}")
        if not fits(config[name]):
            raise ValueError(f"{what}: {name} is {shown(config[name])}; it must be {words}")
    for name, value in config.items():
        if name in kinds:
            continue
        if name not in optional:
            raise ValueError(f"{what}: there is no entry {shown(name)}; allowed are {', '.join([*kinds, *optional])}")
        fits, words = optional[name]
        if not fits(value):
            raise ValueError(f"{what}: {name} is {shown(value)}; it must be {words}")
