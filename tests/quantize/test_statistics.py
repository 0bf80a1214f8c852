"""Sums over batches, against the formula in float64."""

import pytest
import torch

from kdnative.quantize.statistics import SAMPLE_ROWS, STATISTICS, Accumulator


def correlated(rows, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator)
    return torch.randn(rows, size, generator=generator) @ mixing


def taken_in(x, keys, cuts, order=None, needs=STATISTICS):
    sums = Accumulator(x.shape[1], needs)
    parts = list(zip(x.split(cuts), keys.split(cuts), strict=True))
    for i in order or range(len(parts)):
        assert sums.add(*parts[i])
    return sums.result()


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (1, 17), (700, 31), (1500, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_formula(rows, size, dtype):
    x = correlated(rows, size).to(dtype)
    keys = torch.randperm(rows)
    found, exact = taken_in(x, keys, 100), x.double()
    assert found.rows == rows
    moment = exact.t() @ exact / rows
    torch.testing.assert_close(found.second_moment.double(), moment, rtol=1e-5, atol=1e-5 * float(moment.abs().max()))
    torch.testing.assert_close(found.mean_square.double(), exact.square().mean(0), rtol=1e-6, atol=0)
    assert torch.equal(found.largest, x.abs().amax(0).float())
    assert torch.equal(found.sample, x[keys.argsort()[:SAMPLE_ROWS]].float())


def test_order_and_cuts_of_the_batches_make_no_difference():
    x, keys = correlated(2000, 48), torch.randperm(2000)
    whole = taken_in(x, keys, 2000)
    for found in (taken_in(x, keys, 7), taken_in(x, keys, 100, order=torch.randperm(20).tolist())):
        assert torch.equal(found.sample, whole.sample) and torch.equal(found.largest, whole.largest)
        scale = float(whole.second_moment.abs().max())
        torch.testing.assert_close(found.second_moment, whole.second_moment, rtol=2e-6, atol=2e-6 * scale)
        torch.testing.assert_close(found.mean_square, whole.mean_square, rtol=2e-6, atol=0)


def test_many_small_batches_lose_nothing():
    """A sum in float32 would stand still at 2^24."""
    sums = Accumulator(1, ("second_moment",))
    sums.add(torch.full((1, 1), 2.0**13), torch.zeros(1, dtype=torch.int64))
    for _ in range(300):
        sums.add(torch.ones(1, 1), torch.zeros(1, dtype=torch.int64))
    mean = torch.tensor((2.0**26 + 300) / 301)
    assert sums.result().second_moment == mean != torch.tensor(2.0**26 / 301)
    assert sums.result().mean_square == mean


def test_only_what_is_needed_is_held():
    found = taken_in(correlated(5, 3), torch.arange(5), 2, needs=("largest",))
    assert found.second_moment is None and found.sample is None and found.largest is not None
    assert Accumulator.bytes_of(1000, ("largest",)) < 20_000 < 8_000_000 < Accumulator.bytes_of(1000, STATISTICS)
    with pytest.raises(ValueError, match="there are no statistics median"):
        Accumulator(3, ("median",))


def test_no_rows_and_dead_inputs():
    sums = Accumulator(4, STATISTICS)
    assert sums.add(torch.empty(0, 4), torch.empty(0, dtype=torch.int64))
    assert sums.result().rows == 0 and sums.result().sample.shape == (0, 4)
    x = torch.tensor([[1.0, 0, -3, 0], [2, 0, 1, 0]])
    assert sums.add(x, torch.arange(2))
    assert sums.result().largest.tolist() == [2, 0, 3, 0]
    assert sums.result().mean_square.tolist() == [2.5, 0, 5, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(value):
    sums, x = Accumulator(3, STATISTICS), torch.ones(4, 3)
    assert sums.add(x, torch.arange(4))
    x[2, 1] = value
    assert not sums.add(x, torch.arange(4))
    assert sums.result().rows == 4 and sums.result().largest.tolist() == [1, 1, 1]


def test_rows_that_are_held_out():
    x, keys = correlated(1500, 8), torch.randperm(1500)
    held = torch.arange(1500) % 2 == 0
    sums, alone = Accumulator(8, STATISTICS), Accumulator(8, STATISTICS)
    assert all(sums.add(*parts) for parts in zip(x.split(70), keys.split(70), held.split(70), strict=True))
    assert sums.add(x[:1] * 100, keys[:1] + 1500, torch.tensor([True]))
    alone.add(x[~held], keys[~held])
    found, right = sums.result(), alone.result()
    assert found.rows == 750 and torch.equal(found.largest, right.largest)
    torch.testing.assert_close(found.second_moment, right.second_moment, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.sample, right.sample) and len(right.held) == 0
    assert torch.equal(found.held, x[held][keys[held].argsort()[:SAMPLE_ROWS]])
    assert not sums.add(x[:1] * torch.nan, keys[:1], torch.tensor([True]))


def test_huge_values():
    x = torch.full((3, 4), 1.5e19)
    found = taken_in(x, torch.arange(3), 1)
    torch.testing.assert_close(found.second_moment, torch.full((4, 4), 2.25e38))
    assert torch.isfinite(taken_in(x, torch.arange(3), 3, needs=("mean_square",)).mean_square).all()


def test_not_contiguous():
    x = correlated(3, 50).t()
    found = taken_in(x, torch.arange(50), 20)
    torch.testing.assert_close(found.second_moment, x.t() @ x / 50, rtol=1e-4, atol=1e-4)
