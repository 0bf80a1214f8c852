"""Blocks of documents that are filled from result files, so that no figure is typed by hand.

A block of a Markdown file begins with a comment that says what stands in it, and ends with another::

    <!-- table: suite zen4/cpu_encoder.json summary=no -->
    ...
    <!-- end -->

The first word is a table of this module, the second a file below ``benchmarks/results``, the others are options. A
chart is a file beside the document, and has no end; its options choose cases::

    <!-- chart: encoder zen4/cpu_encoder.json encoder.svg threads=1 model=minilm-l6 -->
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdnative.bench import plots, study_tables
from kdnative.bench.model_peers import gain_lines
from kdnative.bench.results import Row, against_peers, legend, median
from kdnative.bench.run_figures import steps_table, student_table
from kdnative.bench.seed_figures import seed_table
from kdnative.bench.table import caption, markdown, read, rows_of, short

RESULTS = Path("benchmarks") / "results"
_BEGIN = re.compile(r"<!-- (table|chart): (.*?) -->")
_END = "<!-- end -->"


def filled(document: Path, root: Path) -> dict[Path, str]:
    """A document as it should be, and the charts that it names: their texts by path.

    Args:
        document: a Markdown file.
        root: the folder that holds ``benchmarks/results``.

    Raises:
        ValueError: a block that is unknown, has no end, or names a file that is missing; the text says where.
    """
    text = document.read_text(encoding="utf-8")
    parts, place = [], 0
    found: dict[Path, str] = {}
    while match := _BEGIN.search(text, place):
        line = text.count("\n", 0, match.start()) + 1
        parts.append(text[place : match.end()])
        place = match.end()
        try:
            kind, words = match[1], match[2].split()
            if kind == "chart":
                found[document.parent / _word(words, 2, "a file to draw")] = _chart(words, root)
                continue
            end = text.find(_END, place)
            following = _BEGIN.search(text, place)
            if end < 0 or (following and following.start() < end):
                raise ValueError(f"no {_END} follows")
            parts.append("\n" + "\n".join(_table(words, root)) + "\n")
            place = end
        except KeyError as error:
            raise ValueError(f"{document}, line {line}: {match[0]}: the result has no {error}") from error
        except ValueError as error:
            raise ValueError(f"{document}, line {line}: {match[0]}: {error}") from error
    parts.append(text[place:])
    return {document: "".join(parts), **found}


def _table(words: list[str], root: Path) -> list[str]:
    name = _word(words, 0, "the name of a table")
    if name not in TABLES:
        raise ValueError(f"no table {name!r}; there are {', '.join(TABLES)}")
    return TABLES[name](_result(words, root), _options(words[2:]))


def _chart(words: list[str], root: Path) -> str:
    name = _word(words, 0, "the name of a chart")
    if name not in _CHARTS:
        raise ValueError(f"no chart {name!r}; there are {', '.join(_CHARTS)}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chart.svg"
        result, options = dict(_result(words, root)), _options(words[3:])
        _CHARTS[name](_selected(result, options) if options else result, path)
        return path.read_text(encoding="utf-8")


def _selected(result: Mapping[str, Any], options: Mapping[str, str]) -> dict[str, Any]:
    """The result with the cases that have these values only, such as ``threads=1`` and ``model=minilm-l6``."""
    cases = [case for case in result["cases"] if all(str(case.get(key)) == value for key, value in options.items())]
    if not cases:
        raise ValueError(f"the result has no case with {', '.join(f'{k}={v}' for k, v in options.items())}")
    return {**result, "cases": cases}


def _result(words: list[str], root: Path) -> Mapping[str, Any]:
    file = root / RESULTS / _word(words, 1, "a result file")
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    return read(file)


def _word(words: list[str], index: int, what: str) -> str:
    if len(words) <= index:
        raise ValueError(f"{what} is missing")
    return words[index]


def _options(words: list[str]) -> dict[str, str]:
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is no option such as threads=1")
        found[name] = value
    return found


def _suite(result: Mapping[str, Any], options: Mapping[str, str]) -> list[str]:
    """The table that ``kdnative bench table`` prints."""
    given: dict[str, Any] = dict(options)
    if "schemes" in given:
        given["schemes"] = given["schemes"].split(",")
    if "m" in given:
        given["m"] = [int(m) for m in given["m"].split(",")]
    if "summary" in given:
        given["summary"] = given["summary"] == "yes"
    return markdown(result, **given).rstrip("\n").split("\n")


def _encoders_short(result: Mapping[str, Any], options: Mapping[str, str]) -> list[str]:
    """One line a case for one number of threads: our time, the best peer's, and the ratio."""
    threads = int(options.get("threads", "1"))
    cases = [case for case in result["cases"] if case["threads"] == threads]
    if not cases:
        raise ValueError(f"the result has no case with {threads} threads")
    table = []
    for case in cases:
        row: Row | None = next((row for row in case["rows"] if row["ours"] and not row.get("unmasked")), None)
        if row is None:
            raise ValueError(f"none of ours ran in the case {case['model']} {case['case']}")
        found = against_peers(row, case["rows"])
        peer = [found.peer["name"], f"{1e3 * median(found.peer):.3g}", found.speedup] if found else ["-"] * 3
        table.append([case["model"], case["case"], f"{1e3 * median(row):.3g}", *peer])
    scheme = short(next(row["name"] for row in cases[0]["rows"] if row["ours"]))
    where = {**result, "environment": {**result["environment"], "threads": threads}}
    head = ["model", "batch x tokens", f"kdnative {scheme}, ms", "fastest other engine", "its ms", "speed-up"]
    explained = legend(row for case in cases for row in case["rows"])
    return [caption(where, "encoder"), "", *rows_of(head, table), "", explained]


