"""Workers, and who watches them: an input that does not end, or ends its process, is a finding, and others go on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.findings import Found, of_log, read
from tests.fuzz.target import Target
from tests.fuzz.worker import IDLE, Progress, fork

__all__ = ["Result", "fuzz"]

RECYCLE = 1000  # inputs of one process: what one leaves behind stays near it
BLOCKED = 6  # an input that waits may take so many times as long as one that computes


@dataclass
class Result:
    """What became of some inputs of a target."""

    name: str
    inputs: int = 0
    worked: int = 0
    refused: int = 0
    found: list[Found] = field(default_factory=list)
    seconds: float = 0.0
    stopped: bool = False

    def __str__(self) -> str:
        end = " (stopped: too many findings)" if self.stopped else ""
        return (
            f"{self.name}: {self.inputs} inputs, {self.worked} worked, {self.refused} refused, "
            f"{len(self.found)} findings, {self.seconds:.1f} s{end}"
        )


class _Worker:
    """One worker after the other, for a share of the inputs."""

    def __init__(self, target: Target, name: str, seed: int, numbers: Sequence[int], folder: Path) -> None:
        self._start = target, name, seed
        self._numbers, self._folder = numbers, folder
        self._at = 0  # the first of the numbers that is not done
        self._late: set[int] = set()  # inputs that have overrun once
        self._lost: list[Found] = []  # those that ended their process
        self.progress = Progress()
        self.running = True
        self._fork()

    @property
    def found(self) -> int:
        return self.progress.found + len(self._lost)

    def findings(self) -> list[Found]:
        return read(self._folder / "findings") + self._lost

    def _fork(self) -> None:
        target, name, seed = self._start
        self.progress.forget()
        self._first, self._before = self._at, self.progress.done
        left = self._numbers[self._at :]
        self._process = fork(target, name, seed, left, self.progress, self._folder, RECYCLE)

    def look(self, deadline: float) -> None:
        """Goes on where a worker has ended, or is to be ended."""
        process, status = os.waitpid(self._process, os.WNOHANG)
        number = self.progress.number
        if process == 0:
            if number == IDLE or not self._overruns(deadline):
                return
            os.kill(self._process, signal.SIGUSR1)  # writes where it is
            time.sleep(0.2)
            os.kill(self._process, signal.SIGKILL)
            _, status = os.waitpid(self._process, 0)
            number = self.progress.number  # it may have ended meanwhile
            late = number != IDLE
        else:
            late = False
        self._at = self._first + self.progress.done - self._before
        if late and number not in self._late:
            self._late.add(number)  # once more, in a fresh process: the machine may have been busy
        elif number != IDLE:
            self._lost.append(self._loss(number, status, late))
            self._at += 1
        elif status != 0 and not late:
            raise RuntimeError(f"a worker failed outside of its inputs:\n{self._log()}")
        self.running = self._at < len(self._numbers)
        if self.running:
            self._fork()

    def stop(self) -> None:
        if self.running:
            os.kill(self._process, signal.SIGKILL)
            os.waitpid(self._process, 0)
            self.running = False

    def _overruns(self, deadline: float) -> bool:
        fields = Path(f"/proc/{self._process}/stat").read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") - self.progress.cpu
        return cpu > deadline or time.monotonic() - self.progress.wall > BLOCKED * deadline

    def _loss(self, number: int, status: int, late: bool) -> Found:
        if late:
            return of_log(number, "hang", "it does not end", self._log())
        code = os.waitstatus_to_exitcode(status)
        what = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return of_log(number, "crash", what, self._log())

    def _log(self) -> str:
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace")[-20_000:]


def fuzz(
    target: Target,
    name: str,
    seed: int,
    numbers: Sequence[int],
    folder: Path,
    *,
    jobs: int = 2,
    deadline: float = 5.0,
    most: int | None = None,
) -> Result:
    """Runs inputs of a target.

    Args:
        numbers: of the inputs.
        folder: scratch, made here.
        deadline: seconds of computing that an input may take.
        most: findings at which to stop.
    """
    start, result = time.monotonic(), Result(name)
    jobs = max(1, min(jobs, len(numbers)))
    workers = [_Worker(target, name, seed, numbers[job::jobs], folder / f"worker-{job}") for job in range(jobs)]
    try:
        while any(worker.running for worker in workers):
            for worker in workers:
                if worker.running:
                    worker.look(deadline)
            if most is not None and sum(worker.found for worker in workers) >= most:
                result.stopped = True
                break
            time.sleep(0.02)
    finally:
        for worker in workers:
            worker.stop()
    for worker in workers:
        result.worked += worker.progress.worked
        result.refused += worker.progress.refused
        result.found += worker.findings()
    result.inputs = result.worked + result.refused + len(result.found)
    result.seconds = time.monotonic() - start
    return result
