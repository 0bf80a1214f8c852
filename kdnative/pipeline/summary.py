"""The final table and the goals of a run, from what ``evaluate`` and ``benchmark`` measured."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kdnative.tasks import Measure, Task

if TYPE_CHECKING:
    from kdnative.pipeline.schema import Goals


def build_summary(task: Task, goals: Goals, evaluated: dict, timed: dict, data: dict, scheme: str) -> dict[str, Any]:
    """The content of summary.json, see ``kdnative/report/schema.py``.

    Args:
        task: what its figures mean.
        goals: the recipe's goals; those that are None are left out.
        evaluated: metrics of the evaluate stage.
        timed: metrics of the benchmark stage.
        data: source, labels and counts of the data set.
        scheme: what the last row's weights are stored in, in words.
    """
    rows = [_row(task, key, found, evaluated["rows"]["teacher"], timed) for key, found in evaluated["rows"].items()]
    deciding = task.deciding.name
    measured = " and ".join(m.name for m in task.measures[:2])
    return {
        "task": {
            "name": task.name,
            "measures": [asdict(m) for m in task.measures],
            "divergence": task.divergence_unit,
        },
        "rows": rows,
        "goals": _goals(task, goals, {row["key"]: row for row in rows}),
        "case": timed["case"],
        "data": data,
        "notes": [
            f"{measured} are measured on the test split, which no stage was trained on or used to choose anything; "
            "intervals are 95 %",
            f"native {deciding} and native latency of the first rows are of that row's model converted to "
            f"{evaluated['native_schemes']} without further training; the last row is the final student ({scheme})",
            "speed-up is the teacher's torch fp32 latency divided by the row's native latency",
        ],
    }


def _row(task: Task, key: str, found: dict, teacher: dict, timed: dict) -> dict[str, Any]:
    latency = timed["models"][key]
    base = timed["models"]["teacher"]["fp32"]["p50"]
    own = {name: found[name] for name in (*(m.key for m in task.measures), "parameters", "bytes", "native")}
    return {
        "key": key,
        "name": found["name"],
        **own,
        "kept": task.kept(found, teacher),
        "latency": latency,
        "speedup": _ratio(base, latency["native"]["p50"]),
    }


def _goals(task: Task, goals: Goals, rows: dict[str, dict]) -> list[dict[str, Any]]:
    teacher, native, deciding = rows["teacher"], rows["native"], task.deciding
    fast = native["latency"]["native"]["p50"]
    measured = {
        "kept": (
            f"native student keeps this share of the teacher's {deciding.name}",
            native["kept"],
            "%",
            " of ".join(deciding.text(row[deciding.key]["value"]) for row in (native, teacher)),
        ),
        "size_ratio": (
            "model file smaller than the teacher's",
            _ratio(teacher["bytes"], native["bytes"]),
            "x",
            f"{_megabytes(teacher['bytes'])} MB to {_megabytes(native['bytes'])} MB",
        ),
        "speedup_teacher": (
            "latency lower than the teacher's in torch fp32",
            _ratio(teacher["latency"]["fp32"]["p50"], fast),
            "x",
            f"{teacher['latency']['fp32']['p50']:.3g} ms to {fast:.3g} ms",
        ),
        "speedup_bf16": (
            "latency lower than the same student's in torch bf16",
            _ratio(native["latency"]["bf16"]["p50"], fast),
            "x",
            f"{native['latency']['bf16']['p50']:.3g} ms to {fast:.3g} ms",
        ),
    }
    found = []
    for key, (name, value, unit, detail) in measured.items():
        target = getattr(goals, key)
        if target is not None:
            met = None if value is None else value >= target
            found.append({"name": name, "target": target, "value": value, "met": met, "unit": unit, "detail": detail})
    return found


def format_summary(summary: dict[str, Any]) -> str:
    """The table and the goals as text."""
    case = summary["case"]
    deciding, *others = [Measure(**m) for m in summary["task"]["measures"] if m["short"] is not None]
    head = ["", f"{deciding.short} [95 %]", "kept", "int8", *(m.short for m in others)]
    head += ["params", "MB", "fp32", "bf16", "native", "x"]
    lines = [_cells(row, deciding, others) for row in summary["rows"]]
    widths = [max(len(line[i]) for line in [head, *lines]) for i in range(len(head))]

    def line(cells: list[str]) -> str:
        name, *figures = cells
        return "  ".join([name.ljust(widths[0]), *(c.rjust(w) for c, w in zip(figures, widths[1:], strict=True))])

    text = [line(head), line(["-" * w for w in widths]), *map(line, lines), ""]
    text.append(
        f"latency in ms, batch {case['batch']} x {case['tokens']} tokens, {case['threads']} threads: torch fp32, "
        "torch bf16, native; x: speed-up over the teacher in torch fp32"
    )
    name = deciding.name
    text.append(f"int8: {name} of the row's model on native kernels; kept: share of the teacher's {name}")
    text += [_goal_line(goal) for goal in summary["goals"]]
    return "\n".join(text)


def _cells(row: dict[str, Any], deciding: Measure, others: list[Measure]) -> list[str]:
    found, latency = row[deciding.key], row["latency"]
    low, high = (deciding.text(found[end]).removesuffix(" %") for end in ("low", "high"))
    return [
        row["name"],
        f"{deciding.text(found['value'])} [{low}, {high}]",
        _percent(row["kept"]),
        deciding.text(row["native"][deciding.key]["value"]),
        *(m.text(row[m.key]["value"]) for m in others),
        f"{row['parameters'] / 1e6:.2f} M",
        _megabytes(row["bytes"]),
        *(f"{latency[way]['p50']:.2f}" for way in ("fp32", "bf16", "native")),
        "-" if row["speedup"] is None else f"{row['speedup']:.1f}",
    ]


def _goal_line(goal: dict[str, Any]) -> str:
    mark = {True: "MET   ", False: "MISSED", None: "UNKNOWN"}[goal["met"]]
    percent = goal["unit"] == "%"
    target = _percent(goal["target"]) if percent else f"{goal['target']:g}{goal['unit']}"
    value = "not measured" if goal["value"] is None else _percent(goal["value"]) if percent else f"{goal['value']:.2f}x"
    return f"{mark}  {goal['name']}: {value} (goal: at least {target}; {goal['detail']})"


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f}"
