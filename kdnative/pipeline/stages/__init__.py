"""The stages in their order. Each is a folder of the run and, under the same name, a section of the recipe."""

from kdnative.pipeline.stages.base import ABSENT, Context, Shared, Stage
from kdnative.pipeline.stages.measure import BENCHMARK, EVALUATE, REPORT
from kdnative.pipeline.stages.native import CONVERT
from kdnative.pipeline.stages.student import DISTIL, PRUNE, RECOVER, TRAIN_BASELINE
from kdnative.pipeline.stages.teacher import COMPRESS_TEACHER, TRAIN_TEACHER

STAGES: tuple[Stage, ...] = (
    TRAIN_TEACHER,
    COMPRESS_TEACHER,
    TRAIN_BASELINE,
    DISTIL,
    PRUNE,
    RECOVER,
    CONVERT,
    EVALUATE,
    BENCHMARK,
    REPORT,
)

__all__ = ["ABSENT", "STAGES", "Context", "Shared", "Stage"]
