"""``kdnative bench table FILE.json ...``: the results of the suites as Markdown, with where they were measured."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdnative.bench import (
    accuracy,
    encoder,
    gemm,
    gpu_gemm,
    memory,
    model_peers,
    overhead,
    quality_lines,
    soak,
    sparse,
    study_tables,
    texts,
    vision,
    vision_runs,
    whole_models,
)
from kdnative.bench.options import names, numbers
from kdnative.bench.results import (
    LEGEND,
    Case,
    Compared,
    against_peers,
    cores_line,
    faster,
    goal_line,
    legend,
    machine_line,
    median,
    not_run_lines,
    quantiles,
    summary_lines,
)
from kdnative.bench.soak_memory import memory_line
from kdnative.machine.timer import quantile

Result = Mapping[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables of the files in ``argv`` and returns the exit code."""
    text = "Results of the suites as Markdown."
    parser = argparse.ArgumentParser(prog="kdnative bench table", description=text, allow_abbrev=False)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json", help="what a suite wrote with --json")
    parser.add_argument("--schemes", type=names, help="of a gemm result, such as w8a8,w4a8-g128 (default: all)")
    parser.add_argument("--m", type=numbers, help="of a gemm result: rows of activations (default: all)")
    options = parser.parse_args(argv)
    print("\n".join(markdown(read(file), schemes=options.schemes, m=options.m) for file in options.files), end="")
    return 0


def read(file: Path) -> Result:
    """A result.

    Raises:
        ValueError: the file is none.
    """
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from error
    if not isinstance(result, dict) or "suite" not in result or "environment" not in result:
        raise ValueError(f"{file}: not the result of a benchmark suite: it has no 'suite' or no 'environment'")
    return result


def markdown(result: Result, **options: Any) -> str:
    """The table of one result, with a line above that says how and where it was measured, and its summary below.

    Args:
        result: what a suite returned.
        options: of the suite's table: ``schemes`` and ``m`` (rows of activations) of `cpu_gemm`, all by default;
            ``summary=False`` leaves out the lists below the tables of `cpu_gemm` and `cpu_encoder`.

    Raises:
        ValueError: a suite that has no table, options that it doesn't have, or a result without one of the schemes.
    """
    suite = result["suite"]
    if suite not in _TABLES:
        raise ValueError(f"no table for results of the suite {suite!r}; there are {', '.join(_TABLES)}")
    command, table, allowed = _TABLES[suite]
    unknown = sorted(name for name, value in options.items() if value is not None and name not in allowed)
    if unknown:
        raise ValueError(f"the table of {suite} has no option {unknown[0]!r}; it has {', '.join(allowed) or 'none'}")
    lines = table(result, **{name: value for name, value in options.items() if value is not None})
    return "\n".join([caption(result, command), "", *lines, ""])


def caption(result: Result, command: str) -> str:
    """What printed a table: the command, the machine, the date and the versions of the engines."""
    engines = "".join(f", {name} {version}" for name, version in result.get("versions", {}).items())
    head = f"`kdnative bench {command}`, {machine_line(result['environment'])}{engines}:"
    if result.get("complete") is False:
        head += " **interrupted, not all cases were measured**"
    return head


