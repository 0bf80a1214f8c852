"""What a gate found, as data and as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from kdnative.evaluate.intervals import Interval
from kdnative.precision.sensitivity import Sensitivity

__all__ = ["GateError", "GateReport", "Trial", "percent"]


def percent(share: float) -> str:
    """With all its digits: 0.995 as ``99.5%``."""
    return f"{100 * share:.6g}%"


@dataclass(frozen=True)
class Trial:
    """One assignment of schemes, converted and measured.

    Attributes:
        shares: for each scheme the share of the chosen layers' weights that it has.
        bytes: of these weights. predicted: sum of the layers' losses.
        drop: measured on the certifying examples. bound: what the true drop is below, one-sided. passed: bound within
            the budget.
    """

    shares: Mapping[str, float]
    bytes: int
    predicted: float
    drop: float
    bound: float
    passed: bool

    def __str__(self) -> str:
        shares = ", ".join(f"{share:.0%} {name}" for name, share in self.shares.items())
        verdict = "within budget" if self.passed else "not shown to be within the budget"
        return f"{shares}: {self.bytes / 1e6:.2f} MB, drop {self.drop:.4g}, below {self.bound:.4g}: {verdict}"


@dataclass(frozen=True)
class GateReport:
    """How a conversion was chosen, and what it is known to lose.

    Attributes:
        metric: its name. words: what its mean is. max_drop, confidence: of the gate.
        chosen_on, certified_on: numbers of examples, of two parts of the data that share none.
        exact: whether bounds hold for any data, as those of shares do; others are approximate.
        sensitivities: what each group of layers loses in each scheme, on (some of) the first part.
        assignment: the scheme of each layer. trials: in the order in which they were tested.
        per_class, per_slice: drop of the returned model on the second part, with intervals of this confidence.
    """

    metric: str
    words: str
    max_drop: float
    confidence: float
    chosen_on: int
    certified_on: int
    sensitivities: Sequence[Sensitivity] = ()
    assignment: Mapping[str, str] = field(default_factory=dict)
    trials: Sequence[Trial] = ()
    per_class: Mapping[str, Interval] = field(default_factory=dict)
    per_slice: Mapping[str, Interval] = field(default_factory=dict)
    exact: bool = True

    @property
    def accepted(self) -> Trial | None:
        """The trial of the returned model."""
        return next((trial for trial in reversed(self.trials) if trial.passed), None)

    def rows(self) -> list[dict[str, Any]]:
        """What each group of layers loses in each scheme, and which one it got, as the report of a run reads it."""
        found: dict[str, dict[str, Any]] = {}
        for row in self.sensitivities:
            entry = found.setdefault(row.layer, {"layer": row.layer, "weights": row.weights, "losses": {}})
            entry["losses"][row.change] = row.loss
            entry["scheme"] = self.assignment.get(row.names[0])
        return list(found.values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; None for what is not finite."""
        found = {
            "metric": self.metric,
            "words": self.words,
            "max_drop": self.max_drop,
            "confidence": self.confidence,
            "exact": self.exact,
            "chosen_on": self.chosen_on,
            "certified_on": self.certified_on,
            "layers": self.rows(),
            "assignment": dict(self.assignment),
            "trials": [asdict(trial) for trial in self.trials],
            "per_class": {name: found._asdict() for name, found in self.per_class.items()},
            "per_slice": {name: found._asdict() for name, found in self.per_slice.items()},
        }
        return _finite(found)

    def __str__(self) -> str:
        about = "" if self.exact else " (approximate)"
        lines = [
            f"gate: {self.words}, at most {self.max_drop:g} with {percent(self.confidence)} "
            f"confidence{about}; chosen on {self.chosen_on} examples, tested on {self.certified_on} other "
            "examples"
        ]
        lines += [f"  {trial}" for trial in self.trials]
        for name, found in {**self.per_class, **self.per_slice}.items():
            lines.append(f"  {name}: {found.value:.4g} [{found.low:.4g}, {found.high:.4g}], {found.n} examples")
        return "\n".join(lines)


class GateError(ValueError):
    """No model within the budget can be returned; the text says why and what would help.

    Attributes:
        report: what was tried. examples_needed: about how many certifying examples would show that the most exact model
            that was tried is within budget; None where none would, or that is not known.
    """

    def __init__(self, text: str, report: GateReport, examples_needed: int | None = None) -> None:
        super().__init__(text)
        self.report, self.examples_needed = report, examples_needed


def _finite(value: Any) -> Any:
    """The same with None in the place of numbers that JSON can't hold."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
