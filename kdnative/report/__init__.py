"""Reports: a run folder as one self-contained HTML page and one JSON file."""

from __future__ import annotations

from pathlib import Path

from kdnative.report.page import render
from kdnative.report.peers import split
from kdnative.report.read import ReportError, Run, read_run

__all__ = ["ReportError", "build"]


def build(run_dir: str | Path) -> Path:
    """Writes ``report.html`` and ``report.json`` into a run's folder, each in one step.

    Args:
        run_dir: a folder as :mod:`kdnative.report.schema` describes; only its summary.json is required.

    Returns:
        The path of report.html.

    Raises:
        ReportError: the folder is missing or incomplete, or a file in it is damaged.
    """
    from kdnative.files import replace_text
    from kdnative.machine.environment import write_result

    run = read_run(run_dir)
    page, absent = render(run)
    write_result(run.folder / "report.json", _as_json(run, absent))
    path = run.folder / "report.html"
    replace_text(path, page)
    return path


def _as_json(run: Run, absent: list[str]) -> dict:
    """Everything the page shows, for programs."""
    from kdnative import __version__

    return {
        "format": 1,
        "kdnative": __version__,
        "name": run.name,
        "summary": run.summary,
        "machine": run.info.get("machine", {}),
        "seconds": {stage: record.get("seconds") for stage, record in run.records.items()},
        "stages": run.metrics,
        "engines": [
            {**{key: case[key] for key in ("batch", "tokens", "threads")}, **found}
            for case in run.peers
            if (found := split(case)) is not None
        ],
        "not_part_of_this_run": absent,
    }
