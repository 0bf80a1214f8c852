"""Which scheme each layer gets: the exact optimum of a small integer program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdnative.extras import require
from kdnative.precision.sensitivity import ALL, Sensitivity

__all__ = ["FLOAT", "Assignment", "assign"]

FLOAT = "float"
"""The change that is none: the layer stays in floating point."""

_TIGHTENINGS = 8


@dataclass(frozen=True)
class Assignment(Mapping[str, str]):
    """A scheme for each module, by name.

    Attributes:
        rows: the chosen rows, one for each group of layers.
    """

    rows: tuple[Sensitivity, ...]

    def __getitem__(self, name: str) -> str:
        for row in self.rows:
            if name in row.names:
                return row.change
        raise KeyError(name)

    def __iter__(self):
        return (name for row in self.rows for name in row.names)

    def __len__(self) -> int:
        return sum(len(row.names) for row in self.rows)

    @property
    def loss(self) -> float:
        """Sum of the layers' losses, which estimates the loss of the whole model."""
        return sum(row.loss for row in self.rows)

    @property
    def bytes(self) -> int:
        """Of all weights."""
        return sum(row.bytes for row in self.rows)

    @property
    def ms(self) -> float | None:
        """Sum of the layers' latencies, where they were measured."""
        return None if any(row.ms is None for row in self.rows) else sum(row.ms or 0.0 for row in self.rows)

    def shares(self) -> dict[str, float]:
        """For each scheme the share of the weights that it has."""
        total = sum(row.weights for row in self.rows) or 1
        return {c: sum(r.weights for r in self.rows if r.change == c) / total for c in sorted(set(self.values()))}


def assign(
    sensitivities: Sequence[Sensitivity],
    *,
    budget_bytes: float | None = None,
    budget_ms: float | None = None,
    budget_loss: float | None = None,
    minimise: str = "bytes",
) -> Assignment:
    """One scheme for each group of layers.

    Under a budget of bytes or of milliseconds it minimises the summed loss; under one of loss, which may be infinite,
    it minimises bytes or milliseconds, and among equals the loss. Solved by branch and bound
    (:func:`scipy.optimize.milp`, HiGHS), with the budget kept exactly; the solver's own tolerance, a millionth of the
    largest value or so, is made up for. The losses of single layers add up well enough at the model's output.

    Args:
        sensitivities: rows of :func:`kdnative.precision.sensitivity`, one for each group and scheme that it may get; a
            group may lack schemes. Rows for all layers at once are passed over.
        budget_bytes: of all weights in these rows. budget_ms: of their layers' summed latencies; rows need ``ms``.
        budget_loss: of the summed losses. Give exactly one budget.
        minimise: "bytes" or "ms", under a budget of loss.

    Raises:
        ValueError: no budget that can be met (the text says the smallest possible one), several budgets or none, rows
            without latencies, or a loss that is not finite in every scheme of a group.
    """
    budgets = {"bytes": budget_bytes, "ms": budget_ms, "loss": budget_loss}
    given = {name: budget for name, budget in budgets.items() if budget is not None}
    if len(given) != 1:
        raise ValueError("give exactly one of budget_bytes, budget_ms and budget_loss")
    if minimise not in ("bytes", "ms"):
        raise ValueError(f"minimise={minimise!r}: allowed are 'bytes' and 'ms'")
    ((limited, budget),) = given.items()
    if not budget >= 0:
        raise ValueError(f"budget_{limited}={budget}: a budget is at least 0")
    groups = groups_of(sensitivities)
    options = [row for rows in groups for row in rows]
    values = {name: _values(options, name) for name in {"loss", limited, "loss" if limited != "loss" else minimise}}
    smallest = np.concatenate([_one(_values(rows, limited)) for rows in groups])
    least = _total(values[limited], smallest)
    if least > budget:
        raise ValueError(f"budget_{limited}={budget:.6g} can't be met: the smallest possible is {least:.6g}")
    goal = values["loss"] if limited != "loss" else values[minimise]
    sizes = [len(rows) for rows in groups]
    chosen = _within(sizes, goal, values[limited], budget, smallest)
    if limited == "loss":  # of all assignments that cost as little the one that loses least
        better = _within(sizes, values["loss"], goal, _total(goal, chosen), chosen)
        # The solver may have stopped short of the least loss by its tolerance.
        chosen = better if _total(values["loss"], better) <= _total(values["loss"], chosen) else chosen
    return Assignment(tuple(row for row, taken in zip(options, chosen, strict=True) if taken))


