"""``kdnative bench encoder``: a whole encoder forward, ours against every peer."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .encoder_candidates import COMPILED, Encoder, EncoderCase, candidates
from .machine import environment, rerun_clean, write_result
from .options import add_common, sizes
from .peers import HOW_TO_GET, Candidate, left_out, prepare_all, quiet, split_by_installed, versions
from .results import against_peers, describe, not_run_lines, summarize, summary_lines
from .roofline import ceilings
from .timer import interleave, torch_threads

CASES = "1x16,1x32,1x128,16x128"
SCHEMES = "w8a8"
# Relative error of the last hidden state. Random weights and a whole encoder's depth amplify what 8 bits cost; a wrong
# result is at 1 or above.
TOLERANCE = {"any": 0.6}
RANDOM = {  # layers, hidden size, heads, FFN width
    "random-minilm": (6, 384, 12, 1536),
    "random-bert-base": (12, 768, 12, 3072),
    "random-tiny": (2, 64, 2, 128),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suite from command-line arguments and returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="kdnative bench encoder", description=__doc__, allow_abbrev=False)
    text = f"package:NAME, hub:NAME, a Hugging Face folder, or {', '.join(RANDOM)} (default: package:minilm-l6)"
    parser.add_argument("--model", default="package:minilm-l6", help=text)
    parser.add_argument("--cases", type=sizes, default=CASES, help=f"BATCHxTOKENS,... (default: {CASES})")
    parser.add_argument("--schemes", default=SCHEMES, help=f"ours, such as w8a8,w4a8-g64 (default: {SCHEMES})")
    parser.add_argument("--compile", action="store_true", help="torch.compile too (minutes)")
    add_common(parser)
    options = parser.parse_args(argv)
    again = rerun_clean(__spec__.name, argv)
    if again is not None:
        return again
    result = run(
        load_encoder(options.model),
        options.cases,
        name=options.model,
        schemes=options.schemes.split(","),
        peers=options.peers,
        compiled=options.compile,
        threads=options.threads,
        rounds=options.rounds,
        show=print,
    )
    if options.json:
        write_result(options.json, result)
    if options.plot:
        from .plots import encoder_plot

        encoder_plot(result, options.plot)
    return 0


def load_encoder(source: str) -> nn.Module:
    """A Hugging Face encoder without a head, fp32: real weights, or random ones for the names of ``RANDOM``.

    Raises:
        ImportError: transformers is not installed. ValueError: an unknown random model.
    """
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ImportError(f"the encoder benchmark needs transformers: {HOW_TO_GET}") from error
    if source in RANDOM:
        layers, hidden, heads, ffn = RANDOM[source]
        config = transformers.BertConfig(
            num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads, intermediate_size=ffn
        )
        torch.manual_seed(0)
        return transformers.BertModel(config, add_pooling_layer=False).eval()
    if source.startswith("random"):
        raise ValueError(f"no random model {source!r}; there are {', '.join(RANDOM)}")
    from kdnative.data import model_path

    return transformers.AutoModel.from_pretrained(model_path(source), dtype=torch.float32).eval()


def run(
    model: nn.Module,
    cases: Sequence[tuple[int, int]],
    *,
    name: str = "model",
    schemes: Sequence[str] = ("w8a8",),
    peers: bool = True,
    compiled: bool = False,
    threads: int = 1,
    rounds: int = 9,
    show=lambda line: None,
) -> dict[str, Any]:
    """Measures one encoder for every (batch, tokens).

    Args:
        model: a Hugging Face encoder, fp32.
        cases: (batch, tokens).
        name: of the model, for the reader.
        schemes: ours.
        peers, compiled, threads, rounds, show: as in :func:`kdnative.bench.gemm.run`.

    Returns:
        ``{"suite", "model", "environment", "versions", "ceilings", "cases", "not_run", "summary"}``. A case has
        ``batch``, ``tokens`` and ``rows``; a row has ``name``, ``ours``, milliseconds ``p20``/``p50``/``p80``,
        ``error`` (relative, of the last hidden state) and, for ours, ``speedup`` over ``best_peer``.
    """
    wanted = candidates(schemes, peers, compiled)
    ready, absent = split_by_installed(wanted)
    if peers and not compiled:
        absent += left_out(COMPILED, "--compile")
    not_run = [{**row, "case": "all"} for row in absent]
    found = []
    with torch_threads(threads), torch.inference_mode(), quiet():
        limits = ceilings(threads)
        where = environment(threads)
        show(describe(where, limits))
        encoder = Encoder(model, threads)
        for batch, tokens in cases:
            rows, failed = _run_case(ready, EncoderCase(encoder, batch, tokens), rounds)
            label = f"{batch}x{tokens}"
            found.append({"batch": batch, "tokens": tokens, "rows": rows})
            not_run += [{**row, "case": label} for row in failed]
            show(_table(f"{name}, batch x tokens = {label}", rows))
    summary = summarize((f"{case['batch']}x{case['tokens']}", case["rows"]) for case in found)
    for line in [*not_run_lines(not_run), *summary_lines(summary)]:
        show(line)
    return {
        "suite": "cpu_encoder",
        "model": name,
        "environment": where,
        "versions": versions(ready),
        "ceilings": limits,
        "cases": found,
        "not_run": not_run,
        "summary": summary,
    }


def _run_case(
    ready: Sequence[Candidate[EncoderCase]], case: EncoderCase, rounds: int
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    prepared, errors, failed = prepare_all(ready, case, case.reference, TOLERANCE)
    timings = interleave({name: p.call for name, p in prepared.items()}, rounds=rounds, round_seconds=0.02)
    rows = [
        {
            "name": candidate.name,
            "kind": candidate.kind,
            "ours": candidate.ours,
            **timings[candidate.name].percentiles(1e3),
            "error": errors[candidate.name],
            **against_peers(candidate, ready, timings),
        }
        for candidate in ready
        if candidate.name in timings
    ]
    return rows, failed


def _table(title: str, rows: Sequence[dict[str, Any]]) -> str:
    lines = [title, f"  {'':28}{'ms':>10}{'p20':>10}{'p80':>10}{'error':>9}{'x peer':>8}"]
    for row in sorted(rows, key=lambda r: r["p50"]):
        speedup = f"{row['speedup']:.2f}" if row.get("speedup") is not None else ""
        timed = f"{row['p50']:>10.3f}{row['p20']:>10.3f}{row['p80']:>10.3f}"
        lines.append(f"  {row['name']:28}{timed}{row['error']:>9.4f}{speedup:>8}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
