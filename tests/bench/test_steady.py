"""Samples against cores whose speed the test controls."""

import pytest

from kdnative import ops
from kdnative.bench.steady import SteadyCores, int8_speed
from kdnative.machine.timer import interleave


class Cores:
    """Cores that follow a list of speeds, one a look; the last one stays. A sample takes a second."""

    def __init__(self, *speeds):
        self.speeds, self.now, self.slept = list(speeds), 0.0, 0.0

    def speed(self):
        return self.speeds.pop(0) if len(self.speeds) > 1 else self.speeds[0]

    def sleep(self, seconds):
        self.slept += seconds

    def steady(self):
        return SteadyCores(self.speed, clock=lambda: self.now, sleep=self.sleep)

    def take(self, *values):
        values = list(values)

        def one():
            self.now += 1.0
            return values.pop(0)

        return one


def test_a_sample_on_fast_cores_is_taken_once():
    cores = Cores(5.0)
    steady = cores.steady()
    assert steady.sample(cores.take(7.0)) == 7.0
    assert (steady.taken, steady.disturbed, cores.slept) == (1, 0, 0.0)


def test_a_sample_after_which_the_cores_are_slow_is_taken_again():
    cores = Cores(5.0, 5.0, 2.4, 5.0, 4.5)  # a look at the start, then before and after each try
    steady = cores.steady()
    assert steady.sample(cores.take(14.0, 7.0)) == 7.0
    assert steady.disturbed == 0


def test_of_three_disturbed_tries_the_least_disturbed_counts():
    cores = Cores(5.0, 2.0, 2.0, 3.0, 3.0, 2.5, 2.5)
    steady = cores.steady()
    steady._waited = 1e9  # it has waited for long enough
    assert steady.sample(cores.take(1.0, 2.0, 3.0)) == 2.0
    assert steady.counts() == {"taken": 1, "disturbed": 1}
    assert steady.counts() == {"taken": 0, "disturbed": 0}


def test_it_waits_for_slow_cores_but_no_longer_than_it_has_measured():
    cores = Cores(5.0, 5.0, 5.0, 2.0, 2.0, 5.0)
    steady = cores.steady()
    steady.sample(cores.take(1.0))
    assert steady.sample(cores.take(2.0)) == 2.0  # two slow looks, two pauses, then full speed
    assert cores.slept == pytest.approx(0.1)
    forever = Cores(5.0, 5.0, 5.0, 2.0)
    steady = forever.steady()
    steady.sample(forever.take(1.0))
    steady.sample(forever.take(1.0, 1.0, 1.0))
    assert 0 < forever.slept <= forever.now + 0.1


def test_interleave_takes_its_samples_through_it():
    cores = Cores(5.0)
    steady = cores.steady()
    timings = interleave({"a": lambda: None, "b": lambda: None}, rounds=3, round_seconds=1e-5, cores=steady)
    assert steady.taken == 6
    assert len(timings["a"].samples) == 3


@pytest.mark.parametrize("threads", [1, 2])
def test_the_probe_measures_the_instruction_set_in_use(threads):
    assert (int8_speed(threads)() > 0) == (ops.isa() != "reference")
