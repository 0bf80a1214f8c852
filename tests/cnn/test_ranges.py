"""What calibration sees of maps, and the codes that follow from it."""

import math

import pytest
import torch

from kdnative.cnn.floats import FloatGraph
from kdnative.cnn.integer_weights import integer_weight
from kdnative.cnn.observing import BINS, Histogram, Observer
from kdnative.cnn.ranges import GATE, Observations, ranges_of
from kdnative.cnn.spans import METHODS, flat_ends, range_of, span_of
from kdnative.formats.convnet.graph import (
    Add,
    Channels,
    Concat,
    Conv,
    Ending,
    Input,
    Lookup,
    Multiply,
    Pool,
    Range,
)

DRAWN = torch.Generator().manual_seed(7)


def values(*shape):
    return torch.randn(shape, generator=DRAWN)


# -- what is seen ------------------------------------------------------------------------------------------------------


def observed(parts, **options):
    observer = Observer(**options)
    for part in parts:
        assert observer.add(part)
    return observer


def test_neither_order_nor_cut_of_batches_plays_a_part():
    x = torch.cat([values(6, 5, 3, 3), 1000 * values(1, 5, 3, 3), 1e-4 * values(4, 5, 3, 3)])
    whole = observed([x], histogram=True, channels=5)
    for parts in (x.split(1), x.flip(0).split(3), (x[6:], x[:6])):
        other = observed(parts, histogram=True, channels=5)
        assert (other.lowest, other.highest) == (whole.lowest, whole.highest)
        assert other.histogram.exponent == whole.histogram.exponent
        assert torch.equal(other.histogram.counts, whole.histogram.counts)
        assert torch.equal(other.channel_lowest, whole.channel_lowest)
        assert torch.equal(other.channel_highest, whole.channel_highest)


@pytest.mark.parametrize("scale", [1e-20, 0.37, 1.0, 4096.0, 1e20])
def test_a_histogram_counts_values_in_bins_of_a_power_of_two(scale):
    x = (values(997) * scale).to(torch.float32)
    histogram = Histogram()
    for part in x.split(100):
        histogram.add(part)
    width = 2.0**histogram.exponent
    assert x.abs().max() < BINS * width <= 2 * x.abs().max() * (1 + 1e-6)
    wanted = torch.zeros(2 * BINS, dtype=torch.int64)
    for value in x.tolist():
        wanted[math.floor(value / width) + BINS] += 1
    assert torch.equal(histogram.counts, wanted)


