"""What the suites of whole models share: options, the result that grows case by case, and the lines around it.

A case is one model with one number of threads, and has ``"model"``, ``"threads"``, ``"case"``, ``"seconds"`` and
``"rows"`` at least.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdnative.bench.options import add_output, add_peers, add_threads, positive
from kdnative.bench.results import LEGEND, Case, ceiling_line, cores_line, not_run_lines, start_line, summary_lines
from kdnative.bench.roofline import ceilings
from kdnative.machine.environment import environment, rerun_clean, write_result

SECONDS = 60  # of a case
Result = dict[str, Any]


def command(
    module: str, parser: argparse.ArgumentParser, argv: Sequence[str] | None, run: Callable[..., Result]
) -> int:
    """Runs a suite from command-line arguments and returns the exit code.

    Args:
        module: that ``python -m`` runs.
        parser: with the suite's own options; those that the suites share are added here.
        argv: the arguments; None: those of this process.
        run: called with the options, and by name with ``threads``, ``rounds``, ``case_seconds``, ``show`` and ``save``.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    text = f"no further round begins after this time, once there are three (default: {SECONDS})"
    parser.add_argument("--case-seconds", type=positive, default=SECONDS, metavar="SECONDS", help=text)
    add_peers(parser)
    add_threads(parser, several="1,2" if (os.cpu_count() or 1) > 1 else "1")
    add_output(parser, plot=True)
    options = parser.parse_args(argv)
    again = rerun_clean(module, argv)
    if again is not None:
        return again
    result = run(
        options,
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


def begin(
    suite: str,
    threads: Sequence[int],
    versions: Mapping[str, str],
    not_run: Sequence[Mapping[str, Any]],
    show: Callable[[str], None],
    isa: str | None = None,
) -> Result:
    """A result without cases, once the ceilings are measured; shows the machine.

    Args:
        suite: its name.
        threads: numbers of threads, each with ceilings of its own.
        versions: of the packages that take part.
        not_run: rows of what runs in no case.
        show: called with each line.
        isa: instruction set that engines are held to; None: each takes what it finds.
    """
    result: Result = {
        "suite": suite,
        "complete": False,
        "environment": environment(list(threads)) | ({"isa": isa} if isa else {}),
        "versions": dict(versions),
        "ceilings": [ceilings(count, isa=isa) for count in threads],
        "cases": [],
        "not_run": [{**row, "case": "all"} for row in not_run],
    }
    show(start_line(result["environment"]))
    for limits in result["ceilings"]:
        show(ceiling_line(limits))
    return result


def end(result: Result, show: Callable[[str], None], save: Callable[[Result], None]) -> Result:
    """The result with all its cases, saved as complete; shows what follows from them."""
    result["complete"] = True
    save(result)
    lines = [LEGEND, *not_run_lines(result["not_run"]), *cores_line(result["cases"])]
    for line in [*lines, *summary_lines(map(as_case, result["cases"]))]:
        show(line)
    return result


def label(case: Mapping[str, Any]) -> str:
    """What a case is called in summaries."""
    return f"{case['model']} {case['case']} {case['threads']}t"


def as_case(case: Mapping[str, Any]) -> Case:
    """A case of the result, for `summary_lines`; ``"lengths"`` has one where sequences differ in length."""
    return Case(label(case), case["rows"], ragged=bool(case.get("lengths")))


def took(case: Mapping[str, Any]) -> str:
    """How many rounds a case had, and how long it took."""
    rounds = max((len(row["samples"]) for row in case["rows"]), default=0)
    return f"{rounds} rounds, {case['seconds']:.0f} s"
