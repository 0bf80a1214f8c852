"""How fast every model of a run is, in torch and on native kernels."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from kdnative.pipeline.sections import Benchmark
from kdnative.pipeline.stages.base import Context, Row, Stage
from kdnative.pipeline.stages.evaluation import converted, measured, row_stages
from kdnative.pipeline.stages.native import NATIVE
from kdnative.pipeline.stages.teacher import TEACHER
from kdnative.pipeline.stages.training import load_model

if TYPE_CHECKING:
    from kdnative.pipeline.schema import Recipe

# Models and ways of running that the report shows over batch size and length.
_GRID = ((TEACHER.key, "fp32"), (NATIVE.key, "fp32"), (NATIVE.key, "bf16"), (NATIVE.key, "native"))


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
        native = (
            load_model(context, stage)
            if row == NATIVE
            else converted(context, copy.deepcopy(plain), _source(recipe, row))
        )
        models[f"{key} native"] = native
    options = {"threads": settings.threads, "inputs": context.task.example_inputs}
    size, grid_sizes = context.kind.sizes(recipe)
    rows = latency_grid(models, [settings.batch], [size], repeats=settings.repeats, **options)
    latency: dict[str, Any] = {}
    for row in rows:
        key, way = row["model"].split()
        latency.setdefault(key, {})[way] = {name: row[name] for name in ("p20", "p50", "p80", "samples")}
    shown = {_grid_name(key, way): models[f"{key} {way}"] for key, way in _GRID}
    grid = latency_grid(shown, settings.grid_batches, grid_sizes, repeats=settings.grid_repeats, **options)
    threads = rows[0]["threads"]
    return {
        "case": {"batch": settings.batch, "tokens": size, "threads": threads, "unit": context.kind.unit},
        "models": latency,
        "latency": grid,
        "environment": environment(threads),
    }


def _source(recipe: Recipe, row: Row) -> str:
    return recipe.teacher.source if row == TEACHER else recipe.student_source


def _grid_name(key: str, way: str) -> str:
    return f"{'teacher' if key == TEACHER.key else 'student'}, {way if way == 'native' else 'torch ' + way}"


BENCHMARK = Stage(
    "benchmark",
    _benchmark,
    does="Measures the latency of all models in torch fp32, torch bf16 and native.",
    section=Benchmark,
    default=Benchmark(),
    needs=measured,
    uses=("evaluate",),
    uses_data=False,
)
