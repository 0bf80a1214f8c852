"""A run's summary as text: what the terminal, summary.txt and the log show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdnative.machine.speedup import Speedup
from kdnative.pipeline.steps import OPEN
from kdnative.report.words import case as describe
from kdnative.report.words import change, duration
from kdnative.tasks import Measure

_PARTS = {"labelled": "labelled", "unlabelled": "unlabelled", "validation": "for validation", "test": "for the test"}


def format_summary(summary: Mapping[str, Any]) -> str:
    """The table, what each step bought, and the goals."""
    blocks = [_table(summary), [_sizes(summary["data"])], step_lines(summary), [_gain(summary["gain"])]]
    blocks.append(_gate(summary.get("gate")))
    blocks.append([_goal(goal) for goal in summary["goals"]])
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def _table(summary: Mapping[str, Any]) -> list[str]:
    case, measures = summary["case"], [Measure(**m) for m in summary["task"]["measures"] if m["short"] is not None]
    deciding, *others = measures
    head = ["", f"{deciding.short} [95 %]", "over the teacher", "native", *(m.short for m in others)]
    head += ["params", "MB", "fp32", "bf16", "native", "x"]
    lines = [head, *(_cells(row, deciding, others) for row in summary["rows"])]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    lines.insert(1, ["-" * w for w in widths])
    table = []
    for line in lines:
        cells = [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        table.append("  ".join(cells))
    unit = " in points" if deciding.percent else ""
    return [
        *table,
        "",
        f"over the teacher: paired difference{unit}; native: {deciding.name} of the row's model on native kernels",
        f"latency in ms, {describe(case, 'x')}: "
        "torch fp32, torch bf16, native; x: speed-up over the teacher in torch fp32",
    ]


def _cells(row: Mapping[str, Any], deciding: Measure, others: Sequence[Measure]) -> list[str]:
    found, latency = row[deciding.key], row["latency"]
    low, high = (deciding.text(found[end]).removesuffix(" %") for end in ("low", "high"))
    against = "-" if row["key"] == "teacher" else change(row["difference"], deciding.percent)
    return [
        row["name"],
        f"{deciding.text(found['value'])} [{low}, {high}]",
        against,
        deciding.text(row["native"][deciding.key]["value"]),
        *(m.text(_value(row[m.key])) for m in others),
        f"{row['parameters'] / 1e6:.2f} M",
        f"{row['bytes'] / 1e6:.1f}",
        *(f"{latency[way]['p50']:.2f}" for way in ("fp32", "bf16", "native")),
        f"{row['speedup']['value']:.1f}",
    ]


def _value(found: Any) -> float | None:
    return found["value"] if isinstance(found, Mapping) else found


def _gate(gate: Mapping[str, Any] | None) -> list[str]:
    """What the gate was shown, and which schemes the layers got for it."""
    if gate is None:
        return []
    passed = next(trial for trial in reversed(gate["trials"]) if trial["passed"])
    schemes = ", ".join(f"{share:.0%} of the weights in {scheme}" for scheme, share in passed["shares"].items())
    return [
        f"gate: {gate['words']} {passed['drop']:.4g}, with {100 * gate['confidence']:.6g} % confidence below "
        f"{passed['bound']:.4g} (allowed: {gate['max_drop']:g}), on {gate['certified_on']:,} validation examples that "
        f"chose no scheme; {schemes}"
    ]


def _sizes(data: Mapping[str, Any]) -> str:
    sizes, things = data["sizes"], data.get("things", "texts")
    return f"{things}: " + ", ".join(f"{sizes[part]:,} {word}" for part, word in _PARTS.items() if sizes[part])


def step_lines(summary: Mapping[str, Any]) -> list[str]:
    """What each step of a run bought, and what a reader should act on; nothing where no step can tell."""
    deciding = Measure(**summary["task"]["measures"][0])
    lines = [f"  {step['stage']}, against {step['against']}: {_step(step, deciding)}" for step in summary["steps"]]
    return ["Did it help?", *lines, *(f"  ! {text}" for text in summary["findings"])] if lines else []


def _step(step: Mapping[str, Any], deciding: Measure) -> str:
    limit = f" that {step['n']:,} examples can show" if step["verdict"] == OPEN else ""
    parts = [f"{step['verdict']}{limit}, {change(step['difference'], deciding.percent, ' points')}"]
    parts += [step["note"]] if step["note"] else []
    if step["faster"] is not None:
        parts.append(f"{_times(step['faster'])} as fast")
    if step["smaller"] is not None:
        parts.append(f"{step['smaller']:.2f}x smaller")
    return "; ".join([*parts, f"took {duration(step['seconds'])}"])


def _gain(gain: Mapping[str, Mapping]) -> str:
    total, model, kernels = (_times(gain[name]) for name in ("total", "smaller_model", "native_kernels"))
    return f"native student over the teacher in torch fp32: {total} = smaller model {model} x native kernels {kernels}"


def _goal(goal: Mapping[str, Any]) -> str:
    is_open = goal["met"] is None and goal["value"] is not None
    mark = "OPEN" if is_open else {True: "MET", False: "MISSED", None: "UNKNOWN"}[goal["met"]]
    text = _percent if goal["unit"] == "%" else "{:.2f}x".format
    value = "not measured" if goal["value"] is None else text(goal["value"])
    if goal["value"] is not None and goal["low"] != goal["high"]:
        value += f" [{text(goal['low'])}, {text(goal['high'])}]"
    target = _percent(goal["target"]) if goal["unit"] == "%" else f"{goal['target']:g}x"
    doubt = f"; {goal['of']} can't decide it" if is_open else ""
    return f"{mark:7}  {goal['name']}: {value} (goal: at least {target}{doubt}; {goal['detail']})"


def _times(found: Mapping[str, Any]) -> str:
    return str(Speedup(found["value"], found["low"], found["high"]))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
