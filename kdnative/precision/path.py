"""The assignments that a gate tests, by what they lose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from kdnative.precision.assigning import FLOAT, Assignment, assign
from kdnative.precision.sensitivity import Sensitivity

__all__ = ["float_path", "mixed_path"]

MOST_RUNGS = 8
MOST_RATIO = 128.0
"""Losses that differ by more are told apart by noise."""


def mixed_path(rows: Sequence[Sensitivity], minimise: str = "bytes") -> list[Assignment]:
    """From the assignment that loses least down to the cheapest one, each the exact optimum of its budget of loss.

    Budgets grow by equal factors, at least by 2, from the least loss to that of the cheapest assignment.
    """
    cheapest = assign(rows, budget_loss=math.inf, minimise=minimise)
    least = sum(min(row.loss for row in rows if row.names == names) for names in {row.names for row in rows})
    top = max(cheapest.loss, least)
    safest = assign(rows, budget_loss=least * (1 + 1e-6), minimise=minimise)
    floor = max(least, top / MOST_RATIO)
    steps = 1 if floor <= 0 else min(MOST_RUNGS - 1, max(1, math.floor(math.log2(max(top / floor, 1)))))
    budgets = [floor * (top / floor) ** (k / steps) for k in range(1, steps)] if floor > 0 else []
    found = [safest, *(assign(rows, budget_loss=budget, minimise=minimise) for budget in budgets), cheapest]
    return list(dict.fromkeys(found))


def float_path(safest: Assignment, bytes_each: int) -> list[Assignment]:
    """Assignments that leave layers in float so that the rest loses an eighth, a quarter and a half as much.

    Args:
        safest: the assignment that loses least. bytes_each: of a float weight.
    """
    floats = [replace(row, change=FLOAT, bytes=row.weights * bytes_each, loss=0.0, ms=None) for row in safest.rows]
    found = [assign([*safest.rows, *floats], budget_loss=safest.loss / share) for share in (8, 4, 2)]
    return [each for each in dict.fromkeys(found) if set(each.values()) != {FLOAT} and FLOAT in each.values()]
