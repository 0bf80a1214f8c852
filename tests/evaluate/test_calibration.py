"""Reliability and calibration errors against hand computation and simulation."""

from __future__ import annotations

import numpy as np
import pytest

from kdnative.evaluate import Bin, calibration_error, chance_error, reliability


def test_bins_by_hand():
    confidence, hits = np.array([0.5, 0.55, 0.6, 0.61, 1.0]), np.array([True, False, True, True, False])
    found = reliability(confidence, hits, bins=10)  # (0.4, 0.5], (0.5, 0.6], (0.6, 0.7] and (0.9, 1]
    expected = [Bin(0.5, 1.0, 1), Bin(0.575, 0.5, 2), Bin(0.61, 1.0, 1), Bin(1.0, 0.0, 1)]
    assert [tuple(b) for b in found] == [pytest.approx(tuple(b)) for b in expected]
    gaps = 0.5 + 2 * 0.075 + 0.39 + 1.0
    assert calibration_error(confidence, hits, bins=10) == pytest.approx(gaps / 5)


def test_chance_holds_95_of_100_calibrated_classifiers():
    generator = np.random.default_rng(5)
    confidence = generator.uniform(0.5, 1.0, 300)
    most = chance_error(confidence)
    errors = [calibration_error(confidence, generator.random(300) < confidence) for _ in range(1000)]
    assert np.mean(np.array(errors) <= most) == pytest.approx(0.95, abs=0.025)


def test_more_examples_leave_less_to_chance():
    assert chance_error(np.full(4000, 0.7)) < 0.02 < chance_error(np.full(40, 0.7))


@pytest.mark.parametrize("measure", [reliability, calibration_error])
def test_no_bins(measure):
    with pytest.raises(ValueError, match="bins=0: at least 1"):
        measure(np.array([0.5]), np.array([True]), bins=0)