def test_limits_of_channels():
    x = values(4, 3, 5, 7)
    observer = observed(x.split(3), channels=3)
    assert torch.equal(observer.channel_lowest, x.amin((0, 2, 3)))
    assert torch.equal(observer.channel_highest, x.amax((0, 2, 3)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_added(bad):
    observer, x = Observer(histogram=True), values(2, 3, 1, 1)
    observer.add(x)
    worse = x.clone()
    worse[1, 2] = bad
    assert not observer.add(worse)
    assert observer.highest == float(x.max()) and observer.histogram.counts.sum() == 6


def test_nothing_seen():
    observer = Observer()
    assert observer.add(torch.empty(0, 3, 4, 4)) and not observer.seen
    with pytest.raises(ValueError, match="no value"):
        span_of(observer, "minmax")


# -- spans -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("low, high", [(0.0, 6.0), (-3.0, 0.0), (-0.3, 7.1), (0.5, 2.0), (-2.0, -1.0)])
def test_smallest_and_largest_with_zero_between(low, high):
    observer = observed([torch.tensor([[low, high]])])
    assert span_of(observer, "minmax") == pytest.approx((min(low, 0), max(high, 0)))


def test_percentile_against_sorted_values():
    x = values(200_000)
    low, high = span_of(observed([x[None]], histogram=True), "percentile")
    ordered = x.sort().values
    width = 2 * float(x.abs().max()) / BINS
    assert low == pytest.approx(float(ordered[20]), abs=width) and high == pytest.approx(float(ordered[-21]), abs=width)
    assert low > float(x.min()) and high < float(x.max())


def error_of(x, low, high):
    scale = (high - low) / 255
    zero = round(-low / scale)
    return float((((x / scale + zero).round().clamp(0, 255) - zero) * scale - x).pow(2).sum())


@pytest.mark.parametrize("sides", ["both", "above"])
def test_least_squares_against_a_search_over_all_values(sides):
    x = values(100_000).to(torch.float64)
    x[:2] = torch.tensor([-8.0, 8.0])  # not worth a wider step
    x = x.relu() if sides == "above" else x
    low, high = span_of(observed([x[None]], histogram=True), "mse")
    top, bottom = float(x.max()), float(x.min())
    cuts = [i / 20 for i in range(6, 21)]
    least = min(error_of(x, b * bottom, a * top) for a in cuts for b in (cuts if bottom < 0 else [1.0]))
    assert error_of(x, low, high) <= least * 1.05 < error_of(x, bottom, top)


@pytest.mark.parametrize("method", METHODS)
def test_maps_of_zeros_and_of_one_value(method):
    assert span_of(observed([torch.zeros(1, 4)], histogram=True), method) == (0, 0)
    assert range_of((0.0, 0.0)) == Range(1.0, 0)
    low, high = span_of(observed([torch.full((1, 4), 3.0)], histogram=True), method)
    assert low == 0 and high == pytest.approx(3.0, rel=1e-3)


@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-1.0, 0.0), (-0.001, 5.0), (-5.0, 0.001), (-1.3, 2.9), (-1e8, 3e9)])
def test_a_range_holds_its_span_and_zero_exactly(low, high):
    codes = range_of((low, high))
    assert 0 <= codes.zero_point <= 255 and isinstance(codes.zero_point, int)
    ends = [(q - codes.zero_point) * codes.scale for q in (0, 255)]
    assert ends[0] <= low + codes.scale * 0.501 and ends[1] >= high - codes.scale * 0.501
    assert codes.zero_point == 0 if low == 0 else True
    assert codes.scale == float(torch.tensor(codes.scale, dtype=torch.float32))


def test_flat_ends_are_cut():
    step = 12 / 255
    low, high = flat_ends(torch.nn.functional.silu, (-40.0, 12.0), step)
    assert 12 - step <= high <= 12 and -8 < low < -4 and abs(low / (1 + math.exp(-low))) <= step / 2 * 1.001
    assert flat_ends(torch.sigmoid, (-30.0, 30.0), 1 / 255) == pytest.approx((-6.23, 6.23), abs=0.02)
    assert flat_ends(torch.tanh, (-0.5, 0.5), 1 / 255) == pytest.approx((-0.5, 0.5), abs=0.01)
    assert flat_ends(torch.tanh, (0.0, 0.0), 1 / 255) == (0.0, 0.0)


# -- ranges of a network -----------------------------------------------------------------------------------------------


def ranges(nodes, spans, outputs, before=(), method="minmax"):
    graph = FloatGraph(tuple(nodes), tuple(outputs), (False,) * len(outputs))
    seen = Observations([observed([torch.tensor([span])], histogram=True) for span in spans])
    seen.before = {number: observed([torch.tensor([span])], histogram=True) for number, span in before}
    return ranges_of(graph, seen, method)


def test_what_moves_values_keeps_their_range_and_the_last_convolution_gives_real_numbers():
    nodes = [
        Input("input", (), None, 3),
        Conv("a", (0,), None, 4, ending=Ending("relu")),
        Pool("pool", (1,), None, 4, kind="max"),
        Channels("half", (2,), None, 2, order=(1, 3)),
        Pool("mean", (3,), None, 2, kind="average"),
        Conv("b", (4,), None, 5),
    ]
    found = ranges(nodes, [(-2.0, 2.5), (0.0, 8.0), (0.5, 4.0), (0.5, 3.0), (0.6, 2.0), (-9.0, 9.0)], [5]).results
    assert found[1] == range_of((0.0, 8.0)) == found[2] == found[3]
    assert found[4] == range_of((0.0, 2.0)) and found[5] is None


