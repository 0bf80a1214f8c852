"""The final table, the goals and the split of the gain, against figures worked out by hand."""

from __future__ import annotations

import pytest

from kdnative.pipeline.schema import Goals
from kdnative.pipeline.summary_text import format_summary
from tests.pipeline.figures import estimate, evaluated, step, summary, timed


def goals(found):
    return [(goal["met"], goal["value"]) for goal in found["goals"]]


def test_goals_are_met_where_the_whole_interval_is():
    found = summary(evaluated(kept=estimate(0.99, 0.015)))
    assert goals(found) == [(True, 0.99), (True, 6.0), (True, pytest.approx(20.0)), (True, pytest.approx(4.0))]


def test_goals_are_missed_where_none_of_the_interval_is():
    found = summary(evaluated(kept=estimate(0.95, 0.015)), timed(native_ms=1.01))
    assert [met for met, _ in goals(found)] == [False, True, False, False]
    text = format_summary(found)
    assert text.count("MISSED") == 3 and text.count("MET ") == 1
    assert "95.0 % [93.5 %, 96.5 %] (goal: at least 97.0 %; 80.0 % of 80.0 %)" in text


def test_goals_in_between_are_open():
    found = summary(evaluated(kept=estimate(0.975, 0.01)), timed(native_ms=0.99, wobble=0.02))
    assert [met for met, _ in goals(found)] == [None, True, True, False]  # same wobble in each round: an exact ratio
    line = next(line for line in format_summary(found).splitlines() if line.startswith("OPEN"))
    assert "97.5 % [96.5 %, 98.5 %] (goal: at least 97.0 %; 1,038 examples can't decide it;" in line


def test_an_interval_of_interleaved_samples_decides_on_latency():
    times = timed(native_ms=1.0)
    times["models"]["native"]["native"]["samples"] = [0.0009, 0.00095, 0.001, 0.00105, 0.0011]
    goal = summary(times=times, goals=Goals(speedup_teacher=10))["goals"][0]
    assert goal["met"] is None and goal["low"] < 10 < goal["high"] and goal["of"] == "5 rounds"
    assert goal["value"] == pytest.approx(10) and goal["detail"] == "10 ms to 1 ms"


def test_a_goal_without_an_interval_is_open():
    times = timed(native_ms=1.0)
    for ways in times["models"].values():
        for way in ways.values():
            way["samples"] = way["samples"][:2]
    found = summary(times=times, goals=Goals(speedup_teacher=3))
    assert found["goals"][0]["met"] is None and found["goals"][0]["value"] == pytest.approx(10)
    line = next(line for line in format_summary(found).splitlines() if line.startswith("OPEN"))
    assert "in torch fp32: 10.00x (goal: at least 3x; 2 rounds can't decide it;" in line


def test_goals_not_asked_for_are_left_out():
    assert summary(goals=Goals())["goals"] == []


def test_a_teacher_that_is_never_right_leaves_nothing_to_keep():
    evaluation = evaluated()
    evaluation["rows"]["native"].update(kept=None, bytes=0)
    found = summary(evaluation)
    assert goals(found)[:2] == [(None, None), (None, None)]
    assert format_summary(found).count("UNKNOWN") == 2


def test_rows_hold_the_difference_and_the_speed_up():
    teacher, distilled, native = summary()["rows"]
    assert teacher["speedup"]["value"] == pytest.approx(10.0) and native["speedup"]["value"] == pytest.approx(20.0)
    assert distilled["difference"] == estimate(0.79 - 0.8) and "samples" not in native["latency"]["native"]


def test_the_gain_is_the_product_of_a_smaller_model_and_native_kernels():
    gain = summary()["gain"]
    assert gain["smaller_model"]["value"] == pytest.approx(10 / 4)
    assert gain["native_kernels"]["value"] == pytest.approx(4 / 0.5)
    assert gain["total"]["value"] == pytest.approx(gain["smaller_model"]["value"] * gain["native_kernels"]["value"])
    assert "20.00x [20.00, 20.00] = smaller model 2.50x [2.50, 2.50] x native kernels 8.00x" in format_summary(
        summary()
    )


def test_the_table_is_aligned_and_fits_a_terminal():
    lines = format_summary(summary(evaluated(step()))).splitlines()
    table = lines[:5]
    assert len({len(line) for line in table}) == 1 and len(table[0]) <= 160
    assert "80.0 % [78.0, 82.0]" in table[2] and "90.9" in table[2] and "22.70 M" in table[2]
    assert "-1.0 [-3.0, +1.0]" in table[3]
    assert "texts: 500 labelled, 7,509 unlabelled, 1,000 for validation, 1,038 for the test" in lines
