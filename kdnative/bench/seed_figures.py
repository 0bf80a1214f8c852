"""The figures of runs with several seeds as a small file, and their table: what ``kdnative run --seeds`` measured.

The file, as JSON::

    {"suite": "seeds", "name", "seeds": [seed, ...], "environment",
     "seconds": {stage: spread}, "case": {"batch", "tokens", "threads"}, "data": see `run_figures`,
     "measure": the deciding one, {"key", "name", "percent"},
     "rows": [{"key", "name", "figures": {figure: spread}}],
     "steps": [{"key", "name", "figures": {"difference": spread}}]}

A spread is ``{"values": one for each seed, "median", "low", "high"}``; a value is None where a run has none. Texts,
names of classes and paths stay behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdnative.bench.results import machine_line
from kdnative.bench.run_figures import data_of, measure_of, read, shape_of
from kdnative.bench.table import rows_of

_LATENCY = "latency.native"
_ADVICE = "give the file that `kdnative run --seeds` wrote, beside the folders of its runs"


def seed_figures(file: Path) -> dict[str, Any]:
    """What is kept of the runs of one recipe.

    Args:
        file: NAME-seeds.json; the folders of the runs lie beside it.

    Raises:
        ValueError: the file is no such file, or a run is missing; the text says which file.
    """
    seeds = read(file, _ADVICE)
    lacking = [key for key in ("name", "seeds", "runs", "rows", "steps", "seconds") if key not in seeds]
    if lacking:
        raise ValueError(f"{file} has no {', '.join(lacking)}: {_ADVICE}")
    first = file.parent / seeds["runs"][0]
    summary, timed = (read(first / name, _ADVICE) for name in ("summary.json", "stages/benchmark/metrics.json"))
    measure = measure_of(summary)
    return {
        "suite": "seeds",
        "name": seeds["name"],
        "seeds": seeds["seeds"],
        "environment": timed["environment"],
        "seconds": seeds["seconds"],
        "case": timed["case"],
        "data": data_of(summary),
        "measure": measure,
        "rows": [_only(row, (measure["key"], "kept", "bytes", _LATENCY)) for row in seeds["rows"]],
        "steps": [_only(step, ("difference",)) for step in seeds["steps"]],
    }


def _only(row: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    figures = {name: row["figures"][name] for name in names if name in row["figures"]}
    return {"key": row["key"], "name": row["name"], "figures": figures}


def seed_table(result: Mapping[str, Any]) -> list[str]:
    """The models of all runs, and below them what each step changed."""
    measure, seeds = result["measure"], result["seeds"]
    scale = 100 if measure["percent"] else 1
    unit = " %" if measure["percent"] else ""
    digits = 1 if measure["percent"] else 3

    def models(row: Mapping[str, Any]) -> list[str]:
        figures = row["figures"]
        return [
            row["name"],
            _spread(figures.get(measure["key"]), lambda x: f"{scale * x:.{digits}f}", unit),
            _spread(figures.get("kept"), lambda x: f"{100 * x:.1f}", " %"),
            _spread(figures.get("bytes"), lambda x: f"{x / 1e6:.1f}"),
            _spread(figures.get(_LATENCY), lambda x: f"{x:.2f}"),
        ]

    def change(value: float) -> str:
        text = f"{scale * value:+.{digits}f}"
        return text if text.strip("+-0.") else text[1:]  # neither +0.0 nor -0.0

    def step(row: Mapping[str, Any]) -> list[str]:
        return [row["name"], _spread(row["figures"].get("difference"), change)]

    points = ", points" if measure["percent"] else ""
    count = ", ".join(map(str, seeds))
    return [
        f"`kdnative run --seeds {count.replace(' ', '')}`, {result['name']}, {machine_line(result['environment'])}:",
        "",
        *rows_of(["model", measure["name"], "kept", "MB", "native, ms"], [models(row) for row in result["rows"]]),
        "",
        *rows_of(["step", f"{measure['name']}{points}"], [step(row) for row in result["steps"]]),
        "",
        f"Medians of {len(seeds)} runs with different seeds; in brackets the lowest and the highest. Latency at "
        f"{shape_of(result['case'])}.",
    ]


def _spread(found: Mapping[str, Any] | None, show: Callable[[float], str], unit: str = "") -> str:
    """The median and the range; without a range where all runs have the same."""
    if found is None:
        return "-"
    middle, low, high = (show(found[key]) for key in ("median", "low", "high"))
    return f"{middle}{unit}" + ("" if found["low"] == found["high"] else f" [{low}, {high}]")