@pytest.mark.parametrize(
    "last", [Conv("b", (1,), None, 4, ending=Ending("relu")), Add("b", (0, 1), None, 4), Conv("b", (1, 0), None, 4)]
)
def test_only_plain_convolutions_give_real_numbers(last):
    nodes = [Input("input", (), None, 4), Conv("a", (0,), None, 4), last]
    assert ranges(nodes, [(0.0, 1.0), (0.0, 2.0), (-3.0, 3.0)], [2]).results[2] == range_of((-3.0, 3.0))
    assert ranges(nodes, [(0.0, 1.0), (0.0, 2.0), (-3.0, 3.0)], [1, 2]).results[1] == range_of((0.0, 2.0))


def side_by_side(*spans):
    nodes = [Input("input", (), None, 2)]
    nodes += [Conv(f"c{i}", (0,), None, 2) for i in range(len(spans))]
    nodes += [Concat("all", tuple(range(1, len(nodes))), None, 2 * len(spans)), Lookup("end", (len(nodes),), None, 2)]
    whole = min(low for low, _ in spans), max(high for _, high in spans)
    return ranges(nodes, [(0.0, 1.0), *spans, whole, whole], [len(nodes) - 1]).results


def test_maps_side_by_side_share_a_range_where_that_costs_little():
    found = side_by_side((0.0, 4.0), (0.0, 3.0), (-0.5, 4.0))
    assert found[1] == found[2] == found[3] == found[4] == range_of((-0.5, 4.0))
    found = side_by_side((0.0, 8.0), (0.0, 1.0))
    assert found[1] == found[3] == range_of((0.0, 8.0)) and found[2] == range_of((0.0, 1.0))


def test_gates_have_all_codes_within_0_and_1_and_tables_a_range_before_them():
    nodes = [
        Input("input", (), None, 2),
        Pool("mean", (0,), None, 2, kind="average", adaptive=True),
        Conv("gate", (1,), None, 2, ending=Ending("sigmoid")),
        Multiply("all", (0, 2), None, 2),
        Conv("b", (3,), None, 2, ending=Ending("silu")),
        Conv("c", (4,), None, 2, ending=Ending("hard_swish")),
    ]
    spans = [(0.0, 1.0), (0.0, 1.0), (0.2, 0.7), (0.0, 0.6), (-0.278, 10.0), (-0.375, 3.0)]
    found = ranges(nodes, spans, [5], before=[(2, (-20.0, 20.0)), (4, (-30.0, 10.0))])
    assert found.results[2] == GATE == Range(1 / 255, 0)
    assert found.before[2].scale < 13 / 255 and found.before[4].scale < 17 / 255
    assert found.before[4].scale * (255 - found.before[4].zero_point) == pytest.approx(10, abs=0.04)
    assert set(found.before) == {2, 4}


def test_images_are_not_cut():
    picture = torch.cat([torch.full((1, 99_999), 0.1), torch.full((1, 1), 40.0)], 1)
    nodes = [Input("input", (), None, 1), Conv("a", (0,), None, 1, ending=Ending("relu"))]
    seen = Observations([observed([picture], histogram=True) for _ in nodes])
    found = ranges_of(FloatGraph(tuple(nodes), (1,), (False,)), seen, "percentile").results
    assert found[0] == range_of((0.0, 40.0)) and found[1].scale < 1


# -- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (7, 3, 3, 3), (24, 1, 5, 5), (116, 58, 1, 1)])
def test_weights_are_rounded_by_output_channel(shape):
    weight, bias = values(*shape).to(torch.float64), values(shape[0])
    made = integer_weight(weight, bias)
    assert made.q.dtype == torch.int8 and made.q.shape == weight.shape and int(made.q.abs().max()) == 127
    assert made.q.flatten(1).abs().amax(1).eq(127).all()
    error = (made.dequantize().to(torch.float64) - weight).flatten(1).abs().amax(1)
    assert (error <= made.scale.to(torch.float64) * 0.5001).all() and torch.equal(made.bias, bias)


def test_channels_of_zeros_and_single_weights():
    weight = torch.tensor([0.0, -0.37, 1e-38, 5.0]).reshape(4, 1, 1, 1)
    made = integer_weight(weight, torch.zeros(4))
    assert made.q.reshape(-1).tolist() == [0, -127, 0, 127]
    assert torch.isfinite(made.scale).all() and (made.scale > 0).all()
