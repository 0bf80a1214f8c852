"""What ``kdnative bench quality`` has to reach, computed from its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdnative.bench.quality_figures import FIGURES
from kdnative.bench.quality_ways import MIXED, ROUND
from kdnative.bench.results import goal

Row = Mapping[str, Any]

SECONDS = {"minilm": 10.0, "mpnet": 60.0}
"""Most seconds of a calibration with 128 texts, by a part of the model's name; on two cores."""
EXAMPLES = 128
TIMED = ("smoothquant", "gptq", "awq+gptq")


@dataclass(frozen=True)
class Goal:
    """A figure of one case.

    Attributes:
        task, case: whose.
        ways: each of which is held against it.
        figure: a key of FIGURES.
        limit: what it has to reach.
        of: "value", "to_baseline" (the ratio of errors or the difference of shares to round to nearest) or "to_float"
            (accuracy less that of the float model).
    """

    task: str
    case: str
    ways: tuple[str, ...]
    figure: str
    limit: float
    of: str = "value"

    @property
    def at_least(self) -> bool:
        return not FIGURES[self.figure].error

    @property
    def text(self) -> str:
        """As ``"1 - cosine <= 0.4 of rtn"``."""
        name, sign = FIGURES[self.figure].name, ">=" if self.at_least else "<="
        if self.of == "to_float":
            return f"{name} {sign} fp32 {100 * self.limit:+g} points"
        if self.of == "to_baseline":
            return f"{name} {sign} {ROUND} {100 * self.limit:+g} points" if self.at_least else (
                f"{name} {sign} {self.limit:g} of {ROUND}"
            )  # fmt: skip
        return f"{name} {sign} {100 * self.limit:g} %" if self.at_least else f"{name} {sign} {self.limit:g}"


_EIGHT, _FOUR, _ZEROS = ("smoothquant", "awq+gptq"), ("gptq", "awq+gptq"), ("sparsegpt",)
GOALS = (
    Goal("embedder", "w8a8", _EIGHT, "distance", 0.0015),
    Goal("embedder", "w8a8", _EIGHT, "neighbour", 0.95),
    Goal("classifier", "w8a8", _EIGHT, "kl", 0.0005),
    Goal("embedder", "w4a8-g64", _FOUR, "distance", 0.40, "to_baseline"),
    Goal("embedder", "w4a8-g64", _FOUR, "neighbour", 0.10, "to_baseline"),
    Goal("embedder", "w4a8-g64", (MIXED,), "distance", 0.30, "to_baseline"),
    Goal("classifier", "w4a8-g64", _FOUR, "kl", 0.45, "to_baseline"),
    Goal("classifier", "w2a8-g32", _FOUR, "kl", 0.10),
    Goal("classifier", "w2a8-g32", _FOUR, "accuracy", -0.02, "to_float"),
    Goal("classifier", "2:4", _ZEROS, "accuracy", -0.015, "to_float"),
    Goal("classifier", "4x1", _ZEROS, "accuracy", -0.03, "to_float"),
)


def goals(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every goal that the rows can answer, as `kdnative.bench.results.goal` has it, with "model", "case" and "way"."""
    found = []
    for row in result["rows"]:
        if "figures" not in row:
            continue
        named = {"model": row["model"], "case": row["case"], "way": row["way"]}
        found += [{**named, **_answer(wanted, row, result)} for wanted in GOALS if _is_of(wanted, row)]
        found += [{**named, **one} for one in _in_time(row)]
    return [*found, *_no_worse_than_peers(result["rows"])]


def _is_of(wanted: Goal, row: Row) -> bool:
    return (wanted.task, wanted.case) == (row["task"], row["case"]) and row["way"] in wanted.ways


def _answer(wanted: Goal, row: Row, result: Mapping[str, Any]) -> dict[str, Any]:
    if wanted.of == "to_baseline":
        value = row["to_baseline"][wanted.figure][0]
    else:
        value = row["figures"][wanted.figure][0]
    if wanted.of == "to_float":
        value -= result["models"][row["model"]]["accuracy"]
    return goal(wanted.text, value, wanted.limit, at_least=wanted.at_least)


def _in_time(row: Row) -> Iterator[dict[str, Any]]:
    """With the peak of memory beside it, for which there is no limit."""
    if row["way"] not in TIMED or row["texts"] != EXAMPLES:
        return
    for part, seconds in SECONDS.items():
        if part in row["model"].lower():
            found = goal(f"{EXAMPLES} texts in <= {seconds:g} s", row["seconds"], seconds, at_least=False)
            yield {**found, "peak": row["peak"]}


def _no_worse_than_peers(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """In each case with peers: the error of its way of ours, over the best peer's; the interval has to reach 1."""
    found = []
    cases = dict.fromkeys((row["model"], row["task"], row["case"]) for row in rows)
    for model, task, case in cases:
        measured = [
            row for row in rows if (row["model"], row["task"], row["case"]) == (model, task, case) and "to_peer" in row
        ]
        if measured:
            (own,) = measured
            text = f"{FIGURES[own['deciding']].name} of the best peer ({own['peer']}), lower bound <= 1"
            low = own["to_peer"][1]
            named = {"model": model, "case": case, "way": own["way"]}
            found.append({**named, **goal(text, low, 1.0, at_least=False)})
    return found
