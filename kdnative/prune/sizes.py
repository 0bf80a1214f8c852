"""How many layers, heads and neurons stay: shares to remove, or numbers to keep, checked and rounded."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["Amount", "check_amounts", "evenly_spaced", "kept_counts", "kept_layers", "kept_units"]

Amount = float | Sequence[int]
"""A share to remove from every layer, or how many to keep in each layer."""


def check_amounts(**amounts: Amount) -> None:
    """Raises ValueError for a share outside of [0, 1), and for a list without numbers."""
    for name, amount in amounts.items():
        if isinstance(amount, Sequence) and not isinstance(amount, str):
            if not amount or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in amount):
                raise ValueError(
                    f"{name}={list(amount)}; whole numbers to keep, at least 1, one for each layer, are needed"
                )
        elif isinstance(amount, str) or not 0 <= amount < 1:
            raise ValueError(
                f"{name}={amount}; the share to remove, 0 <= {name} < 1, or a list of how many each layer keeps is "
                "needed"
            )


def kept_counts(name: str, amount: Amount, totals: Sequence[int], units: Sequence[int], multiple_of: int) -> list[int]:
    """How many heads or neurons each layer of a stack keeps.

    Args:
        name: of the argument, for messages: "heads" or "ffn".
        amount: a share, which is rounded (`kept_units`), or numbers, which are not.
        totals: how many each layer has. units: how many columns one is wide.
        multiple_of: the kept columns fill whole tiles of so many, except where a layer keeps all it has.

    Raises:
        ValueError: numbers that do not fit the layers; in words.
    """
    if not isinstance(amount, Sequence):
        return [kept_units(total, amount, unit, multiple_of) for total, unit in zip(totals, units, strict=True)]
    what = "heads" if name == "heads" else "neurons"
    given = f"{name}={list(amount)}"
    if len(amount) != len(totals):
        raise ValueError(
            f"{given} has {len(amount)} numbers, but there are {len(totals)} layers: give one number per layer"
        )
    for index, (count, total, unit) in enumerate(zip(amount, totals, units, strict=True)):
        if count > total:
            raise ValueError(f"{given}: layer {index} has {total} {what}, so it can't keep {count}")
        step = _step(total, unit, multiple_of)
        if count % step and count != total:
            raise ValueError(
                f"{given}: layer {index} would keep {count} {what}, {count * unit} columns, which is not a multiple of "
                f"{multiple_of}: give a multiple of {step} {what}, or another multiple_of"
            )
    return list(amount)


def kept_units(total: int, share: float, unit: int, multiple_of: int) -> int:
    """How many of `total` heads or neurons stay, each `unit` columns wide, when `share` of them should go."""
    step = _step(total, unit, multiple_of)
    return min(total, max(step, math.floor(total * (1 - share) / step + 0.5) * step))


def _step(total: int, unit: int, multiple_of: int) -> int:
    """The fewest units whose columns fill whole tiles; one unit where the full width is not larger than one tile."""
    step = multiple_of // math.gcd(multiple_of, unit)
    return 1 if step >= total else step


def kept_layers(layers: int | Sequence[int], total: int) -> list[int]:
    """Indices of the layers to keep, checked."""
    if isinstance(layers, int):
        return evenly_spaced(total, layers)
    kept = list(layers)
    if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= total:
        raise ValueError(f"layers={kept}; ascending indices from 0 to {total - 1}, at least one, are needed")
    return kept


def evenly_spaced(total: int, count: int) -> list[int]:
    """`count` of the indices 0 .. total - 1, evenly spread, the first and the last among them (count 1: the first)."""
    if not 1 <= count <= total:
        raise ValueError(f"layers={count}; the model has {total} layers, so 1 to {total} can be kept")
    if count == 1:
        return [0]
    return [(2 * i * (total - 1) + count - 1) // (2 * (count - 1)) for i in range(count)]
