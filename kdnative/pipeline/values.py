"""The kinds of values in recipes: numbers with bounds, so that a slip of the keyboard is refused and not run."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from kdnative.shown import shown


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would read it as 0 or 1
        raise ValueError(f"a number is needed, got {value} (in YAML, yes, no, on and off mean true and false)")
    return value


def at_most(most: int, what: str = "") -> AfterValidator:
    """Refuses slips of the keyboard, which would otherwise end a run in the allocator, hours later."""

    def check(value: int) -> int:
        if value > most:
            raise ValueError(f"at most {most:,}{what}, got {shown(value)}")
        return value

    return AfterValidator(check)


_MOST_THREADS = max(1024, 4 * (os.cpu_count() or 1))

Int = Annotated[int, BeforeValidator(_no_bool)]
Float = Annotated[float, BeforeValidator(_no_bool)]
Fraction = Annotated[Float, Field(ge=0.0, lt=1.0)]
Share = Annotated[Float, Field(gt=0.0, lt=1.0)]
Positive = Annotated[Int, Field(ge=1), at_most(10**9)]
Count = Annotated[Int, Field(ge=0), at_most(10**9)]
Epochs = Annotated[Int, Field(ge=0), at_most(100_000, " epochs")]
Seed = Annotated[Int, Field(ge=0), at_most(2**32 - 1)]
Sentences = Annotated[Int, Field(ge=1), at_most(2**16, " sentences at once")]
Tokens = Annotated[Int, Field(ge=2), at_most(2**20, " tokens in one sentence")]
Samples = Annotated[Int, Field(ge=1), at_most(100_000, " samples")]
Batches = Annotated[Int, Field(ge=1), at_most(100_000, " batches")]
Layers = Annotated[Int, Field(ge=1), at_most(10_000, " layers")]
Threads = Annotated[
    Int, Field(ge=1), at_most(_MOST_THREADS, f" threads, and this machine has {os.cpu_count()} processors")
]
PositiveFloat = Annotated[Float, Field(gt=0.0)]
NotNegative = Annotated[Float, Field(ge=0.0)]


def _share_or_numbers(value: Any) -> Any:
    if isinstance(value, list):
        fits = 0 < len(value) <= 10_000 and all(type(n) is int and n >= 1 for n in value)
    else:
        fits = type(value) in (int, float) and 0 <= value < 1
    if not fits:
        raise ValueError(
            "give the share to remove from every layer (at least 0, less than 1), or a list with the number "
            f"that each layer keeps (whole numbers, at least 1), got {shown(value)}"
        )
    return value


Kept = Annotated[Fraction | list[Positive], BeforeValidator(_share_or_numbers)]
