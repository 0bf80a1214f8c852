"""The assignments that a gate tests, by what they lose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from kdnative.precision.assigning import FLOAT, Assignment, assign, groups_of
from kdnative.precision.sensitivity import Sensitivity

__all__ = ["float_path", "mixed_path"]

RUNGS = 8
MOST_RATIO = 128.0
"""Smaller losses than this part of the largest are told apart by noise."""


def mixed_path(rows: Sequence[Sensitivity], minimise: str = "bytes") -> list[Assignment]:
    """From the assignment that loses least to the cheapest one, those between the optimum of their budget of loss.

    Budgets grow by equal factors between the two; equal assignments are left out, so there are at most eight.
    """
    cheapest = assign(rows, budget_loss=math.inf, minimise=minimise)
    # Group by group: a solver tells losses apart only as far as its tolerance goes.
    safest = Assignment(tuple(min(group, key=lambda r: (r.loss, getattr(r, minimise))) for group in groups_of(rows)))
    low, high = safest.loss, cheapest.loss
    floor = max(low, high / MOST_RATIO)
    budgets = [floor * (high / floor) ** (k / (RUNGS - 1)) for k in range(1, RUNGS)] if high > low else []
    found = [assign(rows, budget_loss=budget * (1 + 1e-9), minimise=minimise) for budget in budgets]
    return list(dict.fromkeys([safest, *found]))


def float_path(safest: Assignment, bytes_each: int) -> list[Assignment]:
    """Assignments that leave layers in float so that the rest loses an eighth, a quarter and a half as much.

    Args:
        safest: the assignment that loses least. bytes_each: of a float weight.
    """
    floats = [replace(row, change=FLOAT, bytes=row.weights * bytes_each, loss=0.0, ms=None) for row in safest.rows]
    found = [assign([*safest.rows, *floats], budget_loss=safest.loss / share) for share in (8, 4, 2)]
    return [each for each in dict.fromkeys(found) if set(each.values()) != {FLOAT} and FLOAT in each.values()]
