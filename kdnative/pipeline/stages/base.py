"""What a stage is: a name, what it is made from, and a function that fills a folder and returns figures."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from logging import Logger
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kdnative.data.types import DataError, KindError
from kdnative.files import sha256_of
from kdnative.pipeline.folder import RunFolder
from kdnative.pipeline.kinds import Kind, kind_of
from kdnative.tasks import SERVED, Task, task_named

if TYPE_CHECKING:
    from kdnative.data import DataSplits
    from kdnative.pipeline.rehearsed_models import Rehearsal
    from kdnative.pipeline.schema import Recipe, Student, Teacher
    from kdnative.pipeline.sections import Section


ABSENT = "absent"
_NAMED = (
    "package:",
    "hub:",
    "torchvision:",
    "timm:",
)  # a source that is the name of a model, not the path of its folder
# Of a model's folder: weights, configuration and tokenizer, but not notes that people write beside them.
_MODEL_FILES = ("*.safetensors", "*.bin", "*.index.json", "config.json", "kdnative.json", "network.json", "tokenizer*")
_MODEL_FILES += ("vocab*", "merges.txt", "*.model", "special_tokens_map.json", "added_tokens.json")


@dataclass
class Context:
    """What a stage works with.

    Attributes:
        recipe: the whole recipe; ``settings`` is the stage's own section.
        run: the run's folder, to read the outputs of earlier stages from.
        folder: where this stage writes. Kept when the stage is interrupted, made visible when it returns.
        device: ``"cpu"`` or ``"cuda"``, for training; conversion and native measurements are on the CPU.
        part: the section inside of the stage's own to take the settings from.
        earlier_seconds: what interrupted attempts took whose work this one goes on with.
    """

    recipe: Recipe
    run: RunFolder
    stage: str
    folder: Path
    device: str
    log: Logger
    progress: bool
    shared: Shared
    part: str | None = None
    earlier_seconds: float = 0.0
    start: float = field(default_factory=time.perf_counter)

    def seconds(self) -> float:
        """How long the stage has taken so far."""
        return self.earlier_seconds + time.perf_counter() - self.start

    @property
    def settings(self) -> Any:
        own = getattr(self.recipe, self.stage)
        return own if self.part is None else getattr(own, self.part)

    @property
    def section(self) -> str:
        """What the settings are called in the recipe."""
        return self.stage if self.part is None else f"{self.stage}.{self.part}"

    @property
    def of_teacher(self) -> bool:
        """Whether the stage's model is the teacher, and not the student."""
        return any(stage.teacher for stage in self.recipe.stages if stage.name == self.stage)

    @property
    def data(self) -> DataSplits:
        return self.shared.data

    @property
    def task(self) -> Task:
        return self.shared.task

    @property
    def kind(self) -> Kind:
        return self.shared.kind

    def input(self, stage: str) -> Path:
        """The output folder of an earlier stage, one of those this stage says it needs."""
        return self.run.output(stage)


@dataclass
class Shared:
    """What several stages of one run load only once."""

    recipe: Recipe
    cache: dict[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        return task_named(self.recipe.task)

    @property
    def kind(self) -> Kind:
        """What depends on whether the task is about texts or pictures."""
        return kind_of(self.task.pictures)

    @cached_property
    def data(self) -> DataSplits:
        """The examples.

        Raises:
            DataError: they can't be read, or are not of the kind that the task reads.
        """
        try:
            return self.kind.load_data(self.recipe)
        except KindError as error:
            raise DataError(f"{error}. The task is {self.task.name}. {SERVED}") from error

    def model_digest(self, source: str) -> str | None:
        """SHA-256 of the names and contents of a model's files, read once per run; ABSENT when they are gone.

        None for names, which say themselves what they stand for.
        """
        if source.startswith(_NAMED):
            return None
        key = f"digest of {source}"
        if key not in self.cache:
            place = Path(source)
            self.cache[key] = sha256_of(place) if place.is_file() else _digest(place) if place.is_dir() else ABSENT
        return self.cache[key]


def named(model: Teacher | Student) -> tuple[str, ...]:
    """The models and files from outside of the run that a model of the recipe starts from."""
    return (model.source,) if model.weights is None else (model.source, model.weights)


def _digest(folder: Path) -> str:
    files = {file for pattern in _MODEL_FILES for file in folder.glob(pattern) if file.is_file()}
    lines = (f"{file.name}\n{sha256_of(file)}\n" for file in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Row(NamedTuple):
    """A row of the final table: its key in summary.json, and its name."""

    key: str
    name: str


@dataclass(frozen=True)
class Stage:
    """One step of the pipeline. The order of stages is that of `kdnative.pipeline.stages`.

    Attributes:
        name: also the name of its section in the recipe and of its folder.
        run: fills ``context.folder`` and returns the stage's figures, ready for JSON.
        section: the class of its section in the recipe.
        default: its section where a recipe has none; None leaves the stage out.
        optional: whether a recipe may leave the stage out, with ``null``.
        does: what it does, a sentence: the description of its section.
        needs: the stages whose output it reads, given the recipe (stages may be left out of a recipe).
        uses: recipe sections besides its own that change its result.
        times: whether the benchmark's case changes it, too.
        uses_data: whether the data set changes its result.
        sources: the models from outside of the run that it starts from, as the recipe names them.
        results: names of the files that it writes into the run's folder, beside its own.
        teacher: whether it is about the teacher alone.
        student: whether its model is the student that later stages start from.
        new: whether its model starts as a new student.
        row: the row of the final table that shows its model.
        plan: what it would do for a recipe, in a few words, where its settings and epochs do not say it.
        version: of its code; another one where the same settings make something else from now on. None: runs do not
            share its output through the store, as the clock decides it, or nobody counts the versions of its code.
        rehearse: what it does to models without values, to learn before anything runs what can't work.
    """

    name: str
    run: Callable[[Context], dict]
    section: type[Section]
    default: Section | None
    optional: bool = False
    does: str = ""
    needs: Callable[[Recipe], tuple[str, ...]] = lambda recipe: ()
    uses: tuple[str, ...] = ()
    times: Callable[[Recipe], bool] = lambda recipe: False
    uses_data: bool = True
    sources: Callable[[Recipe], tuple[str, ...]] = lambda recipe: ()
    results: Callable[[Recipe], tuple[str, ...]] = lambda recipe: ()
    teacher: bool = False
    student: bool = False
    new: bool = False
    row: Row | None = None
    plan: Callable[[Recipe], str] = lambda recipe: ""
    version: int | None = None
    rehearse: Callable[[Rehearsal], None] = lambda rehearsal: None
