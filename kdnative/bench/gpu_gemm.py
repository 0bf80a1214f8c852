"""``kdnative bench gpu-gemm``: one linear layer on a GPU, ours against every peer and against the device's ceilings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from kdnative.bench import gpu_timing
from kdnative.bench.gemm import as_case, checks, label
from kdnative.bench.gpu_candidates import COMPILED, SPARSE, WEIGHT_BYTES, GpuCase, candidates, copies_of
from kdnative.bench.options import add_output, add_peers, names, numbers, sizes
from kdnative.bench.peers import Candidate, Prepared, left_out, prepare_all, quiet, split_by_installed, versions
from kdnative.bench.results import (
    LEGEND,
    against_peers,
    gops,
    median,
    not_run_lines,
    quantiles,
    start_line,
    summary_lines,
    timed_row,
)
from kdnative.machine.environment import environment, write_result

SHAPES = "768x768,3072x768,4096x4096,14336x4096,4096x14336"
ROWS = "1,8,16,64,256,2048,8192"
SCHEMES = "w8a8,w8a8+2:4,w4a16-g128"
Replay = Callable[..., dict[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suite from command-line arguments and returns the exit code."""
    parser = argparse.ArgumentParser(prog="kdnative bench gpu-gemm", description=__doc__, allow_abbrev=False)
    parser.add_argument("--shapes", type=sizes, default=SHAPES, help=f"NxK,... (default: {SHAPES})")
    parser.add_argument("--m", type=numbers, default=ROWS, help=f"rows of activations (default: {ROWS})")
    parser.add_argument("--schemes", type=names, default=SCHEMES, help=f"ours (default: {SCHEMES})")
    add_peers(parser)
    add_output(parser, rounds=15)
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        parser.exit(2, "this suite needs an NVIDIA GPU, and torch finds none: `kdnative doctor` says what is missing\n")
    with torch.inference_mode(), quiet():
        limits = gpu_timing.ceilings()
        result = run(
            [GpuCase(n, k, m, 1) for n, k in options.shapes for m in options.m],
            candidates(options.schemes, options.peers, options.compile),
            left_out(COMPILED, "--compile") if options.peers and not options.compile else [],
            limits,
            gpu_timing.device_name(),
            rounds=options.rounds,
            replay=gpu_timing.replayed,
            show=print,
        )
    if options.json:
        write_result(options.json, result)
    return 0


def run(
    wanted_cases: Sequence[GpuCase],
    wanted: Sequence[Candidate[GpuCase]],
    absent: Sequence[dict[str, str]],
    limits: Mapping[str, float],
    device: Mapping[str, Any],
    *,
    rounds: int,
    replay: Replay,
    show: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures every case with every candidate.

    Args:
        wanted_cases: shapes and rows.
        wanted: candidates; those whose packages are missing are listed in the result.
        absent: further rows of the result's ``not_run``.
        limits: ceilings of the device, `gpu_timing.ceilings`.
        device: what it is, `gpu_timing.device_name`.
        rounds: samples of each candidate.
        replay: takes times, `gpu_timing.replayed`.
        show: called with each line of the report.

    Returns:
        ``{"suite", "environment", "device", "versions", "ceilings", "cases", "not_run"}``, as the result of
        ``kdnative bench gemm``; ``device`` describes the GPU.
    """
    ready, missing = split_by_installed(wanted)
    not_run = [{**row, "case": "all"} for row in [*missing, *absent]]
    where = environment(1)
    show(start_line(where))
    show(device_line(device, limits))
    cases: list[dict[str, Any]] = []
    for case in wanted_cases:
        prepared, errors, failed = _prepared(ready, case)
        copies = {c.name: copies_of(c, case) for c in ready}
        timings = replay({name: p.call for name, p in prepared.items()}, copies, rounds)
        failed += [
            {"name": c.name, "kind": c.kind, "reason": "a CUDA graph can't capture it"}
            for c in ready
            if c.name in prepared and c.name not in timings
        ]
        rows = [timed_row(c, timings[c.name], errors[c.name]) for c in ready if c.name in timings]
        cases.append({"n": case.n, "k": case.k, "m": case.m, "rows": rows})
        not_run += [{**row, "case": label(cases[-1])} for row in failed]
        show(_table(cases[-1], limits))
        del prepared
    for line in [LEGEND, *not_run_lines(not_run), *summary_lines(map(as_case, cases))]:
        show(line)
    return {
        "suite": "gpu_gemm",
        "environment": where,
        "device": dict(device),
        "versions": versions(ready),
        "ceilings": dict(limits),
        "cases": cases,
        "not_run": not_run,
    }


def _prepared(
    ready: Sequence[Candidate[GpuCase]], case: GpuCase
) -> tuple[dict[str, Prepared], dict[str, float], list[dict[str, str]]]:
    """`prepare_all`, with a weight that has 2:4 zeros for the candidates that are about such weights."""
    dense = [candidate for candidate in ready if not candidate.scheme.endswith(SPARSE)]
    prepared, errors, failed = prepare_all(dense, case, case.reference, checks(case))
    sparse = [candidate for candidate in ready if candidate.scheme.endswith(SPARSE)]
    if sparse and case.k % 4:
        reason = f"2:4 needs K divisible by 4, K is {case.k}"
        failed = [*failed, *({"name": c.name, "kind": c.kind, "reason": reason} for c in sparse)]
    elif sparse:
        pruned = case.pruned()
        more = prepare_all(sparse, pruned, pruned.reference, checks(pruned))
        prepared, errors, failed = prepared | more[0], errors | more[1], failed + more[2]
    return prepared, errors, failed


def device_line(device: Mapping[str, Any], limits: Mapping[str, float]) -> str:
    """The GPU and its measured ceilings."""
    return (
        f"{device['gpu']} (sm_{device['capability'].replace('.', '')}, CUDA {device['cuda']}); measured: copies "
        f"{limits['copy_bytes'] / 1e12:.2f} TB/s, reads {limits['read_bytes'] / 1e12:.2f} TB/s, bf16 "
        f"{limits['bf16_ops'] / 1e12:.0f} TFLOPS, int8 {limits['int8_ops'] / 1e12:.0f} TOPS"
    )


def _table(case: Mapping[str, Any], limits: Mapping[str, float]) -> str:
    lines = [
        f"N x K = {case['n']} x {case['k']}, M = {case['m']}",
        f"  {'':28}{'us':>10}{'p20':>10}{'p80':>10}{'TOPS':>9}{'reads':>9}{'error':>9}  speed-up over the best peer",
    ]
    for row in sorted(case["rows"], key=lambda r: (r["kind"], median(r))):
        low, middle, high = (1e6 * seconds for seconds in quantiles(row))
        weights = WEIGHT_BYTES.get(row["kind"], 1) * case["n"] * case["k"]
        reads = f"{100 * weights / median(row) / limits['read_bytes']:.0f} %"
        compared = against_peers(row, case["rows"])
        lines.append(
            f"  {row['name']:28}{middle:>10.2f}{low:>10.2f}{high:>10.2f}{gops(case, row) / 1e3:>9.1f}{reads:>9}"
            f"{row['error']:>9.4f}" + (f"  {compared.speedup}" if compared else "")
        )
    return "\n".join(lines)
