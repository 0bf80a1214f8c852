"""Scales and charts against hand computation, and words for figures."""

import math
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdnative.report import words
from kdnative.report.charts import Axis, Bar, Point, Series, bar_chart, xy_chart
from kdnative.report.scales import linear, logarithmic, marked

finite = st.floats(-1e9, 1e9, allow_nan=False)
positive = st.floats(1e-6, 1e9)


def test_linear_scale_ends_on_round_values():
    scale = linear([0.803, 0.861], 100, 0, count=4)
    assert scale.ticks == (0.8, 0.82, 0.84, 0.86, 0.88)
    assert scale(0.8) == pytest.approx(100) and scale(0.88) == pytest.approx(0) and scale(0.84) == pytest.approx(50)


def test_linear_scale_from_zero():
    assert linear([14.3, 90.9], 0, 1, zero=True).ticks == (0, 20, 40, 60, 80, 100)
    assert linear([-3.0, -1.0], 0, 1, zero=True).ticks[-1] == 0


@given(st.lists(finite, min_size=1, max_size=6), st.booleans())
def test_linear_scale_holds_every_value(values, zero):
    scale = linear(values, 0, 100, zero=zero)
    assert 2 <= len(scale.ticks) <= 8
    assert all(-1e-6 <= scale(v) <= 100 + 1e-6 for v in values)
    assert list(scale.ticks) == sorted(set(scale.ticks))


@given(st.lists(positive, min_size=1, max_size=6))
def test_logarithmic_scale_holds_every_value(values):
    for make in (logarithmic, marked):
        scale = make(values, 0, 100)
        assert all(0 <= scale(v) <= 100 for v in values)
        assert all(scale.low <= tick <= scale.high for tick in scale.ticks)
    assert set(marked(values, 0, 1).ticks) == set(values)


def test_logarithmic_scale_is_logarithmic():
    scale = logarithmic([1.0, 100.0], 0, 1)
    assert scale.ticks == (1, 2, 5, 10, 20, 50, 100)
    assert scale(10) == pytest.approx((scale(1) + scale(100)) / 2)
    assert logarithmic([1e-6, 1e6], 0, 1).ticks == pytest.approx([10.0**e for e in range(-6, 7)])


def attributes(svg, css):
    root = ElementTree.fromstring(svg)
    return [element.attrib for element in root.iter() if css in element.get("class", "").split()]


def test_points_and_intervals_are_placed_by_the_scale():
    points = [Point(0, 0, -1, 1), Point(10, 10, 9, 10)]
    svg = xy_chart("t", "d", [Series("", points)], Axis("x"), Axis("y"), width=720, height=380)
    first, second = attributes(svg, "dot")
    assert (float(first["cx"]), float(second["cx"])) == (64, 700)
    ticks = [float(t["y1"]) for t in attributes(svg, "grid")]
    low, high = max(ticks), min(ticks)  # the marks nearest to the bottom and the top: -2.5 and 10
    assert float(second["cy"]) == pytest.approx(high)
    assert float(first["cy"]) == pytest.approx(low + (high - low) * 2.5 / 12.5, abs=0.1)
    assert len(attributes(svg, "interval")) == 2


def test_bubbles_have_the_area_that_was_asked_for_and_small_ones_lie_on_top():
    points = [Point(1, 1, radius=4.0), Point(2, 2, radius=20.0)]
    svg = xy_chart("t", "d", [Series("s", points, joined=False)], Axis("x", "log"), Axis("y"))
    legend, large, small = attributes(svg, "bubble")
    assert (large["r"], small["r"]) == ("20.0", "4.0") and "polyline" not in svg and not attributes(svg, "line")


def test_whole_numbers_only():
    assert linear([1, 3], 0, 1, whole=True).ticks == (1, 2, 3)
    assert linear([1, 40], 0, 1, whole=True).ticks[0] == 0 and linear([1], 0, 1, whole=True).ticks == (0, 1, 2)


