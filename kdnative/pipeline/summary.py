"""What a run found, as one value: the final table, what each step bought, the goals, and where the speed comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kdnative.machine.speedup import speedup
from kdnative.pipeline.goals import gain, judged
from kdnative.pipeline.steps import findings, steps
from kdnative.tasks import Task

if TYPE_CHECKING:
    from kdnative.pipeline.schema import Goals


def build_summary(
    task: Task,
    goals: Goals,
    *,
    metrics: Mapping[str, Mapping],
    seconds: Mapping[str, float],
    data: Mapping[str, Any],
    scheme: str,
) -> dict[str, Any]:
    """The content of summary.json, see ``kdnative/report/schema.py``.

    Args:
        task: what its figures mean.
        goals: the recipe's goals; those that are None are left out.
        metrics: of each finished stage; at least of ``train_teacher``, ``evaluate`` and ``benchmark``.
        seconds: that each stage took.
        data: source, labels and counts of the data set.
        scheme: what the last row's weights are stored in, in words.
    """
    evaluated, timed = metrics["evaluate"], metrics["benchmark"]
    rows = [_row(task, key, found, timed["models"]) for key, found in evaluated["rows"].items()]
    made = steps(task.deciding, evaluated, timed, seconds)
    by_key = {row["key"]: row for row in rows}
    deciding = task.deciding.name
    measured = " and ".join(m.name for m in task.measures[:2])
    return {
        "task": {
            "name": task.name,
            "measures": [asdict(m) for m in task.measures],
            "divergence": task.divergence_unit,
        },
        "rows": rows,
        "steps": made,
        "findings": findings(task.deciding, made, metrics, seconds),
        "gain": gain(timed["models"]),
        "goals": judged(task, goals, by_key, timed["models"], data["sizes"]["test"]),
        "case": timed["case"],
        "data": dict(data),
        "notes": [
            f"{measured} are measured on the test split, which no stage uses for training or for choices; "
            "intervals are 95 %",
            "the difference to the teacher is paired, on the same test examples",
            f"native {deciding} and native latency of the float models are of that model converted to "
            f"{evaluated['native_schemes']}, {_how(task)} and without further training; the last row is the "
            f"final student ({scheme})",
            "a speed-up is the ratio of the median times, with its 95 % bootstrap interval over the rounds; that of a "
            "row is the teacher in torch fp32 over the row's model on native kernels",
        ],
    }


def _how(task: Task) -> str:
    """What is known of a float model's weights and maps when it is converted for its native figures."""
    return "with ranges from training pictures" if task.pictures else "rounded to nearest"


def _row(task: Task, key: str, found: Mapping, timed: Mapping) -> dict[str, Any]:
    names = (*(m.key for m in task.measures), "difference", "kept", "native", "calibration", "parameters", "bytes")
    base, ways = timed["teacher"]["fp32"]["samples"], timed[key]
    faster = speedup(base, ways["native"]["samples"])
    return {
        "key": key,
        "name": found["name"],
        **{name: found[name] for name in names},
        "latency": {way: {p: spread[p] for p in ("p20", "p50", "p80")} for way, spread in ways.items()},
        "speedup": {"value": faster.value, "low": faster.low, "high": faster.high},
    }
