"""The figures of a pipeline run as a small file, the table of its models, and what its steps bought.

The file, as JSON::

    {"suite": "run", "name", "environment",
     "seconds": {stage: seconds}, "case": {"batch", "tokens", "threads", "unit"},
     "data": {"source", "sizes"}          package:NAME or hub:NAME, of a file its name alone; how many texts or pictures
     "measure": the deciding one, {"key", "name", "percent"},
     "rows": [{"key", "name", "quality", "difference", "kept", "bytes", "parameters"}],
     "steps": [line, ...]                 whether each step helped, in words
     "curves": {stage: [{"epoch", "step", "loss", "validation_KEY"}]}     of the deciding measure, KEY
     "timings": {row: {way: [seconds, ...]}}}     ways: "fp32" and "bf16" in torch, "native"; interleaved rounds
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdnative.bench.results import LEGEND, machine_line
from kdnative.bench.table import rows_of
from kdnative.machine.speedup import factors, speedup
from kdnative.pipeline.summary_text import step_lines

_WAYS = ("fp32", "bf16", "native")
_ADVICE = "give the folder of a run whose report stage has finished"


def run_figures(folder: Path) -> dict[str, Any]:
    """What is kept of a finished run.

    Raises:
        ValueError: the folder is no finished run; the text names the file that is missing.
    """
    names = ("summary.json", "stages/benchmark/metrics.json", "run.json")
    summary, timed, info = (read(folder / name, _ADVICE) for name in names)
    measure = measure_of(summary)
    kept = ("difference", "kept", "bytes", "parameters")
    return {
        "suite": "run",
        "name": folder.resolve().name,
        "environment": timed["environment"],
        # An earlier recipe may have left stages there that this one doesn't have.
        "seconds": {
            stage: read(record, _ADVICE)["seconds"]
            for stage in info["stages"]
            if (record := folder / "stages" / stage / "stage.json").is_file()
        },
        "case": timed["case"],
        "data": data_of(summary),
        "measure": measure,
        "rows": [
            {"key": row["key"], "name": row["name"], "quality": row[measure["key"]]}
            | {name: row.get(name) for name in kept}
            for row in summary["rows"]
        ],
        "steps": step_lines(summary),
        "curves": _curves(folder, info["stages"], measure["key"]),
        "timings": {
            row: {way: spread["samples"] for way, spread in ways.items()} for row, ways in timed["models"].items()
        },
    }


def _curves(folder: Path, stages: Sequence[str], measure: str) -> dict[str, list[dict[str, Any]]]:
    """The epochs of each training."""
    keys = ("epoch", "step", "loss", f"validation_{measure}")
    found = {}
    for stage in stages:
        metrics = folder / "stages" / stage / "metrics.json"
        history = read(metrics, _ADVICE).get("history") if metrics.is_file() else None
        if history:
            found[stage] = [{key: epoch[key] for key in keys if key in epoch} for epoch in history]
    return found


def read(path: Path, advice: str) -> dict[str, Any]:
    """A JSON object; ValueError with the path and the advice where it is missing or none."""
    if not path.is_file():
        raise ValueError(f"{path} is missing: {advice}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"can't read {path}: {error}; {advice}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object: {advice}")
    return found


def measure_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The deciding measure of a summary.json: its key, its name, and whether it is a share."""
    return {key: summary["task"]["measures"][0][key] for key in ("key", "name", "percent")}


def data_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Where the texts of a summary.json come from and how many there are; folders are nobody's business."""
    source = summary["data"]["source"]
    known = source.startswith(("package:", "hub:"))
    return {"source": source if known else Path(source).name, "sizes": summary["data"]["sizes"]}


def shape_of(case: Mapping[str, Any]) -> str:
    """What was timed, in words."""
    unit = case.get("unit", "tokens")
    return f"batch {case['batch']} x {case['tokens']} {unit}, {case['threads']} thread{'s'[: case['threads'] != 1]}"


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
                f"{faster.value:.1f}x" + ("" if faster.low is None else f" [{faster.low:.1f}, {faster.high:.1f}]"),
            ]
        )
    whole = sum(result["seconds"].values())
    return [
        f"`kdnative run`, {result['name']}, {machine_line(result['environment'])}, {whole / 60:.0f} minutes:",
        "",
        *rows_of(head, table),
        "",
        f"Latency at {shape_of(result['case'])}. The speed-up is the teacher in torch fp32 over the row's model on "
        "native kernels.",
        LEGEND,
        "",
        gain_line(timings),
    ]


def steps_table(result: Mapping[str, Any]) -> list[str]:
    """Whether each step of a run helped, as a list."""
    lines = [line.strip() for line in result["steps"]]
    return [lines[0], "", *(f"- {line.removeprefix('! ')}" for line in lines[1:])] if lines else []


def gain_line(timings: Mapping[str, Mapping[str, list[float]]]) -> str:
    """The speed-up of the native student over the teacher as a product: a smaller model, and native kernels."""
    total, smaller, kernels = factors(
        timings["teacher"]["fp32"], timings["native"]["fp32"], timings["native"]["native"]
    )
    return (
        f"The native student is {total} as fast as the teacher: the smaller model accounts for {smaller}, the native "
        f"kernels for {kernels} over the same student in torch fp32."
    )


def _estimate(found: Mapping[str, float], percent: bool) -> str:
    value, low, high = (100 * found[key] if percent else found[key] for key in ("value", "low", "high"))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]" if percent else f"{value:.3f} [{low:.3f}, {high:.3f}]"
