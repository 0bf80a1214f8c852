"""``kdnative bench quality``: what quantization costs in quality, by method, and beside other libraries.

Every model is converted, runs natively, and answers texts that calibration never saw. An embedder is compared with
its float model by the cosine of each text's two embeddings, by its nearest neighbour, and by its ten nearest; a
classifier by the KL divergence of its answers, the agreement of classes, and accuracy; a language model by perplexity.
Intervals are 95 % bootstrap intervals over texts, paired where two models are compared. They speak of these texts: not
of other calibration texts or other models.

The result, as JSON: ``{"suite": "quality", "environment", "versions", "models", "rows"}``. ``models`` has the ``task``,
the number of ``texts`` and, of a classifier, the ``accuracy`` of each float model. A row has ``model``, ``task``,
``case``, ``scheme``, ``way``, ``ours``, ``note`` and either a ``reason`` why it did not run, or

- ``figures``, ``to_baseline``: for each figure (`kdnative.bench.quality_figures.FIGURES`) value, low and high: itself,
  and against the first way of its case, as a ratio of errors or a difference of shares;
- ``seconds``, ``peak``, ``texts``: what quantizing took in time and memory, and the number of texts that calibrated;
- ``peer``, ``to_peer``, ``deciding``: of our way that was settled to be held against peers, in a case with some: the
  best of them, and the ratio to it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Callable, Sequence
from typing import Any

from kdnative.bench.options import add_output, add_peers, add_threads, names, numbers, positive
from kdnative.bench.peers import quiet
from kdnative.bench.quality_cases import Case, cases_of
from kdnative.bench.quality_figures import FIGURES, Bootstrap, Losses, against, summary
from kdnative.bench.quality_goals import goals
from kdnative.bench.quality_lines import goal_text, line, title
from kdnative.bench.quality_subjects import Classifier, Subject
from kdnative.bench.quality_ways import Cost, Way
from kdnative.bench.results import start_line
from kdnative.evaluate import Interval
from kdnative.extras import how_to_get, installed
from kdnative.machine.environment import environment, write_result
from kdnative.machine.timer import torch_threads

MODEL = "package:minilm-l6"
_CASES = "w8a8,w4a8-g64,w2a8-g32,2:4,4x1,w8a16,w4a16-g64,w2a16-g32"
_NONE = "none"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the suite from command-line arguments and returns the exit code."""
    text = "Quality of quantized models by method, native, with intervals, and beside other libraries."
    parser = argparse.ArgumentParser(prog="kdnative bench quality", description=text, allow_abbrev=False)
    add = parser.add_argument
    add("--models", type=names, default=MODEL, help=f"embedders: package:NAME, hub:NAME, a folder, none ({MODEL})")
    add(
        "--classifiers",
        type=names,
        default=MODEL,
        help=f"encoders to fine-tune once (minutes; kept in the cache), folders of classifiers of movie reviews, none "
        f"({MODEL})",
    )
    add("--decoder", default="package:smollm2", help="a language model, or none (package:smollm2)")
    add("--cases", type=names, default=_CASES, help=f"schemes, and 2:4 and 4x1 for zeros in one shot ({_CASES})")
    add("--methods", type=names, help="ways of ours besides the baseline (default: all)")
    add("--texts", type=positive, default=1000, help="that measure embedders, half of them docstrings (default: 1000)")
    add("--calibration", type=positive, default=128, help="texts that calibrate (default: 128)")
    add("--counts", type=numbers, default="32,512", help="further numbers of texts, for gptq (default: 32,512)")
    add("--slow-peers", action="store_true", help="peers that take minutes for classifiers, too")
    add("--quick", action="store_true", help="a smoke run: few texts, one case, no peers and no language model")
    add_peers(parser, compiled=False)
    add_threads(parser)
    add_output(parser, rounds=None)
    options = parser.parse_args(argv)
    if options.quick:
        options.texts, options.calibration, options.counts = 100, 32, []
        options.cases, options.peers, options.decoder = ["w4a8-g64"], False, _NONE

    def say(line: str) -> None:
        print(line, flush=True)

    from kdnative.bench.quality_load import subjects

    found = subjects(
        [source for source in options.models if source != _NONE],
        [source for source in options.classifiers if source != _NONE],
        None if options.decoder == _NONE else options.decoder,
        texts=options.texts,
        calibration=max(options.calibration, *options.counts, 1),
        say=say,
    )
    plan = {
        subject.name + subject.task: cases_of(
            subject.task,
            options.cases,
            options.calibration,
            methods=options.methods,
            counts=options.counts,
            peers=options.peers,
        )
        for subject in found
    }
    result = run(
        found,
        lambda subject: plan[subject.name + subject.task],
        threads=options.threads,
        slow_peers=options.slow_peers,
        show=say,
        partial=None if options.json is None else lambda result: write_result(options.json, result),
    )
    if options.json:
        write_result(options.json, result)
    return 0


