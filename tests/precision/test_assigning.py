"""The integer program against trying everything."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from kdnative.precision import Sensitivity, assign, measure_latency
from kdnative.precision.assigning import FLOAT
from kdnative.precision.path import float_path, mixed_path

BYTES = {"w2a8-g32": 3, "w4a8-g64": 5, "w8a8": 9}


def row(name, change, loss, weights=1000, ms=None, bytes=None):
    size = weights * BYTES.get(change, 36) // 9 if bytes is None else bytes
    return Sensitivity((name,), name, change, weights, size, loss, ms=ms)


def random_rows(seed, groups=6):
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(groups):
        weights, worst = int(generator.integers(1, 5)) * 999, 10 ** generator.uniform(-6, -2)
        for change, part in (("w2a8-g32", 1), ("w4a8-g64", 0.1), ("w8a8", 0.01)):
            if change == "w8a8" or generator.random() < 0.8:
                loss = worst * part * generator.uniform(0.3, 3)
                rows.append(row(f"layer{index}", change, loss, weights, ms=float(generator.uniform(0.1, 1))))
    return rows


def everything(rows):
    groups = {}
    for each in rows:
        groups.setdefault(each.names, []).append(each)
    return list(itertools.product(*groups.values()))


def total(rows, name):
    return sum(getattr(each, name) for each in rows)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("limited", ["bytes", "ms", "loss"])
def test_it_finds_what_trying_everything_finds(seed, limited):
    rows = random_rows(seed)
    all_of_them = everything(rows)
    smallest, largest = (f(total(each, limited) for each in all_of_them) for f in (min, max))
    goal = "loss" if limited != "loss" else "bytes"
    for share in (0, 0.1, 0.5, 0.9):
        budget = smallest + share * (largest - smallest)
        allowed = [each for each in all_of_them if total(each, limited) <= budget * (1 + 1e-9)]
        best = min(total(each, goal) for each in allowed)
        found = assign(rows, **{f"budget_{limited}": budget})
        assert total(found.rows, limited) <= budget * (1 + 1e-8)
        assert total(found.rows, goal) == pytest.approx(best, rel=1e-6)
        if limited == "loss":  # of those that cost as little the one that loses least
            least = min(total(each, "loss") for each in allowed if total(each, "bytes") == best)
            assert found.loss == pytest.approx(least, rel=1e-6)


def test_milliseconds_can_be_what_is_minimised():
    rows = random_rows(3)
    fastest = min(total(each, "ms") for each in everything(rows))
    found = assign(rows, budget_loss=math.inf, minimise="ms")
    assert found.ms == pytest.approx(fastest)


def test_an_assignment_is_a_mapping_of_names():
    pair = Sensitivity(("q", "k"), "{q,k}", "w8a8", 300, 300, 0.1)
    found = assign([pair, row("o", "w4a8-g64", 0.2, 100)], budget_loss=1)
    assert dict(found) == {"q": "w8a8", "k": "w8a8", "o": "w4a8-g64"} and len(found) == 3
    assert found.shares() == {"w4a8-g64": 0.25, "w8a8": 0.75} and found.ms is None
    assert found.loss == pytest.approx(0.3) and found.bytes == 300 + 55
    with pytest.raises(KeyError):
        found["v"]


def test_budgets_that_cant_be_met_say_the_smallest_possible():
    rows = [row("a", "w4a8-g64", 0.5), row("a", "w8a8", 0.125), row("b", "w8a8", 0.25)]
    with pytest.raises(ValueError, match=r"budget_loss=0.1 can't be met: the smallest possible is 0.375"):
        assign(rows, budget_loss=0.1)
    with pytest.raises(ValueError, match=r"budget_bytes=1 can't be met: the smallest possible is 1555"):
        assign(rows, budget_bytes=1)


def test_bad_input():
    rows = [row("a", "w8a8", 0.1)]
    for given in ({}, {"budget_bytes": 1, "budget_loss": 1}):
        with pytest.raises(ValueError, match="give exactly one of"):
            assign(rows, **given)
    with pytest.raises(ValueError, match="budget_loss=-1"):
        assign(rows, budget_loss=-1)
    with pytest.raises(ValueError, match="budget_loss=nan"):
        assign(rows, budget_loss=math.nan)
    with pytest.raises(ValueError, match="measure_latency"):
        assign(rows, budget_ms=1)
    with pytest.raises(ValueError, match="minimise='speed'"):
        assign(rows, budget_loss=1, minimise="speed")
    with pytest.raises(ValueError, match="no sensitivities"):
        assign([], budget_loss=1)
    with pytest.raises(ValueError, match="a has two rows for one scheme"):
        assign([*rows, *rows], budget_loss=1)
    with pytest.raises(ValueError, match="a is in two groups"):
        assign([*rows, Sensitivity(("a", "b"), "{a,b}", "w8a8", 1, 1, 0.1)], budget_loss=1)
    with pytest.raises(ValueError, match="a gives NaN or infinite values in every scheme"):
        assign([row("a", "w8a8", math.inf)], budget_loss=1)


def test_rows_of_all_layers_and_broken_schemes_are_passed_over():
    rows = [
        row("a", "w4a8-g64", math.nan),
        row("a", "w8a8", 0.1),
        Sensitivity(("a",), "(all)", "w8a8", 1, 1, 0.1),
        row("b", "w8a8", 0),
    ]
    assert dict(assign(rows, budget_bytes=1e9)) == {"a": "w8a8", "b": "w8a8"}


def test_tiny_and_equal_losses():
    rows = [row(f"l{i}", change, loss) for i in range(40) for change, loss in (("w4a8-g64", 1e-12), ("w8a8", 0.0))]
    assert set(assign(rows, budget_loss=1e-12).values()) == {"w4a8-g64", "w8a8"}
    assert list(assign(rows, budget_loss=1e-12).values()).count("w4a8-g64") == 1
    assert set(assign(rows, budget_loss=0).values()) == {"w8a8"}


@pytest.mark.parametrize("limited", ["loss", "bytes", "ms"])
def test_budgets_hold_to_the_last_bit(limited):
    """Small differences beside large values, which a solver's tolerance takes for equal."""
    for seed in range(4):
        generator = np.random.default_rng(seed)
        rows = [row("large", "w8a8", 1e3, ms=1e3, bytes=10**10)]
        for i in range(12):
            for change, part in (("w4a8-g64", 1.0), ("w8a8", 0.5)):
                small = 1e-5 * part * float(generator.uniform(0.5, 1))
                rows.append(row(f"l{i}", change, small, ms=2e-5 - small, bytes=int(1e9 * (2e-5 - small))))
        ends = ([r for r in rows if r.layer == "large" or r.change == s] for s in ("w4a8-g64", "w8a8"))
        sums = [total(each, limited) for each in ends]
        for share in (0.0, 0.25, 0.5, 0.75):
            budget = min(sums) + share * abs(sums[1] - sums[0])
            assert total(assign(rows, **{f"budget_{limited}": budget}).rows, limited) <= budget


