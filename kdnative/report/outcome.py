"""The sections about what came out: goals, what each step bought, models, speed, calibration, disagreements."""

from __future__ import annotations

from html import escape

from kdnative.report import figures, peers, words
from kdnative.report.pictures import thumbnail
from kdnative.report.read import Run
from kdnative.report.schema import GoalRow, Measure, ModelRow, StepRow
from kdnative.report.tables import Cell, caption, details, table

WAYS = {"fp32": "torch fp32, ms", "bf16": "torch bf16, ms", "native": "native, ms"}
_FACTORS = {
    "total": "the teacher in torch fp32 over the native student",
    "smaller_model": "smaller model: teacher over student, both in torch fp32",
    "native_kernels": "native kernels: the student in torch fp32 over the native one",
}
_LONGEST_TEXT = 400  # characters of an example


def goals(run: Run) -> str | None:
    """One card a goal: what was asked, what was measured, and whether that is enough."""
    cards = []
    for goal in run.summary.get("goals", []):
        kind, mark, word = _verdict(goal)
        unit = goal.get("unit", "")
        lines = [f"goal: at least {words.goal_value(goal['target'], unit)}"]
        if goal["value"] is not None and goal.get("low") != goal.get("high"):
            ends = (words.goal_value(goal[end], unit) for end in ("low", "high"))
            lines.append("95 % interval: " + " – ".join(ends))
        lines += [goal["detail"]] if goal.get("detail") else []
        cards.append(
            f'<li class="card {kind}"><p class="verdict"><span aria-hidden="true">{mark}</span> {escape(word)}</p>'
            f'<p class="figure">{escape(words.goal_value(goal["value"], unit))}</p>'
            f"<p>{escape(goal['name'])}</p>{_details(lines)}</li>"
        )
    return f'<ul class="cards">{"".join(cards)}</ul>' if cards else None


def steps(run: Run) -> str | None:
    """What each step changed, and what it cost."""
    found, deciding = run.summary.get("steps", []), run.measures[0]
    if not found:
        return None
    unit = ", points" if deciding["percent"] else ""
    columns = ["step", "against", f"{deciding['name']}{unit} [95 %]", "verdict", "as fast", "smaller", "time"]
    lines = []
    for step in found:
        faster, smaller, verdict = step.get("faster"), step.get("smaller"), step["verdict"]
        tag = f'<span class="tag {escape(verdict.replace(" ", "-"))}">{escape(verdict)}</span>'
        lines.append(
            [
                Cell(step["stage"]),
                Cell(step["against"]),
                Cell(words.change(step["difference"], deciding["percent"]), step["difference"]["value"]),
                Cell(verdict, html=f'{tag} <span class="detail">{escape(_limit(step))}</span>'),
                Cell(words.speedup(faster), faster and faster["value"]),
                Cell(words.times(smaller), smaller),
                Cell(words.duration(step.get("seconds")), step.get("seconds")),
            ]
        )
    title = "Each step against the run without it, on the same test examples"
    made = table(title, columns, lines, numeric=(2, 4, 5, 6), wrap=(1, 3))
    return _notes(run.summary.get("findings", []), "findings") + made


def models(run: Run) -> str | None:
    """The final table."""
    rows, case = run.summary["rows"], run.summary.get("case")
    ways = [way for way in WAYS if any(way in row.get("latency", {}) for row in rows)]
    deciding, *others = run.measures
    unit = ", points" if deciding["percent"] else ""
    columns = ["model", f"{deciding['name']} [95 %]", f"over the teacher{unit} [95 %]"]
    columns += [f"{deciding['name']}, native", *(m["name"] for m in others)]
    columns += ["parameters", "file, MB", *(WAYS[way] for way in ways), "speed-up [95 %]"]
    lines = []
    for row in rows:
        found, faster = row.get(deciding["key"]), row.get("speedup")
        difference = None if row["key"] == "teacher" else row.get("difference")
        line = [
            Cell(row["name"]),
            Cell(words.estimate(found, deciding["percent"]), found and found["value"]),
            Cell(words.change(difference, deciding["percent"]), difference and difference["value"]),
            _measure(row.get("native", {}), deciding),
            *(_measure(row, m) for m in others),
            Cell(words.millions(row.get("parameters")), row.get("parameters")),
            Cell(words.megabytes(row.get("bytes")), row.get("bytes")),
        ]
        for way in ways:
            p50 = row.get("latency", {}).get(way, {}).get("p50")
            line.append(Cell(words.milliseconds(p50), p50))
        line.append(Cell(words.speedup(faster), faster and faster["value"]))
        lines.append(line)
    title = "Every model of the pipeline"
    if case:
        title += f"; latency at {words.case(case)}"
    made = table(title, columns, lines, numeric=range(1, len(columns)), emphasised=[len(lines) - 1])
    return made + _notes(run.summary.get("notes", []), "notes")


