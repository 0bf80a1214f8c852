"""Every model of a run on the test split, and each step of the pipeline against what the run would be without it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from kdnative.evaluate import Predictions, predict
from kdnative.pipeline.sections import Evaluate
from kdnative.pipeline.stages.base import Context, Row, Stage
from kdnative.pipeline.stages.calibrating import to_the_nearest, with_calibration
from kdnative.pipeline.stages.native import NATIVE, conversion_options, final_schemes
from kdnative.pipeline.stages.student import BASELINE
from kdnative.pipeline.stages.teacher import TEACHER
from kdnative.pipeline.stages.training import MODEL, encoded, load_model
from kdnative.tasks.base import estimate

if TYPE_CHECKING:
    from kdnative.pipeline.schema import Recipe

MOST_EXAMPLES = 100  # of those on which teacher and student disagree


def row_stages(recipe: Recipe) -> dict[Row, str]:
    """The rows of the final table and the stage whose model each shows."""
    return {stage.row: stage.name for stage in recipe.active_stages() if stage.row is not None}


def _evaluate(context: Context) -> dict[str, Any]:
    from kdnative.checkpoint import file_size

    recipe, task = context.recipe, context.task
    rows: dict[str, Any] = {}
    answers: dict[str, Predictions] = {}  # of each row's model as it is
    ends: dict[str, nn.Module] = {}  # the teacher and the final student
    for row, stage in row_stages(recipe).items():
        key = row.key
        model = load_model(context, stage)
        source = recipe.teacher.source if row == TEACHER else recipe.student_source
        ends |= {name: model for name, end in (("teacher", TEACHER), ("student", NATIVE)) if row == end}
        own = native = _answers(context, model, source, native=row == NATIVE)
        if row != NATIVE:
            native = _answers(context, converted(context, copy.deepcopy(model.cpu()), source), source, native=True)
        answers[key] = own
        teacher = answers[TEACHER.key]
        rows[key] = {
            "name": row.name,
            **task.quality(own, teacher, recipe.seed),
            "difference": estimate(task.difference(teacher, own, recipe.seed)),
            "kept": estimate(task.ratio(teacher, own, recipe.seed)),
            "native": task.quality(native, teacher, recipe.seed),
            "calibration": task.calibration(own),
            "parameters": context.run.metrics(stage)["parameters"],
            "bytes": file_size(context.input(stage) / MODEL),
        }
        scores = (task.score(predictions) for predictions in (own, native))
        context.log.info("evaluate: %s, %s %.4f, native %.4f", key, task.deciding.name, *scores)
    return {
        "rows": rows,
        "native_schemes": scheme_text(context.settings.native_schemes),
        "steps": _steps(context, answers),
        "teacher_calibration": _teacher_calibration(context),
        "disagreements": task.disagreements(answers[TEACHER.key], answers[NATIVE.key], MOST_EXAMPLES),
        **_sensitivity(context),
        **context.kind.measured(context, ends, {"teacher": answers[TEACHER.key], "student": answers[NATIVE.key]}),
    }


def _answers(context: Context, model: nn.Module, source: str, *, native: bool, split: str = "test") -> Predictions:
    device = "cpu" if native else context.device
    return predict(model, encoded(context, source, split), batch_size=context.settings.batch_size, device=device)


def _steps(context: Context, answers: dict[str, Predictions]) -> list[dict[str, Any]]:
    """What each step changed in the deciding measure, paired over the test examples, beside what it is compared with.

    A step is compared with the run as it would be without it. Its "kind" says how: "distilled" with hard labels,
    "changed" (pruned) with the student before it, "calibrated" with the same conversion rounded to the nearest,
    "trained" (for its integer weights) with the same conversion of the student that did without, "converted" with the
    last float student. "bought" names the rows whose latency and size a step changed, and "without" the stages that the
    run without it does without.
    """
    recipe = context.recipe
    # A student that is cut from the fine-tuned teacher needs that one with hard labels alone, too.
    teaching = ["compress_teacher"] if recipe.student.source == "teacher" else ["train_teacher", "compress_teacher"]
    rows = {stage: row for row, stage in row_stages(recipe).items()}
    found: list[dict[str, Any]] = []

    def add(kind: str, stage: str, against: str, before: Predictions, after: Predictions, bought: Any = None) -> None:
        difference = context.task.difference(before, after, recipe.seed)
        figures = {"difference": estimate(difference), "n": difference.n, "bought": bought}
        figures["without"] = [*(teaching if kind == "distilled" else ()), stage]
        found.append({"kind": kind, "stage": stage, "against": against, **figures})

    last = None  # the row of the last float student
    for stage in recipe.active_stages():
        if stage.name == "convert":
            break
        if stage.student and stage.name in rows:
            row = rows[stage.name]
            if last is not None:
                bought = {"latency": [[last.key, "native"], [row.key, "native"]], "size": [last.key, row.key]}
                add(
                    "changed",
                    stage.name,
                    f"the student before it ({last.name})",
                    answers[last.key],
                    answers[row.key],
                    bought,
                )
            elif BASELINE.key in answers:
                against = "hard labels alone"
                add("distilled", stage.name, against, answers[BASELINE.key], answers[row.key])
            last = row
    native = answers[NATIVE.key]
    trained = recipe.student_before("convert")
    if recipe.calibrate is not None and _any_integers(context):
        nearest = _untrained(context, last, calibrated=False)
        calibrated = native if trained in rows else _untrained(context, last)
        add("calibrated", "calibrate", "the same conversion, rounded to nearest", nearest, calibrated)
    if trained not in rows:
        add("trained", trained, "the same conversion without it", _untrained(context, last), native)
    bought = {"latency": [[NATIVE.key, "fp32"], [NATIVE.key, "native"]], "size": [last.key, NATIVE.key]}
    add("converted", "convert", f"the float student ({last.name})", answers[last.key], native, bought)
    return found


def _any_integers(context: Context) -> bool:
    """Whether a gate, if there is one, has left any linear to be rounded."""
    from kdnative.precision import FLOAT

    gate = context.run.metrics("convert").get("gate")
    return gate is None or set(gate["assignment"].values()) != {FLOAT}


def _untrained(context: Context, row: Row, *, calibrated: bool = True) -> Predictions:
    """The answers of a float student in the schemes of convert, without training for them."""
    from kdnative import convert_

    model = load_model(context, row_stages(context.recipe)[row]).cpu()
    options = conversion_options(context, model, calibrated=calibrated)
    native = convert_(model, final_schemes(context), **options).model
    return _answers(context, native, context.recipe.student_source, native=True)


def _teacher_calibration(context: Context) -> dict[str, Any] | None:
    """On the validation split: what it says is acted on, and the test split is for judging."""
    source = context.recipe.teacher.source
    teacher = load_model(context, row_stages(context.recipe)[TEACHER])
    return context.task.calibration(_answers(context, teacher, source, native=False, split="validation"))


def _sensitivity(context: Context) -> dict[str, Any]:
    """What the final student loses layer by layer, on some validation examples; nothing when none are asked for."""
    from kdnative.precision import sensitivity

    recipe, task, limit = context.recipe, context.task, context.settings.sensitivity
    if not limit:
        return {}
    model = load_model(context, recipe.student_before("convert"))
    examples = context.data.validation.head(limit)
    data = context.kind.encode(context.shared, recipe.student_source, examples)
    found = sensitivity(model, data, include_all=True, device=context.device, score=task.score)
    rows = [{"layer": s.layer, "scheme": s.change, "drop": -s.score_change, "divergence": s.loss} for s in found]
    return {"sensitivity": rows}


def converted(context: Context, model: nn.Module, source: str) -> nn.Module:
    """A float model on native kernels, rounded to the nearest and without further training."""
    from kdnative import convert_

    schemes = context.recipe.evaluate.native_schemes
    options = {**to_the_nearest(schemes), **context.kind.conversion(context, source, model, schemes)}
    return convert_(model.cpu(), schemes, **options).model


def scheme_text(schemes: Any) -> str:
    """Schemes of a recipe in one line."""
    if isinstance(schemes, str):
        return schemes
    return ", ".join(f"{pattern}: {scheme or 'float'}" for pattern, scheme in schemes.items())


def measured(recipe: Recipe) -> tuple[str, ...]:
    """The stages whose models are measured."""
    return tuple(dict.fromkeys((*row_stages(recipe).values(), recipe.student_before("convert"))))


def _read(recipe: Recipe) -> tuple[str, ...]:
    return (*measured(recipe), *with_calibration(recipe))


EVALUATE = Stage(
    "evaluate",
    _evaluate,
    does="Measures the accuracy of all models on the test split, in float and on native kernels.",
    section=Evaluate,
    default=Evaluate(),
    needs=_read,
    uses=("data", "teacher", "student", "convert"),
    version=3,
)
