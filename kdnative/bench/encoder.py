"""``kdnative bench encoder``: whole encoder forwards, ours against every peer, for several models and thread counts.

The case ``ragged`` is a batch of sequences of different lengths (see ``encoder_cases.RAGGED``). Every engine gets the
padded batch with its attention mask, which is how such a batch is served. Ours skips padding; what that saves is
measured against our own time for the same batch without any padding masked, the row ``..., nothing masked``.

The result, as JSON::

    {"suite": "cpu_encoder", "complete": bool,       false while the run goes on, and in what an interrupted run leaves
     "environment": {..., "threads": [1, 2]},        see kdnative.machine.environment
     "versions": {package: version},
     "ceilings": [{"threads", "int8_ops", "read"}],  one per number of threads
     "cases": [{"model", "threads", "case",          case: "16x128" or "ragged"
                "batch", "tokens", "lengths",        lengths: of each sequence, null where all have "tokens"
                "seconds", "rounds",                 what the case took, and how many rounds fitted into its time
                "samples": {"taken", "disturbed"},   disturbed: while something else used the cores
                "rows": [{"name", "kind", "ours", "p20", "p50", "p80",  milliseconds
                          "error",                   of the last hidden state against fp32, relative, without padding
                          "best_peer", "speedup",    of ours only: the fastest peer, null without one; how many times
                                                     faster ours is, the median over the rounds
                          "speedup_padded"}]}],      of ours in "ragged" only: over "..., nothing masked"
     "not_run": [{"name", "kind", "reason", "case"}],
     "summary": [{"name", "worst", "case", "peer", "median", "cases", "partial"}]}
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from kdnative.bench.encoder_candidates import COARSE, COMPILED, candidates
from kdnative.bench.encoder_cases import Encoder, EncoderCase, Shape, shapes
from kdnative.bench.encoder_models import NAMES, load_encoders
from kdnative.bench.options import add_output, add_peers, add_threads, names, positive
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
from kdnative.machine.timer import Timing, interleave, ratio, torch_threads

MODELS = "package:minilm-l6,random-bert-base"
CASES = "1x16,1x128,16x128,ragged"
SCHEMES = "w8a8"
SECONDS = 60
# Largest relative error of the last hidden state by kind: about twice what the formats cost at most in MiniLM, MPNet
# and random encoders, and at most 0.9, as 1 is the error of zeros. Trained weights amplify what rounding costs.
TOLERANCE = {
    "float": 0.04,  # bf16 costs 0.018
    "int8": 0.36,  # with a scale for each token; 0.18
    COARSE: 0.6,  # 0.51 in MiniLM; in MPNet 1.2, so that the result is wrong
    "int4": 0.9,  # 0.58 in groups of 128
    "int2": 0.9,  # 0.5 to 1.0 in random encoders; 1.5 and more in trained ones, so that the result is wrong
}
_UNMASKED = ", nothing masked"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suite from command-line arguments and returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    text = "Whole encoder forwards, ours against every peer."
    parser = argparse.ArgumentParser(prog="kdnative bench encoder", description=text, allow_abbrev=False)
    parser.add_argument("--models", type=names, default=MODELS, help=f"{NAMES} (default: {MODELS})")
    parser.add_argument("--cases", type=shapes, default=CASES, help=f"BATCHxTOKENS or ragged (default: {CASES})")
    parser.add_argument("--schemes", type=names, default=SCHEMES, help=f"such as w8a8,w4a8-g64 (default: {SCHEMES})")
    text = f"no further round begins after this time, once there are three (default: {SECONDS})"
    parser.add_argument("--case-seconds", type=positive, default=SECONDS, metavar="SECONDS", help=text)
    add_peers(parser)
    add_threads(parser, several=_usual_threads())
    add_output(parser, plot=True)
    options = parser.parse_args(argv)
    again = rerun_clean(__spec__.name, argv)
    if again is not None:
        return again
    result = run(
        load_encoders(options.models),
        options.cases,
        schemes=options.schemes,
        peers=options.peers,
        compiled=options.compile,
        threads=options.threads,
        rounds=options.rounds,
        case_seconds=options.case_seconds,
        show=lambda line: print(line, flush=True),
        save=(lambda partial: write_result(options.json, partial)) if options.json else lambda partial: None,
    )
    if options.plot:
        from kdnative.bench.plots import encoder_plot

        encoder_plot(result, options.plot)
    return 0


def _usual_threads() -> str:
    return "1,2" if (os.cpu_count() or 1) > 1 else "1"


def run(
    models: Mapping[str, nn.Module],
    cases: Sequence[Shape],
    *,
    schemes: Sequence[str] = ("w8a8",),
    peers: bool = True,
    compiled: bool = False,
    threads: Sequence[int] = (1,),
    rounds: int = 9,
    case_seconds: float = SECONDS,
    show: Callable[[str], None] = lambda line: None,
    save: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Measures every model with every number of threads in every case.

    Args:
        models: Hugging Face encoders, fp32, by the name that the result carries.
        cases: batches and lengths.
        schemes: ours.
        peers, compiled, show: as in :func:`kdnative.bench.gemm.run`.
        threads: of every engine, one number after the other.
        rounds: samples per candidate, fewer (but three) where ``case_seconds`` are over.
        case_seconds: see ``rounds``.
        save: called with the result after each case, so that an interrupted run keeps what it measured.

    Returns:
        The result, see the head of this module.
    """
    ready, absent = split_by_installed(candidates(schemes, peers, compiled))
    if peers and not compiled:
        absent += left_out(COMPILED, "--compile")
    result: dict[str, Any] = {
        "suite": "cpu_encoder",
        "complete": False,
        "environment": environment(list(threads)),
        "versions": versions(ready),
        "ceilings": [ceilings(count) for count in threads],
        "cases": [],
        "not_run": [{**row, "case": "all"} for row in absent],
        "summary": [],
    }
    show(machine_line(result["environment"]))
    for limits in result["ceilings"]:
        show(ceiling_line(limits))
    with torch.inference_mode(), quiet():
        for name, model in models.items():
            encoder = Encoder(model)
            for count in threads:
                encoder.use_threads(count)
                cores = SteadyCores(int8_speed(count))
                for shape in cases:
                    with torch_threads(count):
                        case, failed = _run_case(ready, EncoderCase(encoder, shape), rounds, case_seconds, cores)
                    case = {"model": name, **case, "samples": cores.counts()}
                    result["cases"].append(case)
                    result["not_run"] += [{**row, "case": _label(case)} for row in failed]
                    result["summary"] = summarize((_label(case), case["rows"]) for case in result["cases"])
                    save(result)
                    show(_table(case))
    result["complete"] = True
    save(result)
    for line in [*not_run_lines(result["not_run"]), *samples_line(result["cases"]), *summary_lines(result["summary"])]:
        show(line)
    return result


