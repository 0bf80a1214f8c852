"""``kdnative bench encoder``: whole encoder forwards, ours against every peer, for several models and thread counts.

The case ``ragged`` is a batch of sequences of different lengths (see ``encoder_cases.RAGGED``). Ours gets it padded,
with its attention mask, and skips padding. Peers get it in three ways, and the fastest counts: padded too, sorted by
length in batches of eight, and one sequence after the other. What skipping saves is measured against our own time for
the same batch with nothing masked, the row ``..., nothing masked``.

The result, as JSON::

    {"suite": "cpu_encoder", "complete": bool,       false while the run goes on, and in what an interrupted run leaves
     "environment": {..., "threads": [1, 2]},        see kdnative.machine.environment
     "versions": {package: version},
     "ceilings": [{"threads", "int8_ops", "read"}],  one per number of threads
     "cases": [{"model", "threads", "case",          case: "16x128" or "ragged"
                "batch", "tokens", "lengths",        lengths: of each sequence, null where all have "tokens"
                "seconds",                           what the case took
                "cores": {"taken", "disturbed"},     samples; disturbed: while something else used the cores
                "rows": [...]}],                     see kdnative.bench.results; "unmasked": nothing is masked
     "not_run": [{"name", "kind", "reason", "case"}]}
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from kdnative.bench.encoder_candidates import BUCKETS, COMPILED, candidates, sorted_by_length
from kdnative.bench.encoder_cases import Encoder, EncoderCase, Shape, shapes
from kdnative.bench.encoder_checks import checks
from kdnative.bench.encoder_models import NAMES, load_encoders
from kdnative.bench.options import names
from kdnative.bench.peers import Candidate, left_out, prepare_all, quiet, split_by_installed, versions
from kdnative.bench.results import Row, against_peers, faster, median, quantiles, timed_row
from kdnative.bench.steady import SteadyCores, int8_speed
from kdnative.bench.whole_models import SECONDS, begin, command, end, label, took
from kdnative.machine.speedup import Speedup
from kdnative.machine.timer import interleave, torch_threads

MODELS = "package:minilm-l6,random-bert-base"
CASES = "1x16,1x128,16x128,ragged"
SCHEMES = "w8a8"
_UNMASKED = ", nothing masked"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suite from command-line arguments and returns the exit code."""
    text = "Whole encoder forwards, ours against every peer."
    parser = argparse.ArgumentParser(prog="kdnative bench encoder", description=text, allow_abbrev=False)
    parser.add_argument("--models", type=names, default=MODELS, help=f"{NAMES} (default: {MODELS})")
    parser.add_argument("--cases", type=shapes, default=CASES, help=f"BATCHxTOKENS or ragged (default: {CASES})")
    parser.add_argument("--schemes", type=names, default=SCHEMES, help=f"such as w8a8,w4a8-g64 (default: {SCHEMES})")

    def measure(options: argparse.Namespace, **how: Any) -> dict[str, Any]:
        models, what = load_encoders(options.models), {"peers": options.peers, "compiled": options.compile}
        return run(models, options.cases, schemes=options.schemes, **what, **how)

    return command(__spec__.name, parser, argv, measure)


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
    result = begin("cpu_encoder", threads, versions(ready), absent, show)
    with torch.inference_mode(), quiet():
        for name, model in models.items():
            encoder = Encoder(model)
            for count in threads:
                encoder.use_threads(count)
                cores = SteadyCores(int8_speed(count))
                for shape in cases:
                    with torch_threads(count):
                        case, failed = _run_case(ready, EncoderCase(encoder, shape), rounds, case_seconds, cores)
                    case = {"model": name, **case, "cores": cores.counts()}
                    result["cases"].append(case)
                    result["not_run"] += [{**row, "case": label(case)} for row in failed]
                    save(result)
                    show(_table(case))
    return end(result, show, save)


def _run_case(
    ready: Sequence[Candidate[EncoderCase]], case: EncoderCase, rounds: int, most_seconds: float, cores: SteadyCores
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """One case, and a row for each candidate that failed."""
    begin = time.perf_counter()
    if any(candidate.name.startswith("torch.compile") for candidate in ready):
        torch.compiler.reset()  # dynamo gives up on a function that it has compiled for many shapes
    measured = list(ready)
    if case.shape.lengths:
        # Each shape is another graph to torch.compile: it gets the padded batch alone.
        again = [c for c in ready if not c.ours and not c.name.startswith("torch.compile")]
        measured += [sorted_by_length(candidate, bucket) for bucket in BUCKETS for candidate in again]
    prepared, errors, failed = prepare_all(measured, case, case.reference, checks(case))
    unmasked: list[Candidate[EncoderCase]] = []
    if case.shape.lengths:
        whole = EncoderCase(case.encoder, replace(case.shape, lengths=None))
        unmasked = [replace(c, name=c.name + _UNMASKED) for c in ready if c.ours]
        found = prepare_all(unmasked, whole, whole.reference, checks(whole))
        prepared, errors, failed = prepared | found[0], errors | found[1], failed + found[2]
    # Every candidate has run once already, to be checked.
    calls = {name: p.call for name, p in prepared.items()}
    timings = interleave(calls, rounds=rounds, round_seconds=0.02, warmup=1, most_seconds=most_seconds, cores=cores)
    rows = [timed_row(c, timings[c.name], errors[c.name]) for c in [*measured, *unmasked] if c.name in timings]
    for row in rows:
        if row["name"].endswith(_UNMASKED):
            row["unmasked"] = True  # it computes more than the peers are asked for
    entry = {
        "threads": case.encoder.threads,
        "case": case.shape.label,
        "batch": case.shape.batch,
        "tokens": case.shape.tokens,
        "lengths": list(case.shape.lengths) if case.shape.lengths else None,
        "seconds": round(time.perf_counter() - begin, 1),
        "rows": rows,
    }
    return entry, failed


def over_unmasked(row: Row, rows: Sequence[Row]) -> Speedup | None:
    """How many times faster one of ours is than itself with nothing masked; None where that was not measured."""
    name = row["name"] + _UNMASKED
    return next((faster(other, row) for other in rows if other["name"] == name), None)


def _table(case: Mapping[str, Any]) -> str:
    lengths = case["lengths"]
    shape = f"{case['batch']} x {case['tokens']}" + (
        f", lengths {min(lengths)} to {max(lengths)}, mean {sum(lengths) / len(lengths):g}" if lengths else ""
    )
    lines = [
        f"{case['model']}, {case['threads']} threads, batch x tokens = {shape} ({took(case)})",
        f"  {'':44}{'ms':>10}{'p20':>10}{'p80':>10}{'error':>9}  speed-up over the best peer",
    ]
    for row in sorted(case["rows"], key=median):
        low, middle, high = (1e3 * seconds for seconds in quantiles(row))
        compared, padded = against_peers(row, case["rows"]), over_unmasked(row, case["rows"])
        speedups = (f"  {compared.speedup}" if compared else "") + (f", {padded} over nothing masked" if padded else "")
        lines.append(f"  {row['name']:44}{middle:>10.3f}{low:>10.3f}{high:>10.3f}{row['error']:>9.4f}{speedups}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
