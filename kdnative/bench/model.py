"""``kdnative bench model``: latency of saved models side by side, over batch sizes and lengths; `model_peers` too."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdnative.bench.accuracy import DATA
from kdnative.bench.options import add_output, add_threads, numbers
from kdnative.bench.results import quantiles, rounded, start_line
from kdnative.machine.environment import environment, write_result
from kdnative.machine.latency import as_dtype, example_inputs
from kdnative.machine.timer import interleave, torch_threads


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suite from command-line arguments and returns the exit code."""
    parser = argparse.ArgumentParser(prog="kdnative bench model", description=__doc__, allow_abbrev=False)
    text = "kdnative checkpoint, Hugging Face folder, package:NAME or hub:NAME; append @bfloat16 for that type"
    parser.add_argument("models", nargs="+", metavar="MODEL", help=text)
    parser.add_argument("--batch", type=numbers, default="1,16", help="sequences per forward (default: 1,16)")
    parser.add_argument("--tokens", type=numbers, default="16,32,128", help="tokens per sequence (default: 16,32,128)")
    add_threads(parser)
    add_output(parser, plot=True)
    group = parser.add_argument_group("a student in every engine")
    text = "MODEL is a run's folder, or a float model: compare its native form with the same model in other engines"
    group.add_argument("--peers", action="store_true", help=text)
    group.add_argument("--scheme", default="w8a8", help="of a float model's native form (default: w8a8)")
    group.add_argument("--teacher", metavar="MODEL", help="of a float model; a run has its own")
    group.add_argument("--texts", default=DATA, help=f"to calibrate other engines with, of a float model ({DATA})")
    group.add_argument("--compile", action="store_true", help="torch.compile too (minutes)")
    options = parser.parse_args(argv)
    if options.peers:
        return _peers(parser, options)
    from kdnative.pipeline.models import load_any

    models = {}
    for source in options.models:
        path, _, dtype = source.partition("@")
        model = load_any(path)[0].eval()
        name = (Path(path).name or path) + (f" {dtype}" if dtype else "")
        models[source if name in models else name] = as_dtype(model, dtype) if dtype else model
    _check(models)
    where = environment(options.threads)
    print(start_line(where))
    rows = []
    for batch, tokens in itertools.product(options.batch, options.tokens):
        rows += measure(models, batch, tokens, options.threads, options.rounds)
    width = max(map(len, models))
    print(f"{'model':{width}}  batch x tokens        ms       p20       p80")
    for row in rows:
        low, middle, high = (1e3 * seconds for seconds in quantiles(row))
        case = f"{row['batch']} x {row['tokens']}"
        print(f"{row['name']:{width}}  {case:>14}{middle:>10.3f}{low:>10.3f}{high:>10.3f}")
    if options.json:
        write_result(options.json, {"suite": "model", "environment": where, "rows": rows})
    if options.plot:
        from kdnative.bench.plots import latency_plot

        latency_plot(rows, where, options.plot)
    return 0


def _peers(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from kdnative.bench import model_peers

    if len(options.models) != 1 or options.plot:
        parser.error("--peers takes one MODEL, and draws no --plot")
    (source,) = options.models
    if (Path(source) / "recipe.yaml").is_file():
        student = model_peers.of_run(Path(source))
    else:
        student = model_peers.of_folder(source, options.scheme, options.teacher, options.texts)
    result = model_peers.run(
        student,
        list(itertools.product(options.batch, options.tokens)),
        threads=options.threads,
        rounds=options.rounds,
        compiled=options.compile,
        show=lambda line: print(line, flush=True),
    )
    if options.json:
        write_result(options.json, result)
    return 0


def measure(
    models: Mapping[str, nn.Module], batch: int, tokens: int, threads: int, rounds: int
) -> list[dict[str, Any]]:
    """Times the models side by side: ``{"name", "batch", "tokens", "threads", "samples"}`` of each, seconds."""
    with torch_threads(threads), torch.inference_mode():
        calls = {name: _forward(model, batch, tokens) for name, model in models.items()}
        timings = interleave(calls, rounds=rounds, round_seconds=0.005)
    case = {"batch": batch, "tokens": tokens, "threads": threads}
    return [{"name": name, **case, "samples": rounded(timing.samples)} for name, timing in timings.items()]


def _forward(model: nn.Module, batch: int, tokens: int) -> Callable[[], object]:
    inputs = example_inputs(model, batch, tokens)
    return lambda: model(**inputs)


def _check(models: Mapping[str, nn.Module]) -> None:
    """ValueError for a model that does not take what the benchmark gives: ids of tokens and a mask."""
    for name, model in models.items():
        try:
            with torch.inference_mode():
                model(**example_inputs(model, 1, 1))
        except Exception as error:  # whatever a model of images or sounds makes of it
            raise ValueError(
                f"{name} can't be timed: this benchmark is for encoders and classifiers of text, which take input_ids "
                f"and attention_mask; a {type(model).__name__} fails with them: {error}"
            ) from error


if __name__ == "__main__":
    sys.exit(main())