def test_the_safest_assignment_has_the_least_loss_of_every_layer():
    """However small beside those of other layers."""
    rows = [row("a", "w4a8-g64", 1e6), row("a", "w8a8", 1e5)]
    rows += [row(f"l{i}", change, loss) for i in range(9) for change, loss in (("w4a8-g64", 2e-9), ("w8a8", 1e-9))]
    assert set(mixed_path(rows)[0].values()) == {"w8a8"}


@pytest.mark.parametrize("seed", range(3))
def test_paths_go_from_the_least_loss_to_the_cheapest(seed):
    rows = random_rows(seed, groups=12)
    path = mixed_path(rows)
    assert 2 < len(path) <= 8 and len(set(path)) == len(path)
    losses, sizes = [each.loss for each in path], [each.bytes for each in path]
    assert losses == sorted(losses) and sizes == sorted(sizes, reverse=True)
    by_group = {each.names: [r for r in rows if r.names == each.names] for each in rows}
    assert losses[0] == pytest.approx(sum(min(r.loss for r in found) for found in by_group.values()))
    assert sizes[-1] == sum(min(r.bytes for r in found) for found in by_group.values())

    floats = float_path(path[0], 4)
    assert floats and all(FLOAT in each.values() for each in floats)
    assert [each.loss <= path[0].loss / share * (1 + 1e-8) for each, share in zip(floats, (8, 4, 2), strict=False)]
    assert [each.bytes for each in floats] == sorted((each.bytes for each in floats), reverse=True)


def test_a_path_of_one_scheme_or_of_no_loss_is_short():
    assert len(mixed_path([row("a", "w8a8", 0.1), row("b", "w8a8", 0.2)])) == 1
    assert len(mixed_path([row("a", "w8a8", 0.0), row("a", "w4a8-g64", 0.0)])) == 1


def test_latencies_are_those_of_shapes_and_schemes():
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 4096))
    rows = [Sensitivity((n,), n, c, 1, 1, 0.1) for n in "012" for c in ("w8a8", "float")]
    rows.append(Sensitivity(("0", "1"), "(all)", "sparsity 0.50", 1, 1, 0.1))
    timed = measure_latency(rows, net, rows=32, repeats=3)
    assert [each.ms for each in timed[:2]] == [each.ms for each in timed[2:4]], "one shape is measured once"
    assert all(each.ms > 0 for each in timed[:-1]) and timed[-1].ms is None
    assert timed[5].ms > timed[1].ms
    with pytest.raises(ValueError, match="no linear '9'"):
        measure_latency([Sensitivity(("9",), "9", "w8a8", 1, 1, 0.1)], net)
    with pytest.raises(ValueError, match="rows must be at least 1"):
        measure_latency(rows, net, rows=0)
    assert torch.is_grad_enabled()