def run(
    subjects: Sequence[Subject],
    cases: Callable[[Subject], Sequence[Case]],
    *,
    threads: int = 1,
    slow_peers: bool = False,
    show: Callable[[str], None] = lambda line: None,
    partial: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Measures every way in every case of every subject.

    Args:
        subjects: models with their texts.
        cases: of a subject.
        threads: of torch.
        slow_peers: peers that take minutes run for classifiers too, and not for embedders and language models alone.
        show: called with each line of the report.
        partial: called with the result after each case, since a whole run takes long.

    Returns:
        The result, see the head of this module.
    """
    where = environment(threads)
    result: dict[str, Any] = {"suite": "quality", "environment": where, "versions": {}, "models": {}, "rows": []}
    show(start_line(where))
    with torch_threads(threads):
        for subject in subjects:
            bootstrap = Bootstrap(len(subject.texts))
            result["models"][f"{subject.name} {subject.task}"] = {
                "task": subject.task,
                "texts": len(subject.texts),
                **subject.about(),
            }
            for case in cases(subject):
                show(title(subject, case))
                rows = _case(subject, case, bootstrap, slow_peers or not isinstance(subject, Classifier), show)
                result["rows"] += rows
                result["versions"] |= _versions(case.ways)
                if partial is not None:
                    partial({**result, "complete": False})
    result["goals"] = goals(result)
    for found in result["goals"]:
        show(goal_text(found))
    return result


def _case(
    subject: Subject, case: Case, bootstrap: Bootstrap, slow_peers: bool, show: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The rows of one case; each is shown as soon as it is measured."""
    rows: list[dict[str, Any]] = []
    losses: dict[str, Losses] = {}
    for way in case.ways:
        row: dict[str, Any] = {
            "model": f"{subject.name} {subject.task}",
            "task": subject.task,
            "case": case.name,
            "scheme": case.scheme,
            "way": way.name,
            "ours": way.ours,
            "note": way.note,
        }
        if way.slow and not slow_peers:
            row["reason"] = "left out: --slow-peers measures it"
        else:
            row |= _measured(subject, case, way, losses)
        if way.name in losses:
            found = losses[way.name]
            row["figures"] = _plain(summary(bootstrap, found))
            first = case.ways[0].name
            if way.name != first and first in losses:
                row["to_baseline"] = _plain(against(bootstrap, losses[first], found))
        rows.append(row)
        show(line(row))
    _beside_peers(subject, case, bootstrap, rows, losses)
    return rows


def _measured(subject: Subject, case: Case, way: Way, losses: dict[str, Losses]) -> dict[str, Any]:
    """What quantizing took, with the losses put into ``losses``; or the reason why there are none."""
    missing = [name for name in way.packages if not installed(name)]
    if missing:
        return {"reason": f"not installed: {', '.join(missing)}: {how_to_get('bench')}"}
    cost = Cost()
    try:
        with _as_told(way):
            model = way.make(subject, case.scheme, cost)
        losses[way.name] = subject.losses(model)
    except Exception as error:  # an engine may raise anything; the row must name it
        return {"reason": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    return {"seconds": round(cost.seconds, 2), "peak": cost.peak, "texts": cost.examples}


@contextlib.contextmanager
def _as_told(way: Way):
    """Ours may print and warn; what peers print stays off the screen."""
    with contextlib.ExitStack() as stack:
        if not way.ours:
            stack.enter_context(quiet())
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield


def _beside_peers(
    subject: Subject, case: Case, bootstrap: Bootstrap, rows: list[dict[str, Any]], losses: dict[str, Losses]
) -> None:
    """Writes into the row of the case's own way how it compares with the best peer; both have the same texts."""

    def error(row: dict[str, Any]) -> float:
        return row["figures"][subject.deciding][0]

    ours = [row for row in rows if row["way"] == case.beside and "figures" in row]
    others = [row for row in rows if not row["ours"] and "figures" in row]
    if ours and others:
        own, peer = ours[0], min(others, key=error)
        ratio = against(bootstrap, losses[peer["way"]], losses[own["way"]])[subject.deciding]
        own |= {"peer": peer["way"], "to_peer": _numbers(ratio), "deciding": subject.deciding}


def _plain(found: dict[str, Interval]) -> dict[str, list[float]]:
    return {name: _numbers(interval) for name, interval in found.items() if name in FIGURES}


def _numbers(interval: Interval) -> list[float]:
    return [float(f"{value:.5g}") for value in (interval.value, interval.low, interval.high)]


def _versions(ways: Sequence[Way]) -> dict[str, str]:
    import importlib.metadata

    packages = sorted({name for way in ways for name in way.packages if installed(name)})
    return {name: importlib.metadata.version(name.replace("_", "-")) for name in packages}
