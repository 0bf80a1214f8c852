"""The student beside the same student in other engines: what ``kdnative bench model RUN --peers --json`` measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from kdnative.machine.speedup import Speedup, factors
from kdnative.report.schema import Ratio

FILE = "peers.json"  # in the run's folder
SUITE = "model_peers"
CASE_KEYS = ("batch", "tokens", "threads", "rows")
_TORCH = "torch fp32"  # the float student's row


def split(case: Mapping[str, Any]) -> dict[str, Any] | None:
    """The gain of one case as a product: smaller model * other engine over torch * native kernels over that engine.

    The other engine is the fastest one that ran. Where that is torch in fp32, there is no factor of an engine.

    Args:
        case: one of the file's cases.

    Returns:
        ``{"engine", "total", "smaller_model", "engine_gain", "native_kernels"}``, all but the name a `Ratio`, and
        ``engine_gain`` None where the engine is torch in fp32; None where the teacher, the float student, the native
        one or every other engine is missing.
    """
    rows: Sequence[Mapping[str, Any]] = case["rows"]
    teacher = next((row for row in rows if row.get("teacher")), None)
    plain = next((row for row in rows if row["name"] == _TORCH), None)
    ours = next((row for row in rows if row["ours"]), None)
    if teacher is None or plain is None or ours is None:
        return None
    rivals = [row for row in rows if ours["kind"] in row.get("peer_of", ()) and not row.get("partial")]
    if not rivals:
        return None
    best = min(rivals, key=lambda row: statistics.median(row["samples"]))
    chain = [teacher, plain, ours] if best is plain else [teacher, plain, best, ours]
    total, smaller, *engine, native = map(_ratio, factors(*(row["samples"] for row in chain)))
    return {
        "engine": best["name"],
        "total": total,
        "smaller_model": smaller,
        "engine_gain": engine[0] if engine else None,
        "native_kernels": native,
    }


def _ratio(found: Speedup) -> Ratio:
    return {"value": found.value, "low": found.low, "high": found.high}
