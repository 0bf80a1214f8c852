"""``kdnative bench table FILE.json ...``: the results of the suites as Markdown, with where they were measured."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdnative.bench.options import names, numbers
from kdnative.bench.results import goal_line, machine_line, not_run_lines, samples_line, summary_lines
from kdnative.bench.soak_memory import memory_line

Result = Mapping[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables of the files in ``argv`` and returns the exit code."""
    text = "Results of the suites as Markdown."
    parser = argparse.ArgumentParser(prog="kdnative bench table", description=text, allow_abbrev=False)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json", help="what a suite wrote with --json")
    parser.add_argument("--schemes", type=names, help="of a gemm result, such as w8a8,w4a8-g128 (default: all)")
    parser.add_argument("--m", type=numbers, help="of a gemm result: rows of activations (default: all)")
    options = parser.parse_args(argv)
    print("\n".join(markdown(read(file), options.schemes, options.m) for file in options.files), end="")
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


def markdown(result: Result, schemes: Sequence[str] | None = None, m: Sequence[int] | None = None) -> str:
    """The table of one result, with a line above that says how and where it was measured, and its summary below.

    Args:
        result: what a suite returned.
        schemes: of a ``cpu_gemm`` result, all by default.
        m: rows of activations of a ``cpu_gemm`` result, all by default.

    Raises:
        ValueError: a suite that has no table, or a result without one of the schemes.
    """
    suite = result["suite"]
    if suite not in _TABLES:
        raise ValueError(f"no table for results of the suite {suite!r}; there are {', '.join(_TABLES)}")
    command, table = _TABLES[suite]
    lines = table(result, schemes, m) if table is _gemm else table(result)
    engines = "".join(f", {name} {version}" for name, version in result.get("versions", {}).items())
    head = f"`kdnative bench {command}`, {machine_line(result['environment'])}{engines}:"
    if result.get("complete") is False:
        head += " **interrupted, not all cases were measured**"
    return "\n".join([head, "", *lines, ""])


