"""Ceilings of this machine, measured in the run that quotes them: int8 operations and read bandwidth.

The native probes keep the operands in registers, or stream one buffer; see ``csrc/cpu/roofline.h``. All threads run at
once and their rates are added, so cores that share a cache, a clock budget or a pipeline are measured as they are used.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kdnative import ops

_SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_USUAL_CACHES = {1: 32 << 10, 2: 1 << 20, 3: 32 << 20}
_LARGEST_BUFFER = 512 << 20


def ceilings(threads: int, *, seconds: float = 0.2, isa: str | None = None) -> dict[str, Any]:
    """Measures the ceilings of ``threads`` threads.

    Args:
        threads: how many run at once, at least 1.
        seconds: time per probe.
        isa: instruction set of the compute ceiling; None is the one in use.

    Returns:
        ``isa``; ``threads``; ``int8_ops``, operations per second (a multiply-accumulate is two), None when the
        instruction set is ``reference``, which has no ceiling of its own; ``read``, a list of ``{"level", "bytes",
        "bytes_per_second"}`` for L1, L2, L3 and memory, ``bytes`` being what all threads read together.
    """
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    isa = ops.isa() if isa is None else isa
    probe = ops._C
    peak = together(lambda: probe.peak_int8_ops(isa, seconds), threads)
    read = []
    for level, size in _buffer_sizes(cache_sizes(), threads).items():
        rate = together(partial(probe.read_bandwidth, size, seconds), threads)
        read.append({"level": level, "bytes": size * threads, "bytes_per_second": rate})
    return {"isa": isa, "threads": threads, "int8_ops": peak or None, "read": read}


def together(probe: Callable[[], float], threads: int) -> float:
    """Runs a probe on several threads at the same time and adds what they return."""
    results = [0.0] * threads
    errors: list[BaseException] = []
    gate = threading.Barrier(threads)

    def work(index: int) -> None:
        try:
            gate.wait()
            results[index] = probe()
        except BaseException as error:  # raised again below, in the caller's thread
            errors.append(error)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return sum(results)


def cache_sizes(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> dict[int, int]:
    """Bytes of the data caches by level; usual sizes where the system does not say."""
    found = {}
    for index in sorted(root.glob("index*")) if root.is_dir() else ():
        try:
            kind = (index / "type").read_text().strip()
            level = int((index / "level").read_text())
            match = re.fullmatch(r"(\d+)([KMG]?)", (index / "size").read_text().strip())
        except (OSError, ValueError):
            continue
        if match and kind in ("Data", "Unified"):
            found[level] = int(match[1]) * _SIZES.get(match[2], 1)
    return _USUAL_CACHES | found


def _buffer_sizes(caches: dict[int, int], threads: int) -> dict[str, int]:
    """Bytes that one thread reads so that all of them together sit well inside a level, and outside the one before."""
    memory = min(max(4 * caches[3], 64 << 20), _LARGEST_BUFFER)
    return {
        "L1": caches[1] // 2,
        "L2": caches[2] // 2,
        "L3": max(caches[3] // 2 // threads, 2 * caches[2]),
        "memory": memory // threads,
    }
