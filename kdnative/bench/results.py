"""What the suites share: comparison with the best peer, the summary of all cases, and the lines they print."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdnative.bench.peers import Candidate
from kdnative.machine.timer import Timing, ratio


def against_peers(candidate: Candidate, ready: Sequence[Candidate], timings: dict[str, Timing]) -> dict[str, Any]:
    """For ours: the fastest peer of its kind that ran, and how many times faster we are.

    Peers that do only a part of the work come apart from the others, as ``best_partial`` and ``speedup_partial``.
    """
    if not candidate.ours:
        return {}
    found: dict[str, Any] = {}
    for partial, peer, speedup in ((False, "best_peer", "speedup"), (True, "best_partial", "speedup_partial")):
        rivals = [c.name for c in ready if not c.ours and c.partial == partial and candidate.kind in (c.kind, *c.also)]
        rivals = [name for name in rivals if name in timings]
        if rivals or not partial:
            best = min(rivals, key=lambda name: timings[name].p50, default=None)
            found[peer] = best
            found[speedup] = None if best is None else ratio(timings[best], timings[candidate.name])
    return found


def summarize(cases: Iterable[tuple[str, Sequence[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """For each of ours: the worst and the median speed-up over the best peer, and where the worst one is.

    Args:
        cases: the name of each case and its rows.

    Returns:
        One entry for the peers that do the same work and, with ``partial`` set, one for those that do a part of it.
    """
    found: dict[tuple[bool, str], list[tuple[float, str, str]]] = {}
    for where, rows in cases:
        for row in rows:
            for partial, peer, speedup in ((False, "best_peer", "speedup"), (True, "best_partial", "speedup_partial")):
                if row.get(speedup) is not None:
                    found.setdefault((partial, row["name"]), []).append((row[speedup], where, row[peer]))
    summary = []
    for (partial, name), results in sorted(found.items(), key=lambda item: item[0][0]):
        worst, where, peer = min(results)
        middle = statistics.median(speedup for speedup, _, _ in results)
        entry = {"name": name, "worst": worst, "case": where, "peer": peer, "median": middle, "cases": len(results)}
        summary.append({**entry, "partial": partial})
    return summary


def summary_lines(summary: Sequence[dict[str, Any]]) -> list[str]:
    """The summary in words."""
    if not summary:
        return ["No peer of the same kind ran: there is nothing to compare with (--peers compares)."]
    return [
        f"{row['name']}: worst {row['worst']:.2f}x the speed of the best peer"
        f"{' that does a part of the work' if row['partial'] else ''} ({row['peer']}, {row['case']}), "
        f"median {row['median']:.2f}x over {row['cases']} cases"
        for row in summary
    ]


def machine_line(where: dict[str, Any]) -> str:
    """Where a result was measured."""
    return (
        f"{where['cpu']} ({where['usable_cores']} cores), {where['isa']}, {threads_of(where)}, torch {where['torch']}, "
        f"kdnative {where['revision'] or where['kdnative']}, {where['date'][:10]}, load {where['load']}"
    )


def threads_of(where: dict[str, Any]) -> str:
    """``"1 thread"``, ``"1 and 2 threads"``."""
    threads = where["threads"] if isinstance(where["threads"], list) else [where["threads"]]
    return f"{' and '.join(map(str, threads))} thread{'s' if threads != [1] else ''}"


def ceiling_line(limits: dict[str, Any]) -> str:
    """The ceilings of one number of threads."""
    peak = f"{limits['int8_ops'] / 1e12:.3g} TOPS int8" if limits["int8_ops"] else "no int8 ceiling"
    read = ", ".join(f"{r['level']} {r['bytes_per_second'] / 1e9:.3g} GB/s" for r in limits["read"])
    return f"measured ceilings of {threads_of(limits)}: {peak}; reads: {read}"


def not_run_lines(not_run: Sequence[dict[str, str]]) -> list[str]:
    """One line per candidate and reason, with the cases it concerns."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for row in not_run:
        grouped.setdefault((row["name"], row["reason"]), []).append(row["case"])
    return [f"not run: {name} ({', '.join(cases)}): {reason}" for (name, reason), cases in grouped.items()]


def samples_line(cases: Iterable[Mapping[str, Any]]) -> list[str]:
    """How many samples of the cases were disturbed; no line for results that do not say."""
    samples = [case["samples"] for case in cases if "samples" in case]
    if not samples:
        return []
    disturbed, taken = (sum(s[name] for s in samples) for name in ("disturbed", "taken"))
    return [f"{disturbed} of {taken} samples were taken on cores that something else used as well"]


def goal(text: str, value: float, limit: float, *, at_least: bool) -> dict[str, Any]:
    """A goal and whether a figure meets it: ``value >= limit``, or ``value < limit`` where less is better."""
    return {"goal": text, "value": value, "limit": limit, "met": bool(value >= limit if at_least else value < limit)}


def goal_line(found: dict[str, Any]) -> str:
    """The goal, the figure and the verdict."""
    return f"{found['goal']}: {found['value']:.5g}, {'met' if found['met'] else 'MISSED'}"
