"""The timer against a clock that the test controls."""

import gc
import itertools

import pytest
import torch

from kdnative.machine import timer
from kdnative.machine.speedup import speedup
from kdnative.machine.timer import interleave, measure, quantile, torch_threads


class Machine:
    """A clock, and functions that let it advance by a known time, scaled by a slowness that may change."""

    def __init__(self):
        self.now, self.slowness, self.order = 0.0, 1.0, []

    def clock(self):
        return self.now

    def function(self, name, seconds):
        def call():
            self.order.append(name)
            self.now += seconds * self.slowness

        return call


def test_samples_are_the_time_of_one_call():
    machine = Machine()
    timing = measure(machine.function("f", 0.001), rounds=5, round_seconds=0.01, clock=machine.clock)
    assert timing.inner >= 10
    assert timing.samples == pytest.approx([0.001] * 5)
    assert timing.percentiles(1e6) == {"p20": 1000.0, "p50": 1000.0, "p80": 1000.0}


def test_a_call_longer_than_a_round_runs_once_a_sample():
    machine = Machine()
    timing = measure(machine.function("f", 0.5), rounds=3, warmup=2, round_seconds=0.01, clock=machine.clock)
    assert timing.inner == 1
    assert len(machine.order) == 2 + 1 + 3  # warm-up, calibration, samples


def test_rounds_interleave_in_an_order_of_their_own():
    machine = Machine()
    calls = {name: machine.function(name, 0.1) for name in "abc"}
    interleave(calls, rounds=20, warmup=1, round_seconds=0.01, clock=machine.clock)
    rounds = ["".join(machine.order[-60:][3 * i : 3 * i + 3]) for i in range(20)]
    assert {"".join(sorted(turn)) for turn in rounds} == {"abc"} and len(set(rounds)) > 3
    pairs = [a + b for a, b in itertools.pairwise(machine.order[-60:])]
    assert max(pairs.count(pair) for pair in set(pairs)) < 15  # a rotation has one pair in 19 of 20 rounds


class Spinning:
    """Stands for the module `time` in a process where another thread still computes for some looks at it."""

    def __init__(self):
        self.left, self.looks, self.used = 0, 0, 0.0

    def process_time(self):
        return self.used

    def sleep(self, seconds):
        self.looks += 1
        if self.left:
            self.left -= 1
            self.used += seconds


def test_a_sample_waits_for_threads_that_spin(monkeypatch):
    process, seen = Spinning(), []
    monkeypatch.setattr(timer, "time", process)
    calls = {"engine": lambda: setattr(process, "left", 40), "other": lambda: seen.append(process.left)}
    interleave(calls, rounds=3, warmup=1, round_seconds=1e-9)
    assert seen[-3:] == [0, 0, 0] and process.looks >= 3 * 41


def test_it_does_not_wait_for_ever(monkeypatch):
    process = Spinning()
    monkeypatch.setattr(timer, "time", process)
    calls = {"endless": lambda: setattr(process, "left", 10**9)}
    interleave(calls, rounds=1, warmup=1, round_seconds=1e-9)
    assert process.looks == timer._MOST_LOOKS


def test_speedups_survive_a_machine_that_slows_down():
    machine = Machine()
    slow, fast = machine.function("slow", 0.3), machine.function("fast", 0.1)

    def disturbed():
        slow()
        machine.slowness *= 1.7  # from each round to the next the machine gets slower

    timings = interleave({"fast": fast, "slow": disturbed}, rounds=8, warmup=1, round_seconds=0.01, clock=machine.clock)
    assert timings["slow"].p80 > 3 * timings["slow"].p20
    # Half of the rounds run "slow" first and so see the two at different slowness; the median stays near 3.
    found = speedup(timings["slow"].samples, timings["fast"].samples)
    assert 3 / 1.7 <= found.value <= 3 * 1.7
    assert found.low <= 3 <= found.high


def test_quantiles_match_torch():
    samples = torch.rand(17, dtype=torch.float64).tolist()
    for q in (0.0, 0.2, 0.5, 0.8, 1.0):
        expected = torch.quantile(torch.tensor(samples, dtype=torch.float64), q).item()
        assert quantile(samples, q) == pytest.approx(expected, rel=1e-12)
    assert quantile([4.0], 0.8) == 4.0


def test_collection_is_off_while_measuring_and_back_afterwards():
    seen = []
    interleave({"f": lambda: seen.append(gc.isenabled())}, rounds=2, warmup=1, round_seconds=0.0)
    assert seen[-2:] == [False, False]
    assert gc.isenabled()


def test_an_error_of_the_function_comes_through_and_collection_is_back():
    def broken():
        if not gc.isenabled():
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        measure(broken, rounds=1, round_seconds=0.0)
    assert gc.isenabled()


@pytest.mark.parametrize("options", [{"rounds": 0}, {"warmup": 0}])
def test_too_few_rounds_are_refused(options):
    with pytest.raises(ValueError, match="at least 1"):
        interleave({}, **options)


def test_nothing_to_time():
    assert interleave({}) == {}


def test_threads_are_set_and_restored_even_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), torch_threads(1) as used:
        assert used == torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before
    with torch_threads(None) as used:
        assert used == before
    with pytest.raises(ValueError, match="threads must be at least 1"), torch_threads(0):
        pass


def test_time_ends_the_rounds_but_three_are_taken():
    machine = Machine()
    calls = {name: machine.function(name, 1.0) for name in "ab"}
    options = {"rounds": 9, "warmup": 1, "round_seconds": 0.01, "clock": machine.clock}
    assert len(interleave(calls, most_seconds=0.5, **options)["a"].samples) == 3
    assert len(interleave(calls, most_seconds=9.0, **options)["b"].samples) == 5  # rounds of 2 s: one begins at 8 s
    assert len(interleave(calls, most_seconds=100.0, **options)["b"].samples) == 9
