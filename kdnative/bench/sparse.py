"""``kdnative bench sparse``: layers with many zeros, sparse kernels against our own dense one and torch's."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.bench.gemm import checks
from kdnative.bench.gemm_candidates import GemmCase, ours, torch_fp32
from kdnative.bench.options import add_output, add_peers, add_threads, numbers, sizes
from kdnative.bench.peers import Candidate, Prepared, Unsuited, prepare_all, quiet
from kdnative.bench.results import LEGEND, faster, median, not_run_lines, start_line, timed_row
from kdnative.machine.environment import environment, rerun_clean, write_result
from kdnative.machine.speedup import Speedup
from kdnative.machine.timer import interleave, torch_threads

SHAPES = "384x384,768x768,3072x768,768x3072,4096x4096"
TOKENS = "1,4,32,128,512"
PATTERNS = ("4x1", "mask", "2:4")
ZEROS = "0.5,0.7,0.8,0.9,0.95"
GAIN = 1.03  # a sparse kernel wins from here on: the choice should survive the next run
NEVER = 1.01
_DENSE = "kdnative w8a8"
CSR_WORK = 1 << 32  # multiply-adds, zeros included, beyond which torch's CSR would take the better part of the run


class SparseCase(GemmCase):
    """A case whose weight has zeros in a pattern of `kdnative.prune`."""

    pattern = "unstructured"
    zeros = 0.5

    @cached_property
    def weight(self) -> Tensor:
        return _weight(self.n, self.k, self.pattern, self.zeros)


@lru_cache(maxsize=1)
def _weight(n: int, k: int, pattern: str, zeros: float) -> Tensor:
    from kdnative.prune import finalize_masks_, mask_

    layer = nn.Linear(k, n, bias=False)  # of which only the weight is taken
    with torch.no_grad():
        layer.weight.copy_(torch.randn(n, k, generator=torch.Generator().manual_seed(0)) / k**0.5)
        mask_(layer, zeros, pattern)
    finalize_masks_(layer)
    return layer.weight.detach().clone()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suite from command-line arguments and returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="kdnative bench sparse", description=__doc__, allow_abbrev=False)
    parser.add_argument("--shapes", type=sizes, default=SHAPES, help=f"NxK,... (default: {SHAPES})")
    parser.add_argument("--m", type=numbers, default=TOKENS, help=f"rows of activations (default: {TOKENS})")
    parser.add_argument("--patterns", type=_patterns, default=PATTERNS, help=f"of {', '.join(PATTERNS)} (default: all)")
    parser.add_argument("--zeros", type=_shares, default=ZEROS, help=f"shares of zeros (default: {ZEROS})")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count processor time of the calling thread, not wall-clock time: for a machine that others use meanwhile",
    )
    add_peers(parser, compiled=False)
    add_threads(parser)
    add_output(parser)
    options = parser.parse_args(argv)
    if options.cpu_time and options.threads != 1:
        parser.error("--cpu-time sees one thread only; leave out --threads")
    again = rerun_clean(__spec__.name, argv)
    if again is not None:
        return again
    result = run(
        options.shapes,
        options.m,
        patterns=options.patterns,
        zeros=options.zeros,
        peers=options.peers,
        threads=options.threads,
        rounds=options.rounds,
        cpu_time=options.cpu_time,
        show=print,
    )
    if options.json:
        write_result(options.json, result)
    return 0


def run(
    shapes: Sequence[tuple[int, int]],
    rows_of_x: Sequence[int],
    *,
    patterns: Sequence[str],
    zeros: Sequence[float],
    peers: bool = True,
    threads: int = 1,
    rounds: int = 9,
    cpu_time: bool = False,
    show=lambda line: None,
) -> dict[str, Any]:
    """Measures every shape, pattern, share of zeros and number of rows.

    Args:
        shapes: (out_features N, in_features K).
        rows_of_x: numbers of activation rows M.
        patterns: of "4x1", "mask" (unstructured zeros) and "2:4", whose share is always 0.5.
        zeros: shares of zeros, 0 to 1.
        peers: torch in fp32 and its sparse CSR product too.
        threads: of every engine.
        rounds: samples per candidate.
        cpu_time: count processor time of the calling thread (with one thread that is the whole call).
        show: called with each line of the report as it is known.

    Returns:
        ``{"suite", "environment", "clock", "cases", "not_run"}``. A case has ``n``, ``k``, ``m``, ``pattern``,
        ``zeros`` and ``rows``, see `kdnative.bench.results`.
    """
    cases: list[dict[str, Any]] = []
    not_run: list[dict[str, str]] = []
    clock = time.thread_time if cpu_time else time.perf_counter
    with torch_threads(threads), torch.inference_mode(), quiet():
        where = environment(threads)
        show(start_line(where))
        for n, k in shapes:
            for pattern in patterns:
                for share in [0.5] if pattern == "2:4" else zeros:
                    for m in rows_of_x:
                        case, failed = _run_case(n, k, m, pattern, share, peers, threads, rounds, clock)
                        label = f"{n}x{k} {pattern} {share:g} M={m}"
                        not_run += [{**row, "case": label} for row in failed]
                        if case is not None:
                            cases.append(case)
                            show(_line(label, case))
    for line in [LEGEND, *not_run_lines(not_run)]:
        show(line)
    for row in crossovers(cases):
        shares = ", ".join(f"M={m}: {_share_text(share)}" for m, share in row["shares"].items())
        show(f"faster than dense from: {row['n']}x{row['k']} {row['pattern']}: {shares}")
    clock_name = "processor time" if cpu_time else "wall clock"
    return {
        "suite": "cpu_sparse",
        "environment": where,
        "clock": clock_name,
        "cases": cases,
        "not_run": not_run,
    }


def over_dense(case: Mapping[str, Any]) -> Speedup:
    """How many times faster the sparse kernel of a case is than our dense one."""
    rows = {row["name"]: row for row in case["rows"]}
    return faster(rows[_DENSE], rows[f"{_DENSE}+{case['pattern']}"])


def crossovers(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """From which share of zeros on the sparse kernel wins, by shape and pattern.

    Returns:
        ``{"n", "k", "pattern", "shares": {M: share}}``: the share where the speed-up passes 1.03, interpolated between
        the shares that were measured, and never below the least of them; 1.01 where it does not win at any.
    """
    points: dict[tuple, dict[int, list[tuple[float, float]]]] = {}
    for case in cases:
        of_shape = points.setdefault((case["n"], case["k"], case["pattern"]), {})
        of_shape.setdefault(case["m"], []).append((case["zeros"], over_dense(case).value))
    return [
        {"n": n, "k": k, "pattern": pattern, "shares": {m: _crossover(sorted(found)) for m, found in by_m.items()}}
        for (n, k, pattern), by_m in points.items()
    ]


def _crossover(points: Sequence[tuple[float, float]]) -> float:
    share = NEVER
    for i in range(len(points) - 1, -1, -1):
        zeros, gain = points[i]
        if gain >= GAIN:
            share = zeros
            continue
        if i + 1 < len(points):
            above, better = points[i + 1]
            share = zeros + (above - zeros) * (GAIN - gain) / (better - gain)
        break
    return round(share, 3)


def _run_case(
    n: int, k: int, m: int, pattern: str, share: float, peers: bool, threads: int, rounds: int, clock
) -> tuple[dict[str, Any] | None, list[dict[str, str]]]:
    case = SparseCase(n, k, m, threads)
    case.pattern, case.zeros = ("unstructured" if pattern == "mask" else pattern), share
    dense, sparse = _DENSE, f"{_DENSE}+{pattern}"
    wanted = [
        Candidate(dense, "int8", ours("w8a8"), ours=True, scheme="w8a8"),
        Candidate(sparse, "int8", ours(f"w8a8+{pattern}"), ours=True, scheme=f"w8a8+{pattern}"),
    ]
    if peers:
        wanted += [Candidate("torch fp32", "float", torch_fp32), Candidate("torch sparse CSR", "float", _torch_csr)]
    prepared, errors, failed = prepare_all(wanted, case, case.reference, checks(case))
    if not {dense, sparse} <= prepared.keys():
        return None, failed
    if not torch.equal(prepared[dense].call(), prepared[sparse].call()):
        raise RuntimeError(f"{sparse} differs from {dense} at {n}x{k}, M={m}, {share:g} zeros: that is a bug")
    timings = interleave(
        {name: p.call for name, p in prepared.items()}, rounds=rounds, round_seconds=0.003, clock=clock
    )
    rows = [timed_row(c, timings[c.name], errors[c.name]) for c in wanted if c.name in timings]
    return {"n": n, "k": k, "m": m, "pattern": pattern, "zeros": share, "rows": rows}, failed


def _torch_csr(case: GemmCase) -> Prepared:
    if case.n * case.k * case.m > CSR_WORK:
        raise Unsuited(f"left out beyond {CSR_WORK:.2g} multiply-adds: seconds a call")
    weight, x = case.weight.to_sparse_csr(), case.x.t().contiguous()
    bias = case.bias[:, None]
    return Prepared(lambda: torch.sparse.addmm(bias, weight, x), lambda y: y.t())


def _line(label: str, case: Mapping[str, Any]) -> str:
    times = "".join(f"  {row['name'].removeprefix('kdnative ')} {1e6 * median(row):.1f}" for row in case["rows"])
    (sparse,) = (row for row in case["rows"] if row["name"] == f"{_DENSE}+{case['pattern']}")
    peers = "".join(f", {faster(row, sparse)} {row['name']}" for row in case["rows"] if not row["ours"])
    return f"{label:32}{times} us: {over_dense(case)} dense{peers}"


def _share_text(share: float) -> str:
    return "never" if share > 1 else f"{100 * share:.0f} %"


def _patterns(text: str) -> list[str]:
    found = text.split(",")
    if not set(found) <= set(PATTERNS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of patterns; allowed: {', '.join(PATTERNS)}")
    return found


def _shares(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 <= share < 1 for share in found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of shares such as 0.5,0.9")
    return found


if __name__ == "__main__":
    sys.exit(main())