def _student(result: Mapping[str, Any], options: Mapping[str, str]) -> list[str]:
    return student_table(_of_a_run(result))


def _steps(result: Mapping[str, Any], options: Mapping[str, str]) -> list[str]:
    """Whether each step of a run helped."""
    return steps_table(_of_a_run(result))


def _of_a_run(result: Mapping[str, Any]) -> Mapping[str, Any]:
    if result["suite"] != "run":
        raise ValueError(f"this needs the figures of a run, got the suite {result['suite']!r}")
    return result


def _seeds(result: Mapping[str, Any], options: Mapping[str, str]) -> list[str]:
    if result["suite"] != "seeds":
        raise ValueError(f"a table of seeds needs the figures of such runs, got the suite {result['suite']!r}")
    return seed_table(result)


def _gain(result: Mapping[str, Any], options: Mapping[str, str]) -> list[str]:
    """What makes a native student faster than its teacher, as factors, for each case."""
    if result["suite"] != "model_peers":
        raise ValueError(f"factors need a result of kdnative bench model --peers, got the suite {result['suite']!r}")
    lines = [caption(result, "model --peers"), ""]
    for case in result["cases"]:
        lines += [f"- {case['batch']} x {case['tokens']}: {line}" for line in gain_lines(case["rows"])]
    return lines


def _quality(result: Mapping[str, Any], options: Mapping[str, str]) -> list[str]:
    """Our ways in ``cases`` (parted by commas) of the first model of a ``task``."""
    task, cases = _task(result, options), options.get("cases", "w8a8,w4a8-g64,w2a8-g32").split(",")
    return [caption(result, "quality"), "", *study_tables.quality(result, rows_of, task, cases)]


def _quality_texts(result: Mapping[str, Any], options: Mapping[str, str]) -> list[str]:
    """GPTQ in a ``case`` with several numbers of texts."""
    task, case = _task(result, options), options.get("case", "w4a8-g64")
    return [caption(result, "quality"), "", *study_tables.counts(result, rows_of, task, case)]


def _task(result: Mapping[str, Any], options: Mapping[str, str]) -> str:
    if result["suite"] != "quality":
        raise ValueError(f"this table needs a result of kdnative bench quality, got the suite {result['suite']!r}")
    return options.get("task", "embedder")


TABLES: dict[str, Callable[[Mapping[str, Any], Mapping[str, str]], list[str]]] = {
    "suite": _suite,
    "encoders-short": _encoders_short,
    "student": _student,
    "steps": _steps,
    "seeds": _seeds,
    "gain": _gain,
    "quality": _quality,
    "quality-texts": _quality_texts,
}
_CHARTS: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "encoder": plots.encoder_plot,
    "gemm": plots.gemm_plot,
    "curves": plots.curves_plot,
}