def rows_of(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


def short(name: str) -> str:
    """The name of a row of ours without what they all begin with."""
    return name.removeprefix("kdnative ")


def _text(found: Compared | None) -> str:
    return "-" if found is None else f"{found.speedup} ({found.peer['name']})"


def _below(result: Result, cases: Iterable[Case], summary: bool) -> list[str]:
    """The legend; and, as a list, the summary and what did not run."""
    lines = [*summary_lines(cases), *cores_line(result["cases"]), *not_run_lines(result["not_run"])]
    explained = legend(row for case in result["cases"] for row in case["rows"])
    return ["", explained, *(["", *(f"- {line}" for line in lines)] if summary else [])]


def _gemm(
    result: Result, schemes: Sequence[str] | None = None, m: Sequence[int] | None = None, summary: bool = True
) -> list[str]:
    cases = [case for case in result["cases"] if m is None or case["m"] in m]
    ours = list(dict.fromkeys(row["name"] for case in cases for row in case["rows"] if row["ours"]))
    if schemes is not None:
        wanted = [f"kdnative {name}" for name in schemes]
        missing = [name for name in wanted if name not in ours]
        if missing:
            raise ValueError(f"the result has no {', '.join(missing)}; it has {', '.join(ours) or 'none of ours'}")
        ours = wanted
    partial = {row["name"] for case in cases for row in case["rows"] if against_peers(row, case["rows"], partial=True)}
    head = ["N x K", "M"]
    for name in ours:
        head += [f"{short(name)}, us", "over the best peer", *(["part of the work"] if name in partial else [])]
    table = []
    for case in cases:
        rows = {row["name"]: row for row in case["rows"]}
        line = [f"{case['n']} x {case['k']}", case["m"]]
        for name in ours:
            row = rows.get(name)
            line += [f"{1e6 * median(row):.4g}" if row else "-"]
            line += [_text(against_peers(row, case["rows"]) if row else None)]
            if name in partial:
                line += [_text(against_peers(row, case["rows"], partial=True) if row else None)]
        table.append(line)
    return rows_of(head, table) + _below(result, map(gemm.as_case, result["cases"]), summary)


def _gpu_gemm(result: Result) -> list[str]:
    return [gpu_gemm.device_line(result["device"], result["ceilings"]), "", *_gemm(result)]


def _encoder(result: Result, summary: bool = True) -> list[str]:
    ragged = [case["lengths"] for case in result["cases"] if case["lengths"]]
    head = ["model", "threads", "batch x tokens", "ours", "ms", "best peer", "its ms", "speed-up"]
    head += ["over ours with nothing masked"] if ragged else []
    table = []
    for case in result["cases"]:
        for row in case["rows"]:
            if not row["ours"] or row.get("unmasked"):
                continue
            found = against_peers(row, case["rows"])
            padded = encoder.over_unmasked(row, case["rows"])
            line = [case["model"], case["threads"], case["case"], short(row["name"]), f"{1e3 * median(row):.4g}"]
            line += [found.peer["name"], f"{1e3 * median(found.peer):.4g}", found.speedup] if found else ["-"] * 3
            table.append(line + ([padded or "-"] if ragged else []))
    lines = rows_of(head, table)
    if ragged:
        one = ragged[0]
        text = f"{len(one)} sequences of {min(one)} to {max(one)} tokens, mean {sum(one) / len(one):g}"
        ways = "padded with its attention mask, sorted in batches of eight, or one by one, whichever is faster"
        lines += ["", f"`ragged`: {text}; a peer gets the batch {ways}."]
    return lines + _below(result, map(whole_models.as_case, result["cases"]), summary)


def _vision(result: Result, summary: bool = True) -> list[str]:
    head = ["model", "threads", "batch", "ours, ms", "of the int8 ceiling", "best peer", "its ms", "speed-up"]
    head += ["SQNR, dB", "its SQNR", "MB", "least MB of a peer"]
    ceilings = {limits["threads"]: limits["int8_ops"] for limits in result["ceilings"]}
    table = []
    for case in result["cases"]:
        ours = next((row for row in case["rows"] if row["ours"]), None)
        if ours is None:
            continue
        found, peak = against_peers(ours, case["rows"]), ceilings[case["threads"]]
        products = result["models"][case["model"]]["products"]
        part = f"{100 * vision_runs.share(ours, case['batch'], products, peak):.0f} %" if peak else "-"
        line = [case["model"], case["threads"], case["batch"], f"{1e3 * median(ours):.4g}", part]
        line += [found.peer["name"], f"{1e3 * median(found.peer):.4g}", found.speedup] if found else ["-"] * 3
        line += [f"{vision_runs.sqnr(ours):.1f}", f"{vision_runs.sqnr(found.peer):.1f}" if found else "-"]
        table.append([*line, *vision.memory_cells(result, case)])
    text = "Memory is the peak above the imports, of fresh processes with the first number of threads."
    held = [f"Engines were held to {result['held']}; those that can't be are no peers."] if result["held"] else []
    below = _below(result, map(whole_models.as_case, result["cases"]), summary)
    return [*rows_of(head, table), "", text, *held, *below]


def _memory(result: Result) -> list[str]:
    table = []
    for case in result["cases"]:
        for row in memory.goals(case["processes"]):
            sizes = [f"{row[kind] / 1e6:.1f}" for kind in ("native", "float")]
            words = row["goal"].partition(" < ")[0]
            verdict = "met" if row["met"] else "missed"
            line = [case["model"], case["scheme"], words, *sizes, f"{100 * row['value']:.1f} %"]
            table.append([*line, f"< {100 * row['limit']:g} %: {verdict}"])
    head = ["model", "scheme", "memory", "native, MB", "fp32, MB", "native / fp32", "goal"]
    shape = f"{result['batch']} x {result['tokens']} tokens"
    text = f"Forwards of {shape} over the whole vocabulary, medians of {result['repeats']} fresh processes."
    return [*rows_of(head, table), "", text]


def _logits(result: Result) -> list[str]:
    table = []
    for figure, of in (("counted", "a step"), ("resident", "a step"), ("trained", "a training")):
        for row in result[figure]:
            sizes = [f"{row[way] / 1e6:,.0f}" for way in ("logits", "tiles")]
            share = f"{100 * row['tiles'] / row['logits']:.1f} %"
            name = f"{'counted' if figure == 'counted' else 'resident'} peak of {of}"
            table.append([name, row["dtype"], f"{row['tokens']:,}", *sizes, share])
    return rows_of(["memory", "type", "tokens", "with logits, MB", "in tiles, MB", "tiles / logits"], table)


def _accuracy(result: Result) -> list[str]:
    table = []
    for case in result["cases"]:
        for row in accuracy.goals(case):
            name, _, limit = row["goal"].partition(" >= ")
            verdict = "met" if row["met"] else "missed"
            table.append([case["scheme"], name, f"{row['value']:.5f}", f">= {limit}: {verdict}"])
        table.append([case["scheme"], "least cosine", f"{case['min_cosine']:.5f}", "-"])
    text = f"{result['model']}, {result['sentences']:,} sentences, {result['pairs']:,} pairs, against fp32."
    return [*rows_of(["scheme", "embeddings", "value", "goal"], table), "", text]


def _soak(result: Result) -> list[str]:
    head = ["model", "scheme", "Python threads", "forwards", "inputs", "seconds", "wrong", "verdict"]
    keys = ("model", "scheme", "python_threads", "forwards", "inputs", "seconds", "wrong")
    row = [*(result[key] for key in keys), "passed" if soak.passed(result) else "failed"]
    return [*rows_of(head, [row]), "", memory_line(soak.memory(result))]


def _overhead(result: Result) -> list[str]:
    table = []
    for case in result["cases"]:
        module, operator = (1e6 * quantile(case[part], 0.5) for part in ("module", "operator"))
        goals = "; ".join(goal_line(row) for row in overhead.goals(case)) or "-"
        table.append([case["name"], f"{module:.2f}", f"{operator:.2f}", f"{overhead.cost(case)[1]:.2f}", goals])
    return rows_of(["module", "call, us", "bare operator, us", "difference, us", "goal"], table)


def _sparse(result: Result) -> list[str]:
    cases = result["cases"]
    shares = sorted({case["zeros"] for case in cases})
    gains: dict[tuple, dict[float, str]] = {}
    for case in cases:
        line = (f"{case['n']} x {case['k']}", case["pattern"], case["m"])
        gains.setdefault(line, {})[case["zeros"]] = f"{sparse.over_dense(case).value:.2f}x"
    table = [[*line, *(found.get(share, "-") for share in shares)] for line, found in gains.items()]
    head = ["N x K", "pattern", "M", *(f"{100 * share:g} %" for share in shares)]
    return [
        *rows_of(head, table),
        "",
        f"Speed over our own dense w8a8 by share of zeros, ratios of median times, {result['clock']}.",
    ]


def _model(result: Result) -> list[str]:
    table = []
    for row in result["rows"]:
        low, middle, high = (f"{1e3 * seconds:.4g}" for seconds in quantiles(row))
        table.append([row["name"], f"{row['batch']} x {row['tokens']}", middle, low, high])
    return rows_of(["model", "batch x tokens", "ms", "p20", "p80"], table)


def _model_peers(result: Result, summary: bool = True) -> list[str]:
    head = ["batch x tokens", "engine", "ms", "native student is faster by"]
    table, lines = [], []
    for case in result["cases"]:
        shape = f"{case['batch']} x {case['tokens']}"
        ours = next((row for row in case["rows"] if row["ours"]), None)
        for row in sorted(case["rows"], key=median):
            gain = "-" if ours is None or row is ours else faster(row, ours)
            table.append([shape, row["name"], f"{1e3 * median(row):.4g}", gain])
        lines += [f"- {shape}: {line}" for line in model_peers.gain_lines(case["rows"])]
    below = [f"- {line}" for line in [*cores_line(result["cases"]), *not_run_lines(result["not_run"])]]
    text = f"The student of `{result['student']}`, {result['scheme']} on native kernels. {LEGEND}"
    return [*rows_of(head, table), "", text, "", *lines, *(below if summary else [])]


def _texts(result: Result, summary: bool = True) -> list[str]:
    head = ["sentences", "engine", "ms a sentence", "sentences a second", "ours is faster by"]
    table = []
    for case in result["cases"]:
        ours = next((row for row in case["rows"] if row["ours"]), None)
        for row in sorted(case["rows"], key=median):
            seconds = median(row) / result["sentences"]
            gain = "-" if ours is None or row["ours"] else faster(row, ours)
            table.append([case["case"], row["name"], f"{1e3 * seconds:.3g}", f"{1 / seconds:.0f}", gain])
    text = f"{result['sentences']} sentences of {result['data']} through `encode()`, {result['model']}."
    return [*rows_of(head, table), "", text, *_below(result, map(texts.as_case, result["cases"]), summary)]


# The suite, its command, its table, and the options of that.
_TABLES: dict[str, tuple[str, Callable[..., list[str]], tuple[str, ...]]] = {
    "cpu_gemm": ("gemm", _gemm, ("schemes", "m", "summary")),
    "gpu_gemm": ("gpu-gemm", _gpu_gemm, ()),
    "cpu_encoder": ("encoder", _encoder, ("summary",)),
    "cpu_vision": ("vision", _vision, ("summary",)),
    "cpu_sparse": ("sparse", _sparse, ()),
    "memory": ("memory", _memory, ()),
    "logits": ("logits", _logits, ()),
    "accuracy": ("accuracy", _accuracy, ()),
    "quality": ("quality", lambda result: quality_lines.tables(result, rows_of), ()),
    "gate": ("gate", lambda result: study_tables.gate(result, rows_of), ()),
    "qat": ("qat", lambda result: study_tables.qat(result, rows_of), ()),
    "soak": ("soak", _soak, ()),
    "overhead": ("overhead", _overhead, ()),
    "texts": ("texts", _texts, ("summary",)),
    "model": ("model", _model, ()),
    "model_peers": ("model --peers", _model_peers, ("summary",)),
}


if __name__ == "__main__":
    sys.exit(main())
