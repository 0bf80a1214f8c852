"""The figures of a pipeline run as a small file, and the table of its models.

The file, as JSON::

    {"suite": "run", "name", "environment",
     "seconds": {stage: seconds}, "case": {"batch", "tokens", "threads"}, "data": source of the texts
     "measure": the deciding one, {"key", "name", "percent"},
     "rows": [{"key", "name", "quality", "difference", "kept", "bytes", "parameters"}],
     "timings": {row: {way: [seconds, ...]}}}     ways: "fp32" and "bf16" in torch, "native"; interleaved rounds
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdnative.bench.results import LEGEND, machine_line
from kdnative.bench.table import rows_of
from kdnative.machine.speedup import speedup

_WAYS = ("fp32", "bf16", "native")


def run_figures(folder: Path) -> dict[str, Any]:
    """What is kept of a finished run.

    Raises:
        ValueError: the folder is no finished run; the text names the file that is missing.
    """

    def read(file: str) -> dict[str, Any]:
        path = folder / file
        if not path.is_file():
            raise ValueError(f"{path} is missing: give the folder of a run whose report stage has finished")
        return json.loads(path.read_text(encoding="utf-8"))

    summary, timed = read("summary.json"), read("stages/benchmark/metrics.json")
    deciding = summary["task"]["measures"][0]
    kept = ("difference", "kept", "bytes", "parameters")
    return {
        "suite": "run",
        "name": folder.resolve().name,
        "environment": timed["environment"],
        "seconds": {
            stage.parent.name: json.loads(stage.read_text(encoding="utf-8"))["seconds"]
            for stage in sorted(folder.glob("stages/*/stage.json"))
        },
        "case": timed["case"],
        "data": summary["data"]["source"],
        "measure": {key: deciding[key] for key in ("key", "name", "percent")},
        "rows": [
            {"key": row["key"], "name": row["name"], "quality": row[deciding["key"]]}
            | {name: row.get(name) for name in kept}
            for row in summary["rows"]
        ],
        "timings": {
            row: {way: spread["samples"] for way, spread in ways.items()} for row, ways in timed["models"].items()
        },
    }


def student_table(result: Mapping[str, Any]) -> list[str]:
    """The models of a run: quality, size, latency in torch and native, and the native speed-up over the teacher."""
    measure, timings = result["measure"], result["timings"]
    head = ["model", f"{measure['name']} [95 %]", "MB", "torch fp32, ms", "torch bf16, ms", "native, ms", "speed-up"]
    table = []
    for row in result["rows"]:
        times = timings[row["key"]]
        faster = speedup(timings["teacher"]["fp32"], times["native"])
        table.append(
            [
                row["name"],
                _estimate(row["quality"], measure["percent"]),
                f"{row['bytes'] / 1e6:.1f}",
                *(f"{1e3 * statistics.median(times[way]):.2f}" for way in _WAYS),
                f"{faster.value:.1f}x [{faster.low:.1f}, {faster.high:.1f}]",
            ]
        )
    case = result["case"]
    shape = f"batch {case['batch']} x {case['tokens']} tokens, {case['threads']} thread{'s'[: case['threads'] != 1]}"
    whole = sum(result["seconds"].values())
    return [
        f"`kdnative run`, {result['name']}, {machine_line(result['environment'])}, {whole / 60:.0f} minutes:",
        "",
        *rows_of(head, table),
        "",
        f"Latency at {shape}. The speed-up is the teacher in torch fp32 over the row's model on native kernels.",
        LEGEND,
        "",
        gain_line(timings),
    ]


def gain_line(timings: Mapping[str, Mapping[str, list[float]]]) -> str:
    """The speed-up of the native student over the teacher as a product: a smaller model, and native kernels."""
    teacher, student, native = timings["teacher"]["fp32"], timings["native"]["fp32"], timings["native"]["native"]
    return (
        f"The native student is {speedup(teacher, native)} as fast as the teacher: the smaller model accounts for "
        f"{speedup(teacher, student)}, the native kernels for {speedup(student, native)} over the same student in "
        "torch fp32."
    )


def _estimate(found: Mapping[str, float], percent: bool) -> str:
    value, low, high = (100 * found[key] if percent else found[key] for key in ("value", "low", "high"))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]" if percent else f"{value:.3f} [{low:.3f}, {high:.3f}]"
