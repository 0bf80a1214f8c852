"""``kdnative bench gemm``: one linear layer, ours against every peer and against the machine's ceiling."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdnative.bench.gemm_candidates import COMPILED, GemmCase, candidates
from kdnative.bench.options import add_output, add_peers, add_threads, names, numbers, sizes
from kdnative.bench.peers import (
    Candidate,
    Check,
    left_out,
    prepare_all,
    quiet,
    relative_error,
    split_by_installed,
    versions,
)
from kdnative.bench.results import (
    LEGEND,
    Case,
    against_peers,
    ceiling_line,
    cores_line,
    gops,
    median,
    not_run_lines,
    quantiles,
    start_line,
    summary_lines,
    timed_row,
)
from kdnative.bench.roofline import ceilings
from kdnative.bench.round_trip import MOST, brain, rounded, rounded_input, rounded_weight
from kdnative.bench.steady import SteadyCores, int8_speed
from kdnative.formats.scheme import Scheme
from kdnative.machine.environment import environment, rerun_clean, write_result
from kdnative.machine.timer import interleave, torch_threads

SHAPES = "384x384,1536x384,384x1536,768x768,3072x768,768x3072,4096x4096"
TOKENS = "1,8,32,128,512"
SCHEMES = "w8a8,w4a8-g32,w4a8-g64,w4a8-g128,w2a8-g128"
# Ours may differ from the product of the rounded operands by a code on the edge of two, and by activations in bf16.
OURS = 0.01
_LEAST = 1e-4  # what is allowed where a format costs nothing


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
        ``{"suite", "environment", "versions", "ceilings", "cases", "not_run"}``. A case has ``n``, ``k``, ``m``,
        ``rows`` (see `kdnative.bench.results`) and ``cores``, the numbers of samples ``taken`` and ``disturbed``
        (:class:`SteadyCores`). ``not_run`` lists every candidate that gave no row, with the reason.
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
        show(start_line(where))
        show(ceiling_line(limits))
        cores = SteadyCores(int8_speed(threads))
        for n, k in shapes:
            for m in rows_of_x:
                case = GemmCase(n, k, m, threads)
                rows, failed = _run_case(ready, case, rounds, cores)
                cases.append({"n": n, "k": k, "m": m, "cores": cores.counts(), "rows": rows})
                not_run += [{**row, "case": label(cases[-1])} for row in failed]
                show(_table(cases[-1], limits["int8_ops"]))
    for line in [LEGEND, *not_run_lines(not_run), *cores_line(cases), *summary_lines(map(as_case, cases))]:
        show(line)
    return {
        "suite": "cpu_gemm",
        "environment": where,
        "versions": versions(ready),
        "ceilings": limits,
        "cases": cases,
        "not_run": not_run,
    }


def _run_case(
    ready: Sequence[Candidate[GemmCase]], case: GemmCase, rounds: int, cores: SteadyCores
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    prepared, errors, failed = prepare_all(ready, case, case.reference, checks(case))
    timings = interleave({name: p.call for name, p in prepared.items()}, rounds=rounds, round_seconds=0.01, cores=cores)
    rows = [timed_row(c, timings[c.name], errors[c.name]) for c in ready if c.name in timings]
    return rows, failed


def checks(case: GemmCase) -> Callable[[Candidate[Any]], Check]:
    """What each candidate has to return for a case: `kdnative.bench.round_trip`."""

    @functools.cache
    def of_peers(kind: str) -> Check:
        weight, x = _PEERS_ROUND[kind]
        cost = relative_error(case.product(x(case), weight(case)), case.reference)
        return Check(case.reference, min(max(2 * cost, _LEAST), MOST))

    def check(candidate: Candidate[Any]) -> Check:
        if not candidate.ours:
            return of_peers(candidate.kind)
        scheme = Scheme.parse(candidate.scheme)
        return Check(case.product(rounded_input(case.x, scheme), rounded_weight(case.weight, scheme)), OURS)

    return check


def _groups_of_four_bits(case: GemmCase) -> Tensor:
    return rounded(case.weight.reshape(case.n, -1, case.block), 4).reshape(case.weight.shape)


# What formats of peers do at worst to a weight and to activations, by kind. Without instructions for int8 engines use 7
# bits, or let sums of 16 bits saturate, which costs as much as 6; and they have one range for all activations.
_PEERS_ROUND: dict[str, tuple[Callable[[GemmCase], Tensor], Callable[[GemmCase], Tensor]]] = {
    "float": (lambda case: brain(case.weight), lambda case: brain(case.x)),
    "int8": (lambda case: rounded(case.weight, 8, None), lambda case: rounded(case.x, 6, None)),
    "int4": (_groups_of_four_bits, lambda case: rounded(case.x, 8, None)),
    "w8a16": (lambda case: rounded(case.weight, 8), lambda case: brain(case.x)),
    "w4a16": (_groups_of_four_bits, lambda case: brain(case.x)),
}


def label(case: Mapping[str, Any]) -> str:
    """What a case is called in summaries."""
    return f"{case['n']}x{case['k']} M={case['m']}"


def as_case(case: Mapping[str, Any]) -> Case:
    """A case of the result, for `summary_lines`."""
    return Case(label(case), case["rows"])


def _table(case: Mapping[str, Any], peak: float | None) -> str:
    lines = [
        f"N x K = {case['n']} x {case['k']}, M = {case['m']}",
        f"  {'':28}{'us':>10}{'p20':>10}{'p80':>10}{'GOPS':>9}{'ceiling':>9}{'error':>9}  speed-up over the best peer",
    ]
    for row in sorted(case["rows"], key=lambda r: (r["kind"], median(r))):
        rate = gops(case, row)
        share = f"{100e9 * rate / peak:.1f} %" if peak else "-"
        compared = against_peers(row, case["rows"])
        low, middle, high = (1e6 * seconds for seconds in quantiles(row))
        lines.append(
            f"  {row['name']:28}{middle:>10.2f}{low:>10.2f}{high:>10.2f}{rate:>9.1f}{share:>9}{row['error']:>9.4f}"
            + (f"  {compared.speedup}" if compared else "")
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