def speed(run: Run) -> str | None:
    """The speed-up as a product: smaller model times native kernels."""
    gain = run.summary.get("gain")
    if not gain:
        return _engines(run) or None
    lines = [[Cell(text), Cell(words.speedup(gain[name]), gain[name]["value"])] for name, text in _FACTORS.items()]
    title = "The first is the product of the others"
    return table(title, ["what over what", "speed-up [95 %]"], lines, numeric=(1,), sortable=False) + _engines(run)


def _engines(run: Run) -> str:
    """The same with the fastest other engine in between, for each case that was measured."""
    parts = [_notes([run.peers_problem], "notes")] if run.peers_problem else []
    for case in run.peers:
        found = peers.split(case)
        if found is None:
            continue
        engine = found["engine"]
        texts = {
            "total": _FACTORS["total"],
            "smaller_model": _FACTORS["smaller_model"],
            "engine_gain": f"another engine: the student in torch fp32 over the same in {engine}",
            "native_kernels": f"native kernels: the student in {engine} over the native one",
        }
        shown = {text: found[name] for name, text in texts.items() if found[name] is not None}
        lines = [[Cell(text), Cell(words.speedup(ratio), ratio["value"])] for text, ratio in shown.items()]
        title = (
            f"With the fastest other engine, batch {case['batch']} × {case['tokens']} tokens, "
            f"{words.counted(case['threads'], 'thread')}; the first is the product of the others"
        )
        parts.append(table(title, ["what over what", "speed-up [95 %]"], lines, numeric=(1,), sortable=False))
    return "".join(parts)


def trade_offs(run: Run) -> str | None:
    """The deciding measure against latency and size. Their table alternative is the final table."""
    rows, deciding, case = run.summary["rows"], run.measures[0], run.summary.get("case")
    charts = [figures.quality_latency(rows, deciding, case), figures.size_bubbles(rows, deciding, case)]
    shown = [chart for chart in charts if chart]
    text = "Error bars are 95 % confidence intervals. The same figures are in the table of models."
    return "".join(f"<figure>{chart}</figure>" for chart in shown) + caption(text) if shown else None


def calibration(run: Run) -> str | None:
    """Whether models are as often right as they say."""
    found = [row for row in run.summary["rows"] if row["key"] in ("teacher", "native") and row.get("calibration")]
    if not found:
        return None
    chart = figures.reliability(found)
    lines = [
        [
            Cell(row["name"]),
            Cell(str(b["n"]), b["n"]),
            Cell(words.percent(b["confidence"]), b["confidence"]),
            Cell(words.percent(b["accuracy"]), b["accuracy"]),
        ]
        for row in found
        for b in row["calibration"]["bins"]
    ]
    as_table = table("Reliability", ["model", "examples", "confidence", "accuracy"], lines, numeric=(1, 2, 3))
    errors = "; ".join(f"{row['name']}: {words.percent(row['calibration']['ece'])}" for row in found)
    text = (
        f"Expected calibration error: {errors}. Below the diagonal a model is surer than it is right. The area of a "
        "mark is its share of the test examples."
    )
    return f"<figure>{chart}</figure>{caption(text)}{details('Reliability as a table', as_table)}"


def disagreements(run: Run) -> str | None:
    """Test examples on which student and teacher disagree."""
    found = run.summary.get("examples", [])
    if not found:
        return None
    lines = [
        [
            Cell("", html=thumbnail(row) + "<br>".join(escape(_cut(text)) for text in row["texts"])),
            Cell(row["label"]),
            Cell(row["teacher"]),
            Cell(row["student"]),
        ]
        for row in found
    ]
    columns = ["picture" if "image" in found[0] else "text", "label", "teacher", "native student"]
    title = f"{words.counted(len(found), 'example')} of the test split, those first on which they differ most"
    return table(title, columns, lines, sortable=False, wrap=(1, 2, 3))


def _limit(step: StepRow) -> str:
    """What the examples could show, where they show no difference."""
    return f"that {step['n']:,} examples can show: {step['note']}" if step.get("note") else ""


def _verdict(goal: GoalRow) -> tuple[str, str, str]:
    if goal["value"] is None:
        return "unknown", "?", "not measured"
    if goal["met"] is None:
        return "unknown", "≈", f"open: {goal.get('of') or 'the figures'} can't decide it"
    return ("met", "✓", "met") if goal["met"] else ("missed", "✗", "missed")


def _details(lines: list[str]) -> str:
    return "".join(f'<p class="detail">{escape(line)}</p>' for line in lines)


def _measure(row: ModelRow, measure: Measure) -> Cell:
    found = row.get(measure["key"])
    value = found["value"] if isinstance(found, dict) else found
    return Cell(words.measure(value, measure["percent"]), value)


def _notes(texts: list[str], kind: str) -> str:
    return f'<ul class="{kind}">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ul>' if texts else ""


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
