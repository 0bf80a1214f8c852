"""A process that runs inputs, one after the other; where it is, others read in shared memory."""

from __future__ import annotations

import faulthandler
import itertools
import mmap
import os
import random
import resource
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from tests.fuzz.audit import Audit, Forbidden
from tests.fuzz.findings import Found, of_exception
from tests.fuzz.target import Target

__all__ = ["Progress", "attempt", "fork", "rng_of"]

IDLE = -1
MEMORY = 512 * 2**20
"""Bytes by which one input may raise the most memory that its process ever had. Twice as much can't be allocated."""


class Progress:
    """What a worker does, in memory that it shares with the process that watches it."""

    _NUMBER, _CPU, _WALL, _WORKED, _REFUSED, _FOUND = range(6)  # times in nanoseconds

    def __init__(self) -> None:
        self._numbers = memoryview(mmap.mmap(-1, 8 * 6)).cast("q")
        self._numbers[self._NUMBER] = IDLE

    def begin(self, number: int) -> None:
        self._numbers[self._CPU], self._numbers[self._WALL] = time.process_time_ns(), time.monotonic_ns()
        self._numbers[self._NUMBER] = number

    def end(self, worked: bool | None) -> None:
        """``worked``: None for a finding."""
        at = self._FOUND if worked is None else self._WORKED if worked else self._REFUSED
        self._numbers[at] += 1
        self._numbers[self._NUMBER] = IDLE

    def forget(self) -> None:
        self._numbers[self._NUMBER] = IDLE

    number = property(lambda self: self._numbers[self._NUMBER])
    cpu = property(lambda self: self._numbers[self._CPU] / 1e9, doc="of the process when the input began, seconds")
    wall = property(lambda self: self._numbers[self._WALL] / 1e9, doc="when the input began, seconds")
    worked = property(lambda self: self._numbers[self._WORKED])
    refused = property(lambda self: self._numbers[self._REFUSED])
    found = property(lambda self: self._numbers[self._FOUND])
    done = property(lambda self: self.worked + self.refused + self.found)


def rng_of(name: str, seed: int, number: int) -> random.Random:
    """The random numbers of an input: seeded by a text, which gives the same ones in every Python."""
    return random.Random(f"{name} {seed} {number}")


def attempt(
    target: Target, number: int, rng: random.Random, folder: Path, audit: Audit | None = None
) -> tuple[bool | None, Found | None]:
    """Runs one input: whether it worked, or what was found."""
    events = [] if audit is None else audit.seen
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    made: Any = None
    try:
        made = target.make(number, rng)
        events.clear()
        before = _peak()
        worked, found = target.run(made, folder), None
        if (grown := _peak() - before) > MEMORY:
            found = Found(number, "memory", f"{type(target).__name__} takes {grown >> 20} MB", "")
    except (Exception, Forbidden, SystemExit) as error:
        worked, found = None, of_exception(number, "exception", error)
    if events:
        seen = [text.replace(str(folder), "FOLDER") for text in events]
        found = Found(number, "audit", seen[0], "\n".join([*seen, found.detail if found else ""]))
    if found is not None:
        found.input = "" if made is None else target.describe(made)[:4000].encode("utf-8", "backslashreplace").decode()
        return None, found
    return worked, None


def fork(
    target: Target, name: str, seed: int, numbers: Iterable[int], progress: Progress, folder: Path, most: int
) -> int:
    """Starts a worker for some inputs, at most so many, and returns its process id. It ends with status 0 when done."""
    folder.mkdir(parents=True, exist_ok=True)
    parent, process = os.getpid(), os.fork()
    if process:
        return process
    status = 1
    try:
        _prepare(folder)
        audit = Audit(folder)
        audit.watch()
        with open(folder / "findings", "a", encoding="utf-8") as file:
            for number in itertools.islice(numbers, most):
                if os.getppid() != parent:
                    break  # nobody watches
                if number % 50 == 0:
                    os.ftruncate(2, 0)  # warnings
                progress.begin(number)
                worked, found = attempt(target, number, rng_of(name, seed, number), folder / "input", audit)
                if found is not None:
                    file.write(found.line())
                    file.flush()
                progress.end(worked)
        status = 0
    finally:
        os._exit(status)  # without what the parent has registered for its own end


def _prepare(folder: Path) -> None:
    """Output into a file, a limit of memory, nothing to read, and tracebacks from crashes and for who watches."""
    log = os.open(folder / "log", os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")
    (folder / "empty").mkdir(exist_ok=True)
    os.chdir(folder / "empty")
    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):  # whose own memory is without bounds, and handlers better
        faulthandler.enable()
        limit = _data() + 2 * MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.register(signal.SIGUSR1, all_threads=False)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _data() -> int:
    """Bytes that the limit of data counts."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmData:")[2].split()[0]) * 1024
