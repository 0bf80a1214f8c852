"""Wall-clock timing that survives a noisy machine: interleaved rounds and medians."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

_LEAST_ROUNDS = 3  # a median and a spread of fewer mean nothing
_LOOK = 0.002  # seconds of sleep in which a thread that spins shows
_MOST_LOOKS = 250


class Cores(Protocol):
    """Says when a sample is worth taking, such as :class:`kdnative.bench.steady.SteadyCores`."""

    def sample(self, take: Callable[[], float]) -> float:
        """The seconds that ``take()`` measured, taken again where something disturbed it."""
        ...


@dataclass(frozen=True)
class Timing:
    """Seconds per call, one sample a round.

    Attributes:
        samples: seconds per call, in the order of the rounds.
        inner: calls that each sample is the mean of.
    """

    samples: tuple[float, ...]
    inner: int

    @property
    def p20(self) -> float:
        return quantile(self.samples, 0.2)

    @property
    def p50(self) -> float:
        return quantile(self.samples, 0.5)

    @property
    def p80(self) -> float:
        return quantile(self.samples, 0.8)

    def percentiles(self, scale: float, digits: int = 4) -> dict[str, float]:
        """``{"p20", "p50", "p80"}`` in seconds times ``scale`` (1e3 for ms), rounded to ``digits`` significant ones."""
        values = {"p20": self.p20, "p50": self.p50, "p80": self.p80}
        return {name: float(f"{value * scale:.{digits}g}") for name, value in values.items()}


def quantile(samples: tuple[float, ...] | list[float], q: float) -> float:
    """The q-quantile with linear interpolation between order statistics."""
    ordered = sorted(samples)
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def interleave(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 9,
    round_seconds: float = 0.02,
    warmup: int = 2,
    most_seconds: float | None = None,
    cores: Cores | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Times several functions side by side.

    Every round times each function once, in an order that is drawn anew (from a fixed seed), so that none always runs
    after the same neighbour and a slow phase of the machine hits all of them. Before each sample it waits until the
    threads of the one before are asleep. A function that takes less than ``round_seconds`` is called as often as fits
    into that time; the sample is the mean.

    Args:
        calls: functions without arguments, by name.
        rounds: samples per function, at least 1.
        round_seconds: least time of one sample, in seconds.
        warmup: calls before anything is measured, at least 1.
        most_seconds: no further round begins after this time, once there are three; None: all rounds.
        cores: takes each sample while the cores have their full speed; None: they are taken as they come.
        clock: returns seconds; replaced in tests.

    Returns:
        For each name its :class:`Timing`.
    """
    if rounds < 1 or warmup < 1:
        raise ValueError(f"rounds and warmup must be at least 1, got rounds={rounds} and warmup={warmup}")
    inner = {}
    for name, call in calls.items():
        for _ in range(warmup):
            call()
        inner[name] = fitting_repeats(call, round_seconds, clock)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    names, order = list(calls), random.Random(0)
    with _no_collection():
        begin = clock()
        for turn in range(rounds):
            if most_seconds is not None and turn >= _LEAST_ROUNDS and clock() - begin >= most_seconds:
                break
            for name in order.sample(names, len(names)):
                wait_for_idle_threads()
                take = partial(_sample, calls[name], inner[name], clock)
                samples[name].append(take() if cores is None else cores.sample(take))
    return {name: Timing(tuple(samples[name]), inner[name]) for name in names}


def measure(call: Callable[[], object], **options) -> Timing:
    """Times one function; options as for :func:`interleave`."""
    return interleave({"": call}, **options)[""]


@contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """Runs a block with this many torch threads (None: as it is) and restores the number afterwards."""
    before = torch.get_num_threads()
    if count is not None and count < 1:
        raise ValueError(f"threads must be at least 1, got {count}")
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def wait_for_idle_threads() -> None:
    """Engines keep idle threads spinning for a while (ONNX Runtime, OpenMP), on cores that the next one needs."""
    for _ in range(_MOST_LOOKS):
        before = time.process_time()
        time.sleep(_LOOK)
        if time.process_time() - before < _LOOK / 2:
            return


def _sample(call: Callable[[], object], inner: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(inner):
        call()
    return (clock() - start) / inner


def fitting_repeats(call: Callable[[], object], least: float, clock: Callable[[], float] = time.perf_counter) -> int:
    """How many calls in a row take ``least`` seconds or more."""
    count = 1
    while True:
        took = _sample(call, count, clock) * count
        if took >= least:
            return count
        # Doubling alone is slow for calls of a microsecond, the estimate alone is wrong while caches warm up.
        count = max(2 * count, min(int(count * least / max(took, 1e-9)), 64 * count))


@contextmanager
def _no_collection() -> Iterator[None]:
    """A garbage collection inside a sample would be charged to whichever function runs."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
