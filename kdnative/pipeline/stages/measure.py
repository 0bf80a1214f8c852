"""What the whole job bought: quality on the test split, size, latency, and the report about them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from kdnative.evaluate import predict
from kdnative.files import replace_text
from kdnative.pipeline.folder import RESULTS, SUMMARY, write_json
from kdnative.pipeline.schema import Benchmark, Evaluate, Report
from kdnative.pipeline.stages.base import Context, Row, Stage
from kdnative.pipeline.stages.native import NATIVE
from kdnative.pipeline.stages.teacher import TEACHER
from kdnative.pipeline.stages.training import MODEL, load_model, tokenized, tokenizer
from kdnative.pipeline.summary import build_summary, format_summary

if TYPE_CHECKING:
    from kdnative.pipeline.schema import Recipe

# Models and ways of running that the report shows over batch size and length.
_GRID = ((TEACHER.key, "fp32"), (NATIVE.key, "fp32"), (NATIVE.key, "bf16"), (NATIVE.key, "native"))


def row_stages(recipe: Recipe) -> dict[Row, str]:
    """The rows of the final table and the stage whose model each shows."""
    return {stage.row: stage.name for stage in recipe.active_stages() if stage.row is not None}


def _evaluate(context: Context) -> dict[str, Any]:
    """Every row's model on the test split: as it is, and on native kernels."""
    from kdnative.checkpoint import file_size

    recipe, task, batch = context.recipe, context.task, context.settings.batch_size
    found: dict[str, Any] = {}
    teacher = None
    for row, stage in row_stages(recipe).items():
        key = row.key
        source = recipe.teacher.source if row == TEACHER else recipe.student_source
        test = tokenized(context, source, "test")
        model = load_model(context, stage)
        made = context.run.metrics(stage)
        if row == NATIVE:
            own = native = predict(model, test, batch_size=batch, device="cpu")
        else:
            own = predict(model, test, batch_size=batch, device=context.device)
            native = predict(_converted(context, model), test, batch_size=batch, device="cpu")
        teacher = own if teacher is None else teacher
        found[key] = {
            "name": row.name,
            **task.quality(own, teacher, recipe.seed),
            "native": task.quality(native, teacher, recipe.seed),
            "parameters": made["parameters"],
            "bytes": file_size(context.input(stage) / MODEL),
        }
        scores = (task.score(predictions) for predictions in (own, native))
        context.log.info("evaluate: %s, %s %.4f, native %.4f", key, task.deciding.name, *scores)
    metrics = {"rows": found, "native_schemes": _scheme_text(context.settings.native_schemes)}
    return {**metrics, **_sensitivity(context)}


def _sensitivity(context: Context) -> dict[str, Any]:
    """What the final student loses layer by layer, on some validation examples; nothing when none are asked for."""
    from kdnative.evaluate import sensitivity

    recipe, task, limit = context.recipe, context.task, context.settings.sensitivity
    if not limit:
        return {}
    model = load_model(context, recipe.student_before("convert"))
    examples = context.data.validation.head(limit)
    data = task.encode(examples, tokenizer(context, recipe.student_source), recipe.data.max_length)
    found = sensitivity(model, data, device=context.device, score=task.score, divergence=task.divergence)
    rows = [{"layer": s.layer, "scheme": s.change, "drop": -s.score_change, "divergence": s.divergence} for s in found]
    return {"sensitivity": rows}


def _converted(context: Context, model: nn.Module) -> nn.Module:
    """A float model of an earlier stage on native kernels, without further training."""
    from kdnative import convert_

    return convert_(model.cpu(), context.recipe.evaluate.native_schemes).model


def _benchmark(context: Context) -> dict[str, Any]:
    """Latency of every row's model: torch eager in fp32 and bf16, and native; interleaved, on the CPU."""
    from kdnative.machine.environment import environment
    from kdnative.machine.latency import as_dtype, latency_grid
    from kdnative.quantize import finish_qat_

    recipe, settings = context.recipe, context.settings
    models: dict[str, nn.Module] = {}
    for row, stage in row_stages(recipe).items():
        key = row.key
        plain = load_model(context, recipe.student_before("convert") if row == NATIVE else stage)
        finish_qat_(plain)  # the same student in torch: its integer weights as floats
        models[f"{key} fp32"] = plain
        models[f"{key} bf16"] = as_dtype(plain, "bfloat16")
        native = load_model(context, stage) if row == NATIVE else _converted(context, copy.deepcopy(plain))
        models[f"{key} native"] = native
    options = {"threads": settings.threads, "inputs": context.task.example_inputs}
    rows = latency_grid(models, [settings.batch], [settings.tokens], repeats=settings.repeats, **options)
    latency: dict[str, Any] = {}
    for row in rows:
        key, way = row["model"].split()
        latency.setdefault(key, {})[way] = {name: row[name] for name in ("p20", "p50", "p80")}
    shown = {_grid_name(key, way): models[f"{key} {way}"] for key, way in _GRID}
    grid = latency_grid(shown, settings.grid_batches, settings.grid_tokens, repeats=settings.grid_repeats, **options)
    threads = rows[0]["threads"]
    return {
        "case": {"batch": settings.batch, "tokens": settings.tokens, "threads": threads},
        "models": latency,
        "latency": grid,
        "environment": environment(threads),
    }


def _report(context: Context) -> dict[str, Any]:
    """Writes summary.json and summary.txt into the run's folder, and the report where its package is there."""
    recipe, run = context.recipe, context.run
    about = {"source": recipe.data.source, "labels": list(context.data.labels), "counts": context.data.summary()}
    about["sizes"] = context.data.sizes
    scheme = _scheme_text(recipe.final_schemes())
    measured = run.metrics("evaluate"), run.metrics("benchmark")
    summary = build_summary(context.task, recipe.goals, *measured, about, scheme)
    write_json(run.path / "summary.json", summary)
    replace_text(run.path / "summary.txt", format_summary(summary) + "\n")
    if context.settings.html:
        from kdnative import report

        report.build(run.path)
    return {"goals": summary["goals"]}


def _grid_name(key: str, way: str) -> str:
    return f"{'teacher' if key == TEACHER.key else 'student'}, {way if way == 'native' else 'torch ' + way}"


def _scheme_text(schemes: Any) -> str:
    if isinstance(schemes, str):
        return schemes
    return ", ".join(f"{pattern}: {scheme or 'float'}" for pattern, scheme in schemes.items())


def _measured(recipe: Recipe) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*row_stages(recipe).values(), recipe.student_before("convert"))))


EVALUATE = Stage(
    "evaluate",
    _evaluate,
    does="Measures all models on the test split, as they are and on native kernels.",
    section=Evaluate,
    default=Evaluate(),
    needs=_measured,
    uses=("data", "teacher", "student", "convert"),
    version=1,
)
BENCHMARK = Stage(
    "benchmark",
    _benchmark,
    does="Times all models: torch fp32, torch bf16, native.",
    section=Benchmark,
    default=Benchmark(),
    needs=_measured,
    uses=("evaluate",),
    uses_data=False,
)
REPORT = Stage(
    "report",
    _report,
    does="Writes the final table, the goals and the HTML report into the run's folder.",
    section=Report,
    default=Report(),
    needs=lambda recipe: ("evaluate", "benchmark"),
    uses=("data", "goals"),
    results=lambda recipe: RESULTS if recipe.report.html else SUMMARY,
)
