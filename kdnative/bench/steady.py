"""Samples are taken while the cores run at full speed, as far as that is possible.

On a rented machine a core's other hardware thread may belong to someone else: while it works, vector and tile units
have half their rate, for seconds at a time. Medians of few rounds would then compare one engine's good half with
another's bad one, and a share of the ceiling would mean nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from kdnative import ops
from kdnative.bench.roofline import together

_STEADY = 0.8  # of the best speed seen: a core that is shared has half, one with a lower clock more
_TRIES = 3  # of one sample
_PAUSE = 0.05  # seconds between looks at a busy core


def int8_speed(threads: int) -> Callable[[], float]:
    """A probe of about 3 ms: int8 operations a second of that many threads, operands in registers.

    It returns 0 where the instruction set in use has no such ceiling (``reference``).
    """
    isa, probe = ops.isa(), ops._C.peak_int8_ops
    if threads == 1:
        return lambda: probe(isa, 0.0)
    return lambda: together(lambda: probe(isa, 0.0), threads)


class SteadyCores:
    """Takes samples between two looks at the speed of the cores.

    Args:
        speed: returns the speed of the cores, in any unit; more is faster.
        clock, sleep: as in :mod:`time`; replaced in tests.

    Attributes:
        taken: samples since :meth:`counts` was last asked.
        disturbed: those of them during which the cores never had 80 % of the best speed seen.
    """

    def __init__(
        self,
        speed: Callable[[], float],
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._speed, self._clock, self._sleep = speed, clock, sleep
        self._best = 0.0
        self._waited = self._worked = 0.0  # seconds
        self.taken = self.disturbed = 0
        self._look()

    def sample(self, take: Callable[[], float]) -> float:
        """``take()``, again where the cores were slow before or after it: of three tries the one with the best speed.

        It waits for cores that are slow, in all no longer than the samples themselves have taken.
        """
        self.taken += 1
        tries: list[tuple[float, float]] = []
        for _ in range(_TRIES):
            before = self._wait()
            start = self._clock()
            value = take()
            self._worked += self._clock() - start
            tries.append((min(before, self._look()), value))
            if self._steady(tries[-1][0]):
                return value
        self.disturbed += 1
        return max(tries, key=lambda t: t[0])[1]

    def counts(self) -> dict[str, int]:
        """``{"taken", "disturbed"}`` of the samples since the last call: of one case, if asked after each."""
        found = {"taken": self.taken, "disturbed": self.disturbed}
        self.taken = self.disturbed = 0
        return found

    def _look(self) -> float:
        speed = self._speed()
        self._best = max(self._best, speed)
        return speed

    def _steady(self, speed: float) -> bool:
        return speed >= _STEADY * self._best

    def _wait(self) -> float:
        speed = self._look()
        while not self._steady(speed) and self._waited < self._worked:
            self._sleep(_PAUSE)
            self._waited += _PAUSE
            speed = self._look()
        return speed
