"""From the safest assignment to the smallest that is shown to be within the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from kdnative.precision.assigning import Assignment
from kdnative.precision.conversions import Conversions
from kdnative.precision.gate_report import GateReport, Trial, percent
from kdnative.precision.judging import Drop, Drops, Judge
from kdnative.precision.metrics import Answers

__all__ = ["Paths", "Search"]


@dataclass(frozen=True)
class Paths:
    """Assignments by what they lose, least first.

    Attributes:
        mixed: with every layer in one of the schemes. floats: that leave the worst layers in float.
    """

    mixed: Sequence[Assignment]
    floats: Sequence[Assignment]


@dataclass
class Search:
    """Tests assignments in a fixed order, each at the full confidence, and ends at the first failure.

    Args:
        conversions: how to convert. run: a model's answers to the examples of these numbers.
        judge_of: compares with the float model's answers. max_drop: the budget. say: takes lines of progress.
    """

    conversions: Conversions
    run: Callable[[nn.Module, np.ndarray], Answers]
    judge_of: Callable[[Answers], Judge]
    max_drop: float
    say: Callable[[str], None]
    trials: list[Trial] = field(default_factory=list)
    last: Drop | None = None

    def find(
        self, paths: Paths, choosing: np.ndarray, certifying: np.ndarray
    ) -> tuple[Assignment, Answers | Drops] | None:
        """The last assignment that passed, and what its model answered or lost; None where the first one fails.

        Whether it begins with assignments that leave layers in float is decided on the choosing examples: the order of
        tests must not depend on those that they are made with.
        """
        model = self.conversions.model
        self.judge = self.judge_of(self.run(model, certifying))
        sequence = list(paths.mixed)
        if paths.floats and self._seems_too_much(sequence[0], choosing, len(certifying)):
            sequence = [*paths.floats, *sequence]
        accepted = None
        for assignment in sequence:
            answered = self.judge.reduced(self.run(self.conversions.of_assignment(assignment), certifying))
            self.last = self.judge.drop(answered)
            passed = self.last.bound <= self.max_drop
            trial = Trial(
                assignment.shares(), assignment.bytes, assignment.loss, self.last.value, self.last.bound, passed
            )
            self.trials.append(trial)
            self.say(str(trial))
            if not passed:
                break
            accepted = assignment, answered
        return accepted

    def _seems_too_much(self, assignment: Assignment, choosing: np.ndarray, certifying: int) -> bool:
        """Whether so many certifying examples are unlikely to show that an assignment keeps the budget."""
        first = self.judge_of(self.run(self.conversions.model, choosing))
        guess = first.drop(self.run(self.conversions.of_assignment(assignment), choosing))
        too_much = first.foreseen(guess, certifying) > self.max_drop
        if too_much:
            self.say(
                f"all layers in the scheme with the most bits seem to lose too much ({guess.value:.4g}), so some "
                "stay in float"
            )
        return too_much

    def refusal(self, report: GateReport, total: Callable[[int], int]) -> tuple[str, GateReport, int | None]:
        """Why there is no model, for a `GateError`.

        Args:
            total: how many examples there must be for so many to certify.
        """
        assert self.last is not None
        needed = self.judge.examples_needed(self.last, self.max_drop)
        seen = (
            f"the conversion with the smallest expected loss has {report.words} {self.last.value:.4g}, below "
            f"{self.last.bound:.4g} with {percent(report.confidence)} confidence, on {self.last.n} examples"
        )
        if needed is None:
            text = (
                f"the budget of {self.max_drop:g} is exceeded: {seen}; no other conversion was tested. Raise "
                "max_drop, give schemes with more bits (a16), keep the worst layers in float with keep=, or "
                "give calibration data that is closer to this data."
            )
        else:
            text = (
                f"a budget of {self.max_drop:g} can't be shown with {total(self.last.n)} examples: {seen}; it "
                f"needs about {total(needed)}."
            )
        return f"{text} The model is unchanged", report, needed