def _run_case(
    ready: Sequence[Candidate[EncoderCase]], case: EncoderCase, rounds: int, most_seconds: float, cores: SteadyCores
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """One case, and a row for each candidate that failed."""
    begin = time.perf_counter()
    if any(candidate.name.startswith("torch.compile") for candidate in ready):
        torch.compiler.reset()  # dynamo gives up on a function that it has compiled for many shapes
    prepared, errors, failed = prepare_all(ready, case, case.reference, TOLERANCE)
    measured = list(ready)
    if case.shape.lengths:
        whole = EncoderCase(case.encoder, replace(case.shape, lengths=None))
        unmasked = [replace(c, name=c.name + _UNMASKED) for c in ready if c.ours]
        found = prepare_all(unmasked, whole, whole.reference, TOLERANCE)
        prepared, errors, failed = prepared | found[0], errors | found[1], failed + found[2]
        measured += unmasked
    # Every candidate has run once already, to be checked.
    calls = {name: p.call for name, p in prepared.items()}
    timings = interleave(calls, rounds=rounds, round_seconds=0.02, warmup=1, most_seconds=most_seconds, cores=cores)
    rows = [
        {
            "name": candidate.name,
            "kind": candidate.kind,
            "ours": candidate.ours,
            **timings[candidate.name].percentiles(1e3),
            "error": errors[candidate.name],
            **_compared(candidate, ready, timings),
        }
        for candidate in measured
        if candidate.name in timings
    ]
    entry = {
        "threads": case.encoder.threads,
        "case": case.shape.label,
        "batch": case.shape.batch,
        "tokens": case.shape.tokens,
        "lengths": list(case.shape.lengths) if case.shape.lengths else None,
        "seconds": round(time.perf_counter() - begin, 1),
        "rounds": max((len(timing.samples) for timing in timings.values()), default=0),
        "rows": rows,
    }
    return entry, failed


def _compared(candidate: Candidate, ready: Sequence[Candidate], timings: dict[str, Timing]) -> dict[str, Any]:
    if candidate.name.endswith(_UNMASKED):
        return {}  # it computes more than the peers are asked for
    found = against_peers(candidate, ready, timings)
    unmasked = timings.get(candidate.name + _UNMASKED)
    if unmasked is not None:
        found["speedup_padded"] = ratio(unmasked, timings[candidate.name])
    return found


def _label(case: dict[str, Any]) -> str:
    return f"{case['model']} {case['case']} {case['threads']}t"


def _table(case: dict[str, Any]) -> str:
    lengths = case["lengths"]
    shape = f"{case['batch']} x {case['tokens']}" + (
        f", lengths {min(lengths)} to {max(lengths)}, mean {sum(lengths) / len(lengths):g}" if lengths else ""
    )
    took = f"{case['rounds']} rounds, {case['seconds']:.0f} s"
    lines = [
        f"{case['model']}, {case['threads']} threads, batch x tokens = {shape} ({took})",
        f"  {'':34}{'ms':>10}{'p20':>10}{'p80':>10}{'error':>9}{'x peer':>8}{'x padded':>10}",
    ]
    for row in sorted(case["rows"], key=lambda r: r["p50"]):
        timed = f"{row['p50']:>10.3f}{row['p20']:>10.3f}{row['p80']:>10.3f}"
        ratios = [f"{row[key]:.2f}" if row.get(key) is not None else "" for key in ("speedup", "speedup_padded")]
        lines.append(f"  {row['name']:34}{timed}{row['error']:>9.4f}{ratios[0]:>8}{ratios[1]:>10}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
