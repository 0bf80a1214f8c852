"""The final table and the goals, against figures worked out by hand."""

from __future__ import annotations

import pytest

from kdnative.pipeline.schema import Goals
from kdnative.pipeline.summary import build_summary, format_summary
from kdnative.tasks import TASKS

TASK = TASKS["text-classification"]


def estimate(value):
    return {"value": value, "low": value - 0.02, "high": value + 0.02}


def percentiles(value):
    return {"p20": value * 0.9, "p50": value, "p80": value * 1.2}


def evaluated(key, accuracy, size, parameters):
    quality = {"accuracy": estimate(accuracy), "macro_f1": estimate(accuracy), "agreement": estimate(0.9), "ece": 0.05}
    return {key: {"name": key, **quality, "native": quality, "parameters": parameters, "bytes": size}}


def summary(goals, native_accuracy=0.776, native_ms=0.5):
    rows = evaluated("teacher", 0.8, 90_900_000, 22_700_000) | evaluated(
        "native", native_accuracy, 15_150_000, 15_000_000
    )
    timed = {
        "case": {"batch": 1, "tokens": 32, "threads": 2},
        "models": {
            "teacher": {"fp32": percentiles(10.0), "bf16": percentiles(6.0), "native": percentiles(1.0)},
            "native": {"fp32": percentiles(4.0), "bf16": percentiles(2.0), "native": percentiles(native_ms)},
        },
    }
    return build_summary(TASK, goals, {"rows": rows, "native_schemes": "w8a8"}, timed, {"source": "x"}, "w4a8-g64")


GOALS = Goals(kept=0.97, size_ratio=6, speedup_teacher=10, speedup_bf16=4)


def test_goals_met_exactly_at_the_target():
    found = {goal["name"]: goal for goal in summary(GOALS)["goals"]}
    values = [goal["value"] for goal in found.values()]
    assert values == pytest.approx([0.776 / 0.8, 6.0, 20.0, 4.0])
    assert [goal["met"] for goal in found.values()] == [True, True, True, True]


def test_goals_missed_are_marked_missed():
    missed = summary(GOALS, native_accuracy=0.775, native_ms=1.01)
    assert [goal["met"] for goal in missed["goals"]] == [False, True, False, False]
    text = format_summary(missed)
    assert text.count("MISSED") == 3 and text.count("MET ") == 1


def test_goals_not_asked_for_are_left_out():
    assert summary(Goals())["goals"] == []


def test_rows_hold_shares_and_speed_ups():
    teacher, native = summary(GOALS)["rows"]
    assert teacher["kept"] == 1.0 and teacher["speedup"] == pytest.approx(10.0)
    assert native["kept"] == pytest.approx(0.97) and native["speedup"] == pytest.approx(20.0)


def test_a_teacher_that_is_never_right_divides_nothing_by_zero():
    rows = evaluated("teacher", 0.0, 10, 1) | evaluated("native", 0.5, 0, 1)
    timed = {
        "case": {"batch": 1, "tokens": 8, "threads": 1},
        "models": {key: {way: percentiles(1.0) for way in ("fp32", "bf16", "native")} for key in rows},
    }
    found = build_summary(TASK, GOALS, {"rows": rows, "native_schemes": "w8a8"}, timed, {}, "w8a8")
    assert [goal["met"] for goal in found["goals"]] == [None, None, False, False]
    assert "UNKNOWN" in format_summary(found)


def test_the_table_is_aligned_and_fits_a_terminal():
    lines = format_summary(summary(GOALS)).splitlines()
    assert max(map(len, lines)) <= 160
    table = lines[:4]
    assert len({len(line) for line in table}) == 1
    assert "80.0 % [78.0, 82.0]" in table[2] and "90.9" in table[2] and "22.70 M" in table[2]
