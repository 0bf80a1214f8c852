"""Speed-ups: the ratio of medians, and an interval that holds what it promises."""

import numpy as np
import pytest

from kdnative.machine.speedup import LEAST_SAMPLES, Speedup, factors, speedup


def test_it_is_the_ratio_of_the_medians_and_not_the_median_of_the_ratios():
    found = speedup([3.0, 8.0, 10.0], [1.0, 2.0, 5.0])
    assert found.value == 8.0 / 2.0  # the median of 3, 4 and 2 is 3
    assert found == Speedup(4.0)  # and too few for an interval


def test_samples_without_spread_have_no_uncertainty():
    assert speedup([2.0] * 9, [1.0] * 9) == Speedup(2.0, 2.0, 2.0)
    assert str(Speedup(2.0, 1.9, 2.14)) == "2.00x [1.90, 2.14]" and str(Speedup(2.0)) == "2.00x"


def test_too_few_samples_have_no_interval():
    times = [1.0, 1.1, 0.9, 1.2, 1.0]
    assert speedup(times[: LEAST_SAMPLES - 1], times[: LEAST_SAMPLES - 1]) == Speedup(1.0)
    found = speedup([2 * t for t in times], times[::-1])
    assert None is not found.low < found.value < found.high


def test_the_factors_multiply_to_the_whole():
    total, first, second = factors([12.0] * 5, [4.0] * 5, [1.0] * 5)
    assert (total.value, first.value, second.value) == (12.0, 3.0, 4.0) and total.low == total.high == 12.0


def test_a_disturbance_that_hits_whole_rounds_cancels_out():
    fast = np.array([1.0, 1.1, 5.0, 1.2, 7.0, 1.0, 1.3, 9.0, 1.1])
    found = speedup(2 * fast, fast)
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)


def test_the_interval_holds_the_true_ratio_about_as_often_as_it_says():
    draw = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        slow, fast = 3.0 * draw.lognormal(0, 0.1, 15), draw.lognormal(0, 0.1, 15)
        found = speedup(slow, fast)
        held += found.low <= 3.0 <= found.high
    assert 0.88 <= held / 200 <= 0.995


def test_samples_of_different_runs_are_refused():
    for slow, fast in (([1.0, 2.0], [1.0]), ([], [])):
        with pytest.raises(ValueError, match="not taken together"):
            speedup(slow, fast)
