"""What the whole job bought: summary.json, summary.txt, the student with its card, and the report."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

from kdnative.data import model_path
from kdnative.files import replace_text
from kdnative.pipeline.folder import RESULTS, STUDENT, SUMMARY, write_json
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
    summary["base"] = _base(recipe.teacher.source)
    summary["examples"] = _examples(context)
    summary["pictures"] = [
        {**context.kind.shown(context.data.test, row["index"]), **row} for row in metrics.get("pictures", [])
    ]
    summary["corruptions"] = metrics.get("corruptions", [])
    write_json(run.path / "summary.json", summary)
    text = format_summary(summary)
    replace_text(run.path / "summary.txt", text + "\n")
    context.log.info("report: summary\n%s", text, extra=FILE_ONLY)
    _student(context)
    if context.settings.html:
        from kdnative import report

        report.build(run.path)
    return {"goals": summary["goals"]}


# Names on the hub, and licences.
_BASES = {
    "package:minilm-l6": ("sentence-transformers/all-MiniLM-L6-v2", "apache-2.0"),
    "package:mpnet-base": ("sentence-transformers/all-mpnet-base-v2", "apache-2.0"),
    "package:mobilenet-v2": (None, "bsd-3-clause"),
    "package:efficientnet-lite2": ("timm/tf_efficientnet_lite2.in1k", "apache-2.0"),
}


def _base(source: str) -> dict[str, Any]:
    """The teacher's source, its name on the hub and its licence, each None where it is not known."""
    name, licence = _BASES.get(source, (source[4:] if source.startswith("hub:") else None, None))
    folder = Path(source)
    if source.startswith("hub:"):
        folder = Path(model_path(source))
    if (file := folder / "README.md").is_file():
        head = file.read_text(encoding="utf-8", errors="replace").split("\n---", 1)[0]
        found = re.search(r"^license:\s*([\w.-]+)", head, re.MULTILINE)
        licence = found[1] if found else None
    return {"source": source, "name": name, "license": licence}


def _student(context: Context) -> None:
    """The final student as a folder to use and to share: the model, its card and, of pictures, an example."""
    from kdnative.report.card import EXAMPLE, card
    from kdnative.report.read import read_run

    run = context.run
    final = run.path / STUDENT

    def fill(place: Path) -> None:
        if context.task.pictures:
            image = context.kind.shown(context.data.test, 0)["image"]
            (place / EXAMPLE).write_bytes(_png(image))
        (place / "README.md").write_text(card(read_run(run.path), final), encoding="utf-8")

    run.replace_student(context.input("convert") / "model", fill)


def _png(data_uri: str) -> bytes:
    from io import BytesIO

    from PIL import Image

    file = BytesIO()
    Image.open(BytesIO(base64.b64decode(data_uri.partition(",")[2]))).save(file, "PNG")
    return file.getvalue()


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
    results=lambda recipe: (*(RESULTS if recipe.report.html else SUMMARY), f"{STUDENT}/README.md"),
)
