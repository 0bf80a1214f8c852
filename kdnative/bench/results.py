"""What the suites share: rows of samples, the comparison with the best peer, and the lines they print.

A result file keeps what was measured and what can't be computed again: samples, errors, ceilings, what ran where.
Times, speed-ups and summaries are computed from it each time they are printed.

A row, as JSON::

    {"name", "kind", "ours": bool,
     "peer_of": [kind, ...],       the kinds of ours that it is a fair peer of; none for ours
     "partial": bool,              it leaves work out, so it is compared with apart from the other peers
     "error": number,              relative, of the output
     "samples": [seconds, ...]}    one a round, in the order of the rounds

Files of before samples were kept have ``"quantiles": [p20, p50, p80]`` instead: their speed-ups have no interval.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdnative.bench.peers import Candidate
from kdnative.machine.speedup import Speedup, speedup
from kdnative.machine.timer import Timing, quantile

Row = Mapping[str, Any]

LEGEND = "A speed-up is the ratio of the median times, with its 95 % bootstrap interval over the rounds in brackets."


def legend(rows: Iterable[Row]) -> str:
    """What a speed-up in a table of these rows is; results without samples have no intervals."""
    return LEGEND if all("samples" in row for row in rows) else "A speed-up is the ratio of the median times."


@dataclass(frozen=True)
class Compared:
    """Ours against the fastest of its peers."""

    peer: Row
    speedup: Speedup


def timed_row(candidate: Candidate, timing: Timing, error: float) -> dict[str, Any]:
    """What one candidate leaves in the result."""
    return {
        "name": candidate.name,
        "kind": candidate.kind,
        "ours": candidate.ours,
        "peer_of": [] if candidate.ours else [candidate.kind, *candidate.also],
        "partial": candidate.partial,
        "error": float(f"{error:.4g}"),
        "samples": rounded(timing.samples),
    }


def rounded(samples: Sequence[float]) -> list[float]:
    """Samples with five significant digits."""
    return [float(f"{sample:.5g}") for sample in samples]


def quantiles(row: Row) -> tuple[float, float, float]:
    """The 20th, 50th and 80th percentile of a row's time, seconds."""
    if "samples" not in row:
        low, middle, high = row["quantiles"]
        return low, middle, high
    low, middle, high = (quantile(row["samples"], share) for share in (0.2, 0.5, 0.8))
    return low, middle, high


def median(row: Row) -> float:
    """A row's median time, seconds."""
    return quantiles(row)[1]


def gops(case: Mapping[str, Any], row: Row) -> float:
    """Billions of operations a second of a row of a linear layer; a multiply-accumulate is two."""
    return 2 * case["m"] * case["n"] * case["k"] / median(row) / 1e9


def faster(slow: Row, fast: Row) -> Speedup:
    """How many times faster one row is than another of the same case."""
    if "samples" in slow and "samples" in fast:
        return speedup(slow["samples"], fast["samples"])
    return Speedup(median(slow) / median(fast))


def against_peers(row: Row, rows: Sequence[Row], partial: bool = False) -> Compared | None:
    """One of ours against the fastest peer of its case; None where none ran, or the row is not one of ours.

    Args:
        row: of ours.
        rows: all of its case.
        partial: against the peers that do a part of the work, instead of those that do all of it.
    """
    if not row["ours"] or row.get("unmasked"):
        return None
    rivals = [r for r in rows if row["kind"] in r["peer_of"] and r["partial"] == partial]
    if not rivals:
        return None
    best = min(rivals, key=median)
    return Compared(best, faster(best, row))


@dataclass(frozen=True)
class Case:
    """The rows of one case and what summaries call it."""

    label: str
    rows: Sequence[Row]
    ragged: bool = False