def groups_of(sensitivities: Sequence[Sensitivity]) -> list[list[Sensitivity]]:
    """The options of each group, in the order of the first rows."""
    found: dict[tuple[str, ...], list[Sensitivity]] = {}
    for row in sensitivities:
        if row.layer != ALL:
            found.setdefault(row.names, []).append(row)
    if not found:
        raise ValueError("no sensitivities of single layers are given: measure them with kd.precision.sensitivity(...)")
    counted: dict[str, int] = {}
    for names, rows in found.items():
        for name in names:
            counted[name] = counted.get(name, 0) + 1
        changes = [row.change for row in rows]
        if len(set(changes)) < len(changes):
            raise ValueError(f"{rows[0].layer} has two rows for one scheme")
        found[names] = [row for row in rows if np.isfinite(row.loss)]
        if not found[names]:
            raise ValueError(f"{rows[0].layer} gives NaN or infinite values in every scheme: leave it in float")
    if twice := [name for name, count in counted.items() if count > 1]:
        raise ValueError(f"{twice[0]} is in two groups of layers")
    return list(found.values())


def _values(rows: Sequence[Sensitivity], name: str) -> np.ndarray:
    if name == "ms" and any(row.ms is None for row in rows):
        raise ValueError("these sensitivities have no latencies: add them with kd.precision.measure_latency(rows, ...)")
    return np.array([max(0.0, float(getattr(row, name))) for row in rows])


def _one(values: np.ndarray) -> np.ndarray:
    """bool: where the first least value is."""
    return np.arange(len(values)) == values.argmin()


def _total(values: np.ndarray, chosen: np.ndarray) -> float:
    """Summed in order, as an `Assignment` does."""
    return float(sum(values[chosen].tolist()))


def _within(
    sizes: Sequence[int], goal: np.ndarray, limited: np.ndarray, budget: float, fallback: np.ndarray
) -> np.ndarray:
    """`_solve` within the exact budget: where the solver's answer is above it, its budget is tightened.

    Args:
        fallback: an answer within the budget, where tightening finds none.
    """
    allowed = budget
    for _ in range(_TIGHTENINGS):
        chosen = _solve(sizes, goal, limited, allowed)
        if chosen is None:
            break
        if (excess := _total(limited, chosen) - budget) <= 0:
            return chosen
        allowed -= 2 * excess
    return fallback


def _solve(sizes: Sequence[int], goal: np.ndarray, limited: np.ndarray, budget: float) -> np.ndarray | None:
    """bool [options]: one of each group, with the least sum of ``goal`` and a sum of ``limited`` within the budget.

    Within it by the solver's tolerance; None where there is none.
    """
    require("scipy", "the assignment of schemes")
    from scipy.optimize import Bounds, LinearConstraint, milp

    count = len(goal)
    one_each = np.zeros((len(sizes), count))
    begin = 0
    for group, size in enumerate(sizes):
        one_each[group, begin : begin + size] = 1
        begin += size
    # The solver's tolerances are absolute: values near 1 keep them far below what one layer changes.
    scale, unit = goal.max() or 1.0, limited.max() or 1.0
    constraints = [LinearConstraint(one_each, 1, 1)]
    if np.isfinite(budget):
        constraints.append(LinearConstraint(limited[None] / unit, -np.inf, budget / unit))
    found = milp(
        goal / scale,
        integrality=np.ones(count),
        bounds=Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    return None if found.x is None else found.x > 0.5