def _rows(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


def _short(name: str) -> str:
    return name.removeprefix("kdnative ")


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _peer(row: Mapping[str, Any], speedup: str = "speedup", peer: str = "best_peer") -> str:
    return "-" if row.get(speedup) is None else f"{row[speedup]:.2f}x ({row[peer]})"


def _below(result: Result) -> list[str]:
    """Summary and what did not run, as a list."""
    lines = [
        *summary_lines(result["summary"]),
        *samples_line(result["cases"]),
        *not_run_lines(result["not_run"]),
    ]
    return ["", *(f"- {line}" for line in lines)]


def _gemm(result: Result, schemes: Sequence[str] | None, m: Sequence[int] | None) -> list[str]:
    cases = [case for case in result["cases"] if m is None or case["m"] in m]
    ours = list(dict.fromkeys(row["name"] for case in cases for row in case["rows"] if row["ours"]))
    if schemes is not None:
        wanted = [f"kdnative {name}" for name in schemes]
        missing = [name for name in wanted if name not in ours]
        if missing:
            raise ValueError(f"the result has no {', '.join(missing)}; it has {', '.join(ours) or 'none of ours'}")
        ours = wanted
    partial = {row["name"] for case in cases for row in case["rows"] if "best_partial" in row}
    head = ["N x K", "M"]
    for name in ours:
        head += [
            f"{_short(name)}, us",
            "best peer",
            *(["part of the work"] if name in partial else []),
        ]
    table = []
    for case in cases:
        rows = {row["name"]: row for row in case["rows"]}
        line = [f"{case['n']} x {case['k']}", case["m"]]
        for name in ours:
            row = rows.get(name, {})
            line += [f"{row['p50']:g}" if row else "-", _peer(row)]
            line += [_peer(row, "speedup_partial", "best_partial")] if name in partial else []
        table.append(line)
    return _rows(head, table) + _below(result)


def _encoder(result: Result) -> list[str]:
    ragged = [case["lengths"] for case in result["cases"] if case["lengths"]]
    head = ["model", "threads", "batch x tokens", "ours", "ms", "best peer", "its ms", "speed-up"]
    head += ["over our padded time"] if ragged else []
    table = []
    for case in result["cases"]:
        rows = {row["name"]: row for row in case["rows"]}
        compared = [row for row in case["rows"] if "best_peer" in row]
        for row in compared:
            peer = row["best_peer"]
            line = [
                case["model"],
                case["threads"],
                case["case"],
                row["name"].removeprefix("kdnative "),
                f"{row['p50']:g}",
            ]
            line += [peer or "-", f"{rows[peer]['p50']:g}" if peer else "-", _times(row["speedup"])]
            table.append(line + ([_times(row.get("speedup_padded"))] if ragged else []))
    lines = _rows(head, table)
    if ragged:
        one = ragged[0]
        text = f"{len(one)} sequences of {min(one)} to {max(one)} tokens, mean {sum(one) / len(one):g}"
        lines += ["", f"`ragged`: {text}; peers get the padded batch with its attention mask."]
    return lines + _below(result)


def _memory(result: Result) -> list[str]:
    table = []
    for case in result["cases"]:
        for row in case["goals"]:
            sizes = [f"{row[kind] / 1e6:.1f}" for kind in ("native", "float")]
            words = row["goal"].partition(" < ")[0]
            verdict = "met" if row["met"] else "missed"
            line = [case["model"], case["scheme"], words, *sizes, f"{100 * row['value']:.1f} %"]
            table.append([*line, f"< {100 * row['limit']:g} %: {verdict}"])
    head = ["model", "scheme", "memory", "native, MB", "fp32, MB", "native / fp32", "goal"]
    shape = f"{result['batch']} x {result['tokens']} tokens"
    text = f"Forwards of {shape} over the whole vocabulary, medians of {result['repeats']} fresh processes."
    return [*_rows(head, table), "", text]


def _accuracy(result: Result) -> list[str]:
    table = []
    for case in result["cases"]:
        for row in case["goals"]:
            name, _, limit = row["goal"].partition(" >= ")
            verdict = "met" if row["met"] else "missed"
            table.append([case["scheme"], name, f"{row['value']:.5f}", f">= {limit}: {verdict}"])
        table.append([case["scheme"], "least cosine", f"{case['min_cosine']:.5f}", "-"])
    text = f"{result['model']}, {result['sentences']:,} sentences, {result['pairs']:,} pairs, against fp32."
    return [*_rows(["scheme", "embeddings", "value", "goal"], table), "", text]


def _soak(result: Result) -> list[str]:
    head = ["model", "scheme", "Python threads", "forwards", "inputs", "seconds", "wrong", "verdict"]
    keys = ("model", "scheme", "python_threads", "forwards", "inputs", "seconds", "wrong")
    row = [result[key] for key in keys]
    return [*_rows(head, [[*row, "passed" if result["passed"] else "failed"]]), "", memory_line(result["memory"])]


def _overhead(result: Result) -> list[str]:
    table = [
        [
            case["name"],
            f"{case['module']:.2f}",
            f"{case['operator']:.2f}",
            f"{case['cost']:.2f}",
            "; ".join(goal_line(row) for row in case.get("goals", [])) or "-",
        ]
        for case in result["cases"]
    ]
    return _rows(["module", "call, us", "bare operator, us", "difference, us", "goal"], table)


def _sparse(result: Result) -> list[str]:
    cases = result["cases"]
    shares = sorted({case["zeros"] for case in cases})
    gains: dict[tuple, dict[float, str]] = {}
    for case in cases:
        line = (f"{case['n']} x {case['k']}", case["pattern"], case["m"])
        gains.setdefault(line, {})[case["zeros"]] = f"{case['speedup']:.2f}x"
    table = [[*line, *(found.get(share, "-") for share in shares)] for line, found in gains.items()]
    head = ["N x K", "pattern", "M", *(f"{100 * share:g} %" for share in shares)]
    return [
        *_rows(head, table),
        "",
        f"Speed over our own dense w8a8 by share of zeros, {result['clock']}.",
    ]


def _model(result: Result) -> list[str]:
    table = [
        [row["model"], f"{row['batch']} x {row['tokens']}", f"{row['p50']:g}", f"{row['p20']:g}", f"{row['p80']:g}"]
        for row in result["latency"]
    ]
    return _rows(["model", "batch x tokens", "ms", "p20", "p80"], table)


_TABLES: dict[str, tuple[str, Callable[..., list[str]]]] = {
    "cpu_gemm": ("gemm", _gemm),
    "cpu_encoder": ("encoder", _encoder),
    "cpu_sparse": ("sparse", _sparse),
    "memory": ("memory", _memory),
    "accuracy": ("accuracy", _accuracy),
    "soak": ("soak", _soak),
    "overhead": ("overhead", _overhead),
    "model": ("model", _model),
}


if __name__ == "__main__":
    sys.exit(main())
