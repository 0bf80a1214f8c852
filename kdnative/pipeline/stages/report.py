"""What the whole job bought: summary.json, summary.txt and the report."""

from __future__ import annotations

from typing import Any

from kdnative.files import replace_text
from kdnative.pipeline.folder import RESULTS, SUMMARY, write_json
from kdnative.pipeline.runlog import FILE_ONLY
from kdnative.pipeline.sections import Report
from kdnative.pipeline.stages.base import Context, Stage
from kdnative.pipeline.stages.evaluation import scheme_text
from kdnative.pipeline.stages.gating import shares
from kdnative.pipeline.summary import build_summary
from kdnative.pipeline.summary_text import format_summary


def _report(context: Context) -> dict[str, Any]:
    """Writes the summary into the run's folder, and the report where the recipe asks for it."""
    recipe, run = context.recipe, context.run
    stages = [stage.name for stage in recipe.active_stages() if stage.name != context.stage]
    gate, metrics = run.metrics("convert").get("gate"), run.metrics("evaluate")
    summary = build_summary(
        context.task,
        recipe.goals,
        metrics={name: run.metrics(name) for name in stages},
        seconds={name: run.record(name)["seconds"] for name in stages},
        data=_data(context),
        scheme=scheme_text(recipe.final_schemes()) if gate is None else f"by the gate: {shares(gate)}",
    )
    summary["gate"] = gate
    summary["examples"] = _examples(context)
    summary["pictures"] = [
        {**context.kind.shown(context.data.test, row["index"]), **row} for row in metrics.get("pictures", [])
    ]
    summary["corruptions"] = metrics.get("corruptions", [])
    write_json(run.path / "summary.json", summary)
    text = format_summary(summary)
    replace_text(run.path / "summary.txt", text + "\n")
    context.log.info("report: summary\n%s", text, extra=FILE_ONLY)
    if context.settings.html:
        from kdnative import report

        report.build(run.path)
    return {"goals": summary["goals"]}


def _data(context: Context) -> dict[str, Any]:
    """Where the examples come from and how many each part has."""
    data, source = context.data, context.recipe.data.source
    found = {"source": source, "labels": list(data.labels), "sizes": data.sizes, "counts": data.summary()}
    return {**found, "things": context.kind.things}


def _examples(context: Context) -> list[dict[str, Any]]:
    """Texts of the test split on which student and teacher disagree most, as many as the recipe asks for."""
    found = context.run.metrics("evaluate")["disagreements"][: context.settings.examples]
    test = context.data.test
    return [{**context.kind.shown(test, row["index"]), **row} for row in found]


REPORT = Stage(
    "report",
    _report,
    does="Says what each step bought and which goals are met, in the summary and in an HTML report.",
    section=Report,
    default=Report(),
    needs=lambda recipe: tuple(s.name for s in recipe.active_stages() if s.name != "report"),
    uses=("data", "goals"),
    results=lambda recipe: RESULTS if recipe.report.html else SUMMARY,
)
