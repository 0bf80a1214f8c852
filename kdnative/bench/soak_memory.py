"""Whether the resident size of a process grows while it does the same work over and over."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ALLOWED_MB = 8
_WARM_UP = 0.1
_LEAST_SAMPLES = 8


def resident_bytes() -> int:
    """The resident size of this process now.

    Raises:
        RuntimeError: not Linux, which alone tells it without a package.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        raise RuntimeError(
            "the resident size of a process is read from /proc/self/statm, which only Linux has"
        ) from None
    return pages * os.sysconf("SC_PAGE_SIZE")


def judge(samples: Sequence[dict[str, Any]], forwards: int, allowed: int) -> dict[str, Any]:
    """Compares the first quarter of the samples after the warm-up with the last one.

    Args:
        samples: ``{"forwards", "bytes"}`` each, in order.
        forwards: of the whole run; the first tenth is warm-up.
        allowed: growth in bytes that passes.

    Returns:
        ``verdict`` is ``"steady"``, ``"grows"``, or ``"not judged"`` with fewer than eight samples after the warm-up;
        then ``growth``, ``allowed`` (bytes), ``slope`` (bytes a forward, least squares) and ``noticed``, the least
        leak in bytes a forward that would have been called growth, are None.
    """
    warm = [s for s in samples if s["forwards"] >= _WARM_UP * forwards]
    if len(warm) < _LEAST_SAMPLES:
        return {"verdict": "not judged", "growth": None, "allowed": allowed, "slope": None, "noticed": None}
    quarter = len(warm) // 4
    growth = _mean(warm[-quarter:], "bytes") - _mean(warm[:quarter], "bytes")
    apart = _mean(warm[-quarter:], "forwards") - _mean(warm[:quarter], "forwards")
    return {
        "verdict": "grows" if growth > allowed else "steady",
        "growth": round(growth),
        "allowed": allowed,
        "slope": round(_slope(warm), 3),
        "noticed": round(allowed / apart, 3) if apart else None,
    }


def memory_line(found: dict[str, Any]) -> str:
    """The verdict in words."""
    if found["verdict"] == "not judged":
        return f"memory: not judged, the run was too short for {_LEAST_SAMPLES} samples after its warm-up"
    noticed = "" if found["noticed"] is None else f"; a leak of {found['noticed']:.0f} bytes a forward would be noticed"
    return (
        f"memory: {found['verdict']}, {found['growth'] / 2**20:+.2f} MB after the warm-up (allowed: "
        f"{found['allowed'] / 2**20:g} MB), slope {found['slope']:+.1f} bytes a forward{noticed}"
    )


def _mean(rows: Sequence[dict[str, Any]], key: str) -> float:
    return sum(row[key] for row in rows) / len(rows)


def _slope(rows: Sequence[dict[str, Any]]) -> float:
    x, y = _mean(rows, "forwards"), _mean(rows, "bytes")
    spread = sum((row["forwards"] - x) ** 2 for row in rows)
    return sum((row["forwards"] - x) * (row["bytes"] - y) for row in rows) / spread if spread else 0.0
