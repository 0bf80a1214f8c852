"""The models of a recipe without values, which stages rehearse on: what can't work is refused before anything runs."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from kdnative.convert import decide
from kdnative.distill import uniform_layer_map
from kdnative.ops.backends import accepted
from kdnative.patterns import Selection
from kdnative.pipeline.folder import PipelineError
from kdnative.pipeline.kinds import kind_of
from kdnative.pipeline.models import not_fine_tuned
from kdnative.pipeline.schema import Recipe, Student, Teacher
from kdnative.pipeline.sections import Distilling, Shape
from kdnative.prune import shrink_shapes_, student_from
from kdnative.tasks import task_named

__all__ = ["Rehearsal", "refusing"]

_log = logging.getLogger("kdnative.pipeline.rehearsal")  # one name for all that a rehearsal says


class Rehearsal:
    """The recipe's models as they go from stage to stage, without values.

    What a finished stage did is repeated here without blame: it worked.

    Attributes:
        teacher, student: the models as the stages so far leave them; None where one can't be known.
        unknown: what could not be rehearsed, as something failed that says nothing of the recipe: kinds of models that
            need values. The log has the errors, at debug level, as they may be bugs.
    """

    def __init__(self, recipe: Recipe, now: set[str], pending: set[str], labels: Sequence[str]) -> None:
        self.recipe, self.now, self.pending, self.labels = recipe, now, pending, labels
        self.kind = kind_of(task_named(recipe.task).pictures)
        self.teacher: nn.Module | None = None
        self.student: nn.Module | None = None
        self.unknown: list[str] = []

    def go_through(self) -> None:
        """Follows the stages as far as the models let it."""
        try:
            self._follow_stages()
        except PipelineError:
            raise
        except Exception:  # whatever a kind of model does on the meta device: it says nothing about the recipe
            self._give_up("the stages that follow")

    def _give_up(self, what: str) -> None:
        _log.debug("%s could not be checked", what, exc_info=True)
        self.unknown.append(what)

    def _follow_stages(self) -> None:
        stages = self.recipe.active_stages()
        for_teacher = {stage.name for stage in stages if stage.teacher}
        for stage in stages:
            if not stage.teacher and self.student is None:
                if self.pending <= for_teacher or not self._load_student():
                    return
            stage.rehearse(self)
            if stage.row is not None and stage.name != "convert":
                self._check_native(self.teacher if stage.teacher else self.student)

    def blaming(self, key: str, stages: set[str], hint: str = "") -> AbstractContextManager:
        """Refuses a key where one of the stages that read it is still to run."""
        return refusing(f"{key}: ", hint) if self.pending & stages else nullcontext()

    def load_teacher(self) -> None:
        source = self.recipe.teacher.source
        self.teacher = self._classifier("teacher.source", self.recipe.teacher, {"train_teacher"})
        self._check_sizes("teacher", source, self.teacher)

    def check_hidden(self, name: str, stage: str, settings: Distilling, student: nn.Module) -> None:
        """Whether a model's hidden states can imitate the teacher's in a stage that distils.

        Args:
            name: of the settings in the recipe.
            student: what learns; the pruned teacher is the student of the whole one.
        """
        teacher = self.teacher
        if stage not in self.pending or teacher is None or not settings.hidden_weight:
            return
        if not settings.layer_map:
            hint = f"; map the layers in {name}.layer_map as {{student: teacher}}, where 0 is the embeddings"
            with self.blaming(f"{name}.hidden_weight", {stage}, hint):
                uniform_layer_map(student.config.num_hidden_layers, teacher.config.num_hidden_layers)
        pairs = settings.layer_map if settings.epochs else None
        for who, model in (("student", student), ("teacher", teacher)) if pairs else ():
            used, count = max(pairs if model is student else pairs.values()), self._hidden_states(who, model)
            if count is not None and used >= count:
                allowed = f"positions are 0 (the embeddings) to {count - 1} (the last layer)"
                raise PipelineError(f"{name}.layer_map: the {who} has no position {used}: {allowed}")

    def check_conversion(self, model: nn.Module, schemes: Any, keep: Sequence[str] = ()) -> None:
        """ValueError for what :func:`kdnative.convert_` would refuse; ranges of maps are not known yet."""
        plan = decide(model, Selection(schemes, keep, accepted))
        waiting = plan.needing("ranges")
        for decision in plan.impossible():
            if decision not in waiting:
                raise ValueError(f"{decision.name}: {decision.refusal}")

    def _hidden_states(self, who: str, model: nn.Module) -> int | None:
        """How many hidden states a model returns; None where its forward needs values."""
        try:
            with torch.no_grad():
                output = model(input_ids=torch.zeros(1, 4, dtype=torch.long, device="meta"), output_hidden_states=True)
            return len(output.hidden_states)
        except Exception:
            self._give_up(f"the hidden states of the {who}")
            return None

    def _classifier(self, key: str, settings: Teacher | Student, stages: set[str]) -> nn.Module | None:
        """The model that a stage would load, without values."""
        return self.kind.rehearsed(self, key, settings, stages)

    def check_fine_tuned(self, source: str, own: dict[int, str]) -> None:
        """PipelineError for a teacher that was fine-tuned for other classes; `own` are those of its head."""
        names = [own[i] for i in sorted(own)]
        if reason := task_named(self.recipe.task).head_mismatch(names, self.labels):
            raise PipelineError(not_fine_tuned(source, reason))

    def _load_student(self) -> bool:
        """Makes the new student; False where nothing can be known of it."""
        new = {stage.name for stage in self.recipe.active_stages() if stage.new}
        self.student = self._new_student(new)
        if self.student is None:
            return False
        self._check_native(self.student)
        self._check_sizes("student", self.recipe.student_source, self.student)
        return True

    def _new_student(self, stages: set[str]) -> nn.Module | None:
        settings = self.recipe.student
        own = settings.source != "teacher" or settings.width is not None
        model = self._classifier("student.source", settings, stages) if own else copy.deepcopy(self.teacher)
        if model is not None and settings.layers is not None:
            with self.blaming("student.layers", stages, "; null copies all layers"):
                model = student_from(model, settings.layers)
        if model is not None:
            self.shrink(model, settings, "student", stages, ("heads", "ffn"))
        return model

    def shrink(
        self,
        model: nn.Module,
        settings: Shape,
        section: str,
        stages: set[str],
        keys: Sequence[str] = ("layers", "heads", "ffn"),
    ) -> None:
        """Gives a model the shape that a section asks for, key by key, to know which one is at fault.

        Args:
            section: what the settings are called in the recipe.
            stages: those that do this to the real model.
        """
        for key in keys:
            if value := getattr(settings, key):
                with self.blaming(f"{section}.{key}", stages):
                    shrink_shapes_(model, **{key: value}, multiple_of=settings.tile)

    def _check_sizes(self, who: str, source: str, model: nn.Module | None) -> None:
        if model is not None:
            self.kind.check_sizes(self.recipe, who, source, model, self.pending)

    def _check_native(self, model: nn.Module | None) -> None:
        """Whether a row of the final table can be converted for its native figures."""
        if model is not None and self.pending & {"evaluate", "benchmark"}:
            with self.blaming("evaluate.native_schemes", {"evaluate", "benchmark"}):
                self.check_conversion(model, self.recipe.evaluate.native_schemes)


@contextmanager
def refusing(before: str = "", after: str = "") -> Iterator[None]:
    try:
        yield
    except (ValueError, ImportError) as error:  # what a missing package is needed for is known beforehand, too
        raise PipelineError(f"{before}{error}{after}") from error
