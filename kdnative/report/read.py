"""Reads a run folder into one value, and says in words what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdnative.report import peers
from kdnative.report.schema import Measure, RunInfo, StageRecord, Summary

_ROW_KEYS = ("key", "name")
_MEASURE_KEYS = ("key", "name", "percent")
_GOAL_KEYS = ("name", "target", "value", "met")
_STEP_KEYS = ("stage", "against", "difference", "verdict")
_GATE_KEYS = ("words", "max_drop", "confidence", "chosen_on", "certified_on", "layers", "trials")
_LAYER_KEYS = ("layer", "weights", "losses", "scheme")
_TRIAL_KEYS = ("shares", "bytes", "drop", "bound", "passed")
_EXAMPLE_KEYS = ("texts", "label", "teacher", "student")
# Keys of metrics.json that the report understands, and what each of their rows must have.
METRIC_ROWS = {
    "history": ("step",),
    "conversion": ("name", "kind", "action"),
    "latency": ("model", "batch", "tokens", "threads", "p20", "p50", "p80"),
    "sensitivity": ("layer",),
}


class ReportError(ValueError):
    """A run folder that no report can be made of; the text names the file and what to do."""


@dataclass
class Run:
    """What a run folder holds; see :mod:`kdnative.report.schema`.

    Attributes:
        metrics: content of metrics.json by stage, in the order of the pipeline.
        records: content of stage.json by stage.
        recipe: text of recipe.yaml, "" without one.
        peers: cases of peers.json, the student in other engines; none without that file.
        peers_problem: why that file is left out, "" where it isn't.
    """

    folder: Path
    summary: Summary
    info: RunInfo
    recipe: str = ""
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    records: dict[str, StageRecord] = field(default_factory=dict)
    peers: list[dict[str, Any]] = field(default_factory=list)
    peers_problem: str = ""

    @property
    def name(self) -> str:
        return self.info.get("name") or self.folder.resolve().name

    @property
    def measures(self) -> list[Measure]:
        """What says how good a model is; the first decides."""
        return self.summary["task"]["measures"]

    def rows(self, key: str) -> dict[str, list[dict[str, Any]]]:
        """The rows that stages have under one of the keys of :data:`METRIC_ROWS`, by stage, where there are any."""
        return {stage: found[key] for stage, found in self.metrics.items() if found.get(key)}


def read_run(folder: str | Path) -> Run:
    """Reads a run folder.

    Raises:
        ReportError: no such folder, no summary.json, a file that is not JSON, or a row that lacks a required key.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ReportError(
            f"there is no run folder at {folder}: give a folder made by `kdnative run`, such as runs/movies"
        )
    summary_file = folder / "summary.json"
    if not summary_file.is_file():
        raise ReportError(
            f"{summary_file} is missing: the run has not reached its report stage; finish it with "
            "`kdnative run RECIPE --resume`"
        )
    summary = _read(summary_file)
    _check_rows(summary_file, "rows", summary.get("rows"), _ROW_KEYS)
    if not summary["rows"]:
        raise ReportError(f"{summary_file}: 'rows' is empty, there is no model to report on")
    task = summary.get("task")
    _check_rows(summary_file, "measures", task.get("measures") if isinstance(task, dict) else None, _MEASURE_KEYS)
    if not task["measures"]:
        raise ReportError(f"{summary_file}: 'measures' of the task is empty, so the quality of the models is unknown")
    for key, needed in (("goals", _GOAL_KEYS), ("steps", _STEP_KEYS), ("examples", _EXAMPLE_KEYS)):
        _check_rows(summary_file, key, summary.get(key, []), needed)
    info = _read(folder / "run.json") if (folder / "run.json").is_file() else {}
    recipe_file = folder / "recipe.yaml"
    run = Run(folder, summary, info, recipe_file.read_text(encoding="utf-8") if recipe_file.is_file() else "")
    try:
        run.peers = _peers(folder / peers.FILE)
    except ReportError as error:  # it is no part of the pipeline's work, and must not cost a run its report
        run.peers_problem = f"The figures of other engines are left out: {error}"
    for stage in _stages(folder, info.get("stages")):
        place = folder / "stages" / stage
        if (place / "stage.json").is_file():
            run.records[stage] = _read(place / "stage.json")
        if (place / "metrics.json").is_file():
            run.metrics[stage] = _read(place / "metrics.json")
            for key, needed in METRIC_ROWS.items():
                _check_rows(place / "metrics.json", key, run.metrics[stage].get(key, []), needed)
            if gate := run.metrics[stage].get("gate"):
                _check_rows(place / "metrics.json", "gate", [gate], _GATE_KEYS)
                _check_rows(place / "metrics.json", "gate.layers", gate["layers"], _LAYER_KEYS)
                _check_rows(place / "metrics.json", "gate.trials", gate["trials"], _TRIAL_KEYS)
    return run


def _peers(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    found = _read(path)
    if found.get("suite") != peers.SUITE:
        made = "`kdnative bench model RUN --peers --json`"
        raise ReportError(f"{path} is not a result of {made}: move it out of the folder")
    _check_rows(path, "cases", found.get("cases"), peers.CASE_KEYS)
    for case in found["cases"]:
        _check_rows(path, "rows", case["rows"], ("name", "kind", "ours", "samples"))
        try:
            peers.split(case)
        except (TypeError, ValueError) as error:
            raise ReportError(f"{path}: a case can't be compared: {error}") from error
    return found["cases"]


def _stages(folder: Path, order: list[str] | None) -> list[str]:
    """Finished stages in the order of run.json; what lies there of stages that its recipe leaves out is not shown.

    Without run.json all that are there, by name.
    """
    place = folder / "stages"
    present = sorted(p.name for p in place.iterdir() if p.is_dir() and "." not in p.name) if place.is_dir() else []
    return present if order is None else [name for name in order if name in present]


def _read(path: Path) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"can't read {path}: {error}; run its stage again") from error
    if not isinstance(content, dict):
        raise ReportError(f"{path} must hold a JSON object, found {type(content).__name__}")
    return content


def _check_rows(path: Path, key: str, rows: Any, needed: tuple[str, ...]) -> None:
    if not isinstance(rows, list):
        raise ReportError(f"{path}: {key!r} must be a list of objects, found {type(rows).__name__}")
    for index, row in enumerate(rows):
        missing = [name for name in needed if not isinstance(row, dict) or name not in row]
        if missing:
            raise ReportError(f"{path}: {key}[{index}] lacks {', '.join(missing)} (see kdnative/report/schema.py)")