def test_bars_are_as_long_as_their_values():
    svg = bar_chart("t", "d", [Bar("a", 2.0, "2"), Bar("b", 1.0, "1"), Bar("c", 0.0, "0"), Bar("d", -1.0, "-1")])
    a, b, c, d = (float(bar["width"]) for bar in attributes(svg, "bar"))
    assert a == pytest.approx(2 * b, abs=0.2) and c == 1 and d == pytest.approx(b, abs=0.2)
    left = [float(bar["x"]) for bar in attributes(svg, "bar")]
    assert left[0] == left[1] and left[3] == pytest.approx(left[0] - d, abs=0.2)


def test_texts_are_escaped_and_charts_are_xml():
    nasty = "<a> & \"b\" 'c'"
    series = [Series(nasty, [Point(1, 1, label=nasty, tip=nasty)])]
    root = ElementTree.fromstring(xy_chart(nasty, nasty, series, Axis(nasty), Axis(nasty)))
    assert root.find("{*}title").text == nasty and root.find("{*}desc").text == nasty
    assert nasty in [g.get("data-tip") for g in root.iter() if g.get("data-tip")]
    ElementTree.fromstring(bar_chart(nasty, nasty, [Bar(nasty, 1, nasty)]))


@pytest.mark.parametrize("make", [lambda: xy_chart("t", "d", [Series("s", [])], Axis("x"), Axis("y")),
                                  lambda: bar_chart("t", "d", [])])  # fmt: skip
def test_nothing_to_draw_is_an_error(make):
    with pytest.raises(ValueError, match="chart 't' has no"):
        make()


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (words.percent(0.9153), "91.5 %"),
        (words.percent(None), "–"),
        (words.estimate({"value": 0.9153, "low": 0.893, "high": 0.934}, True), "91.5 % [89.3, 93.4]"),
        (words.estimate({"value": 0.5, "low": -0.0893, "high": 0.934}, False), "0.500 [-0.089, 0.934]"),
        (words.change({"value": -0.004, "low": -0.0121, "high": 0.0049}, True), "-0.4 [-1.2, +0.5]"),
        (words.change({"value": 0.012, "low": -0.00004, "high": 0.02}, False), "+0.012 [0.000, +0.020]"),
        (words.change({"value": 0.012, "low": 0.0, "high": 0.02}, True, " points"), "+1.2 points [0.0, +2.0]"),
        (words.change(None, True), "–"),
        (words.speedup({"value": 28.2, "low": 27.1, "high": 100.4}), "28.2× [27.1, 100]"),
        (words.speedup({"value": 2.0, "low": None, "high": None}), "2.00×"),
        (words.speedup(None), "–"),
        (words.counted(1, "thread"), "1 thread"),
        (words.counted(1038, "example"), "1,038 examples"),
        (words.measure(0.8364, False), "0.836"),
        (words.measure(0.8364, True, 2), "83.64 %"),
        (words.measure(None, False), "–"),
        (words.estimate(None, True), "–"),
        (words.milliseconds(0.4401), "0.440"),
        (words.milliseconds(1234.5), "1,234"),
        (words.milliseconds(0.0), "0"),
        (words.megabytes(14_300_000), "14.3"),
        (words.kilobytes(1_179_648), "1,179.6"),
        (words.millions(22_713_986), "22.71 M"),
        (words.millions(770), "770"),
        (words.times(12.34), "12.3×"),
        (words.duration(59.94), "59.9 s"),
        (words.duration(61.25), "1 min 01 s"),
        (words.duration(3600), "60 min 00 s"),
        (words.goal_value(0.97, "%"), "97.0 %"),
        (words.goal_value(6.357, "x"), "6.36×"),
        (words.goal_value(15.1, "MB"), "15.1 MB"),
        (words.goal_value(3, ""), "3.00"),
        (words.goal_value(None, "x"), "not measured"),
    ],
)
def test_figures_in_words(made, expected):
    assert made == expected


def test_scale_of_one_value_has_room():
    scale = linear([5.0, 5.0], 0, 100)
    assert 0 < scale(5.0) < 100 and math.isfinite(scale(5.0))
    assert linear([0.0], 0, 100, zero=True).ticks[0] == 0