def summary_lines(cases: Iterable[Case]) -> list[str]:
    """For each of ours the worst and the median speed-up over the best peer; with ragged batches once more.

    Peers that do a part of the work have lines of their own.
    """
    found: dict[tuple[bool, str], list[tuple[float, Case, str]]] = {}
    for case in cases:
        for row in case.rows:
            for partial in (False, True):
                compared = against_peers(row, case.rows, partial)
                if compared is not None:
                    entry = (compared.speedup.value, case, compared.peer["name"])
                    found.setdefault((partial, row["name"]), []).append(entry)
    if not found:
        return ["No peer of the same kind ran: there is nothing to compare with (--peers compares)."]
    lines = []
    for (partial, name), entries in sorted(found.items(), key=lambda item: item[0][0]):
        even = [entry for entry in entries if not entry[1].ragged]
        of = "the best peer that does a part of the work" if partial else "the best peer"
        if even:
            text = " without ragged batches" if len(even) < len(entries) else ""
            lines.append(f"{name}: {_spread(even, of)}{text}")
        if len(even) < len(entries):
            lines.append(f"{name}: {_spread(entries, of)}, ragged batches included")
    return lines


def _spread(entries: Sequence[tuple[float, Case, str]], of: str) -> str:
    worst, case, peer = min(entries, key=lambda entry: entry[0])
    middle = statistics.median(value for value, _, _ in entries)
    count = f"{len(entries)} case{'s' if len(entries) > 1 else ''}"
    return f"median {middle:.2f}x the speed of {of}, worst {worst:.2f}x ({peer}, {case.label}), over {count}"


def machine_line(where: Mapping[str, Any]) -> str:
    """Where and when a result was measured."""
    core = f" ({where['core']})" if where.get("core") else ""
    cores = f"{where['usable_cores']} core{'s' if where['usable_cores'] != 1 else ''}"
    return (
        f"{where['cpu'].strip()}{core}, {cores}, {where['isa']}, {threads_of(where)}, torch {where['torch']}, "
        f"{where['date'][:10]}"
    )


def threads_of(where: Mapping[str, Any]) -> str:
    """``"1 thread"``, ``"1 and 2 threads"``."""
    threads = where["threads"] if isinstance(where["threads"], list) else [where["threads"]]
    return f"{' and '.join(map(str, threads))} thread{'s' if threads != [1] else ''}"


def start_line(where: Mapping[str, Any]) -> str:
    """The machine, and what only matters while a suite runs: the revision and how busy the machine is."""
    return f"{machine_line(where)}, kdnative {where['revision'] or where['kdnative']}, load {where['load']}"


def ceiling_line(limits: Mapping[str, Any]) -> str:
    """The ceilings of one number of threads."""
    peak = f"{limits['int8_ops'] / 1e12:.3g} TOPS int8" if limits["int8_ops"] else "no int8 ceiling"
    read = ", ".join(f"{r['level']} {r['bytes_per_second'] / 1e9:.3g} GB/s" for r in limits["read"])
    return f"measured ceilings of {threads_of(limits)}: {peak}; reads: {read}"


def not_run_lines(not_run: Sequence[Mapping[str, str]]) -> list[str]:
    """One line per candidate and reason, with the cases it concerns."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for row in not_run:
        grouped.setdefault((row["name"], row["reason"]), []).append(row["case"])
    return [f"not run: {name} ({', '.join(cases)}): {reason}" for (name, reason), cases in grouped.items()]


def cores_line(cases: Iterable[Mapping[str, Any]]) -> list[str]:
    """How many samples of the cases were disturbed; no line for results that do not say."""
    counted = [case["cores"] for case in cases if "cores" in case]
    if not counted:
        return []
    disturbed, taken = (sum(c[name] for c in counted) for name in ("disturbed", "taken"))
    return [f"{disturbed} of {taken} samples were taken on cores that something else used as well"]


def goal(text: str, value: float, limit: float, *, at_least: bool) -> dict[str, Any]:
    """A goal and whether a figure meets it: ``value >= limit``, or ``value < limit`` where less is better."""
    return {"goal": text, "value": value, "limit": limit, "met": bool(value >= limit if at_least else value < limit)}


def goal_line(found: Mapping[str, Any]) -> str:
    """The goal, the figure and the verdict."""
    return f"{found['goal']}: {found['value']:.5g}, {'met' if found['met'] else 'MISSED'}"
