"""``kdnative bench gemm``: one linear layer, ours against every peer and against the machine's ceiling."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from kdnative.bench.gemm_candidates import COMPILED, GemmCase, candidates
from kdnative.bench.options import add_output, add_peers, add_threads, names, numbers, sizes
from kdnative.bench.peers import Candidate, left_out, prepare_all, quiet, split_by_installed, versions
from kdnative.bench.results import (
    against_peers,
    ceiling_line,
    machine_line,
    not_run_lines,
    samples_line,
    summarize,
    summary_lines,
)
from kdnative.bench.roofline import ceilings
from kdnative.bench.steady import SteadyCores, int8_speed
from kdnative.machine.environment import environment, rerun_clean, write_result
from kdnative.machine.timer import interleave, torch_threads

SHAPES = "384x384,1536x384,384x1536,768x768,3072x768,768x3072,4096x4096"
TOKENS = "1,8,32,128,512"
SCHEMES = "w8a8,w4a8-g32,w4a8-g64,w4a8-g128,w2a8-g128"
# Largest relative error of the output for normally distributed weights and activations: about twice what the formats of
# a kind cost at most, ours and those of peers, K from 64 to 8192. Beyond it the result is just wrong.
TOLERANCE = {
    "float": 0.006,  # bf16 costs 0.0030
    "int8": 0.08,  # 0.013; 0.041 with the saturating 16-bit sums of some peers on processors without VNNI
    "int4": 0.25,  # 0.126 in groups of 128
    "int2": 0.9,  # 0.81 in groups of 128; twice that would let zeros through, whose error is 1
    "w8a16": 0.02,  # 0.0095
    "w4a16": 0.25,  # as int4
    "w2a16": 0.9,  # as int2
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suite from command-line arguments and returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="kdnative bench gemm", description=__doc__, allow_abbrev=False)
    parser.add_argument("--shapes", type=sizes, default=SHAPES, help=f"NxK,... (default: {SHAPES})")
    parser.add_argument("--m", type=numbers, default=TOKENS, help=f"rows of activations (default: {TOKENS})")
    parser.add_argument("--schemes", type=names, default=SCHEMES, help=f"ours (default: {SCHEMES})")
    add_peers(parser)
    add_threads(parser)
    add_output(parser, plot=True)
    options = parser.parse_args(argv)
    again = rerun_clean(__spec__.name, argv)
    if again is not None:
        return again
    result = run(
        options.shapes,
        options.m,
        schemes=options.schemes,
        peers=options.peers,
        compiled=options.compile,
        threads=options.threads,
        rounds=options.rounds,
        show=print,
    )
    if options.json:
        write_result(options.json, result)
    if options.plot:
        from kdnative.bench.plots import gemm_plot

        gemm_plot(result, options.plot)
    return 0


def run(
    shapes: Sequence[tuple[int, int]],
    rows_of_x: Sequence[int],
    *,
    schemes: Sequence[str],
    peers: bool = True,
    compiled: bool = False,
    threads: int = 1,
    rounds: int = 9,
    show=lambda line: None,
) -> dict[str, Any]:
    """Measures every shape with every number of rows.

    Args:
        shapes: (out_features N, in_features K).
        rows_of_x: numbers of activation rows M.
        schemes: ours.
        peers: compare with other engines.
        compiled: with torch.compile too.
        threads: of every engine.
        rounds: samples per candidate.
        show: called with each line of the report as it is known.

    Returns:
        ``{"suite", "environment", "versions", "ceilings", "cases", "not_run", "summary"}``. A case has ``n``, ``k``,
        ``m``, ``rows`` and ``samples``, of which ``taken`` and ``disturbed`` are the numbers (:class:`SteadyCores`).
        A row has ``name``, ``kind``, ``ours``, microseconds ``p20``/``p50``/``p80``, ``gops``, ``of_ceiling`` (None
        without a ceiling), ``error`` (relative, of the output) and, for ours, ``speedup`` over ``best_peer`` of the
        same kind (and ``speedup_partial`` over ``best_partial``, a peer that does a part of the work). ``not_run``
        lists every candidate that gave no row, with the reason.
    """
    wanted = candidates(schemes, peers, compiled)
    ready, absent = split_by_installed(wanted)
    if peers and not compiled:
        absent += left_out(COMPILED, "--compile")
    not_run = [{**row, "case": "all"} for row in absent]
    cases: list[dict[str, Any]] = []
    with torch_threads(threads), torch.inference_mode(), quiet():
        limits = ceilings(threads)
        where = environment(threads)
        show(machine_line(where))
        show(ceiling_line(limits))
        cores = SteadyCores(int8_speed(threads))
        for n, k in shapes:
            for m in rows_of_x:
                case = GemmCase(n, k, m, threads)
                rows, failed = _run_case(ready, case, rounds, limits["int8_ops"], cores)
                cases.append({"n": n, "k": k, "m": m, "samples": cores.counts(), "rows": rows})
                not_run += [{**row, "case": _label(cases[-1])} for row in failed]
                show(_table(f"N x K = {n} x {k}, M = {m}", rows))
    summary = summarize((_label(case), case["rows"]) for case in cases)
    for line in [*not_run_lines(not_run), *samples_line(cases), *summary_lines(summary)]:
        show(line)
    return {
        "suite": "cpu_gemm",
        "environment": where,
        "versions": versions(ready),
        "ceilings": limits,
        "cases": cases,
        "not_run": not_run,
        "summary": summary,
    }


def _run_case(
    ready: Sequence[Candidate[GemmCase]], case: GemmCase, rounds: int, peak: float | None, cores: SteadyCores
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    prepared, errors, failed = prepare_all(ready, case, case.reference, TOLERANCE)
    timings = interleave({name: p.call for name, p in prepared.items()}, rounds=rounds, round_seconds=0.01, cores=cores)
    operations = 2 * case.m * case.n * case.k
    rows = [
        {
            "name": candidate.name,
            "kind": candidate.kind,
            "ours": candidate.ours,
            **timings[candidate.name].percentiles(1e6),
            "gops": float(f"{operations / timings[candidate.name].p50 / 1e9:.4g}"),
            "of_ceiling": operations / timings[candidate.name].p50 / peak if peak else None,
            "error": errors[candidate.name],
            **against_peers(candidate, ready, timings),
        }
        for candidate in ready
        if candidate.name in timings
    ]
    return rows, failed


def _label(case: dict[str, Any]) -> str:
    return f"{case['n']}x{case['k']} M={case['m']}"


def _table(title: str, rows: Sequence[dict[str, Any]]) -> str:
    lines = [title, f"  {'':28}{'us':>10}{'p20':>10}{'p80':>10}{'GOPS':>9}{'ceiling':>9}{'error':>9}{'x peer':>8}"]
    for row in sorted(rows, key=lambda r: (r["kind"], r["p50"])):
        share = "-" if row["of_ceiling"] is None else f"{100 * row['of_ceiling']:.1f} %"
        speedup = f"{row['speedup']:.2f}" if row.get("speedup") is not None else ""
        timed = f"{row['p50']:>10.2f}{row['p20']:>10.2f}{row['p80']:>10.2f}"
        lines.append(f"  {row['name']:28}{timed}{row['gops']:>9.1f}{share:>9}{row['error']:>9.4f}{speedup:>8}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
