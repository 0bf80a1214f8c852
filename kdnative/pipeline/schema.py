"""What a recipe may say: typed sections, every key with its default (explained in docs/recipes.md).

Which sections a recipe has, and in which order their stages run, is written once: in `kdnative.pipeline.stages`.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from kdnative.ops.backends import accepted
from kdnative.shown import shown
from kdnative.tasks import task_named


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would read it as 0 or 1
        raise ValueError(f"a number is needed, got {value} (YAML reads yes, no, on and off as true and false, too)")
    return value


def _at_most(most: int, what: str = "") -> AfterValidator:
    """Refuses slips of the keyboard, which would otherwise end a run in the allocator, hours later."""

    def check(value: int) -> int:
        if value > most:
            raise ValueError(f"at most {most:,}{what}, got {shown(value)}")
        return value

    return AfterValidator(check)


_MOST_THREADS = max(1024, 4 * (os.cpu_count() or 1))

Int = Annotated[int, BeforeValidator(_no_bool)]
Float = Annotated[float, BeforeValidator(_no_bool)]
Fraction = Annotated[Float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[Int, Field(ge=1), _at_most(10**9)]
Count = Annotated[Int, Field(ge=0), _at_most(10**9)]
Epochs = Annotated[Int, Field(ge=0), _at_most(100_000, " epochs")]
Seed = Annotated[Int, Field(ge=0), _at_most(2**32 - 1)]
Sentences = Annotated[Int, Field(ge=1), _at_most(2**16, " sentences at once")]
Tokens = Annotated[Int, Field(ge=2), _at_most(2**20, " tokens in one sentence")]
Samples = Annotated[Int, Field(ge=1), _at_most(100_000, " samples")]
Layers = Annotated[Int, Field(ge=1), _at_most(10_000, " layers")]
Threads = Annotated[
    Int, Field(ge=1), _at_most(_MOST_THREADS, f" threads, and this machine has {os.cpu_count()} processors")
]
PositiveFloat = Annotated[Float, Field(gt=0.0)]
NotNegative = Annotated[Float, Field(ge=0.0)]


def _known_task(name: str) -> str:
    return task_named(name).name


def _ascending(layers: Any) -> Any:
    if isinstance(layers, list) and (not layers or sorted(set(layers)) != layers):
        raise ValueError(f"layers must be ascending layer numbers without repeats, counted from 0, got {shown(layers)}")
    return layers


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, numbers are finite, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(Section):
    source: str
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    unlabelled: Literal["error", "keep"] = "error"
    validation: str | None = None
    test: str | None = None
    split: tuple[NotNegative, NotNegative, NotNegative] = (0.8, 0.1, 0.1)
    empty: Literal["error", "drop"] = "error"
    config: str | None = None
    revision: str | None = None
    limit: Positive | None = None
    max_length: Annotated[Tokens, Field(ge=4)] = 128


class Teacher(Section):
    source: str


class Student(Section):
    source: str = "teacher"
    layers: Layers | list[Count] | None = None
    _layers = field_validator("layers")(_ascending)


class Training(Section):
    epochs: Epochs = 3
    lr: PositiveFloat = 5e-5
    batch_size: Sentences = 32
    mask_tokens: Fraction = 0.0
    warmup: Fraction = 0.1
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: NotNegative = 0.01
    clip_norm: PositiveFloat = 1.0
    label_smoothing: Fraction = 0.0
    class_weights: Literal["balanced"] | list[PositiveFloat] | None = None
    amp: bool | Literal["auto"] = "auto"
    max_steps: Positive | None = None
    select_best: bool = True
    save_every: Positive = 100


class Distilling(Training):
    temperature: PositiveFloat = 2.0
    soft_weight: NotNegative = 1.0
    hard_weight: NotNegative = 1.0
    hidden_weight: NotNegative = 0.0
    hidden_metric: Literal["mse", "cosine"] = "mse"
    layer_map: dict[Count, Count] | None = None

    @model_validator(mode="after")
    def _some_weight(self):
        # Even with no epochs: the stage builds its loss first, which refuses this once the teacher has been trained.
        if not self.soft_weight + self.hard_weight + self.hidden_weight:
            raise ValueError("soft_weight, hard_weight and hidden_weight are all 0: there is nothing to learn from")
        return self


class Prune(Distilling):
    epochs: Epochs = 2
    heads: Fraction = 0.0
    ffn: Fraction = 0.0
    layers: Layers | list[Count] | None = None
    multiple_of: Positive = 64
    importance: Literal["taylor", "magnitude"] = "taylor"
    calibration_batches: Annotated[Int, Field(ge=1), _at_most(100_000, " batches")] = 16
    _layers = field_validator("layers")(_ascending)


class CompressTeacher(Section):
    scheme: str | None = "w8a8"
    batch_size: Sentences = 64
    top_k: Positive | None = None
    temperature: PositiveFloat | None = None
    prune: Prune | None = None

    @field_validator("scheme")
    @classmethod
    def _known(cls, scheme):
        return None if scheme is None else str(accepted(scheme))


Schemes = str | dict[str, str | None]


def _parse_schemes(schemes: Schemes | None) -> Schemes | None:
    if isinstance(schemes, dict):
        if not schemes:
            raise ValueError("schemes is empty: give one scheme such as w8a8, or patterns with a scheme each")
        return {pattern: None if s is None else str(accepted(s)) for pattern, s in schemes.items()}
    return None if schemes is None else str(accepted(schemes))


class Recover(Distilling):
    epochs: Epochs = 2
    schemes: Schemes = "w8a8"
    clip: Literal["search", "learn"] | None = None
    _parse = field_validator("schemes")(_parse_schemes)


class Convert(Section):
    schemes: Schemes | None = None
    embeddings: Literal[8] | None = 8
    keep: list[str] = []
    clip_search: bool = False
    _parse = field_validator("schemes")(_parse_schemes)


class Evaluate(Section):
    batch_size: Sentences = 64
    native_schemes: Schemes = "w8a8"
    sensitivity: Count = 0
    _parse = field_validator("native_schemes")(_parse_schemes)


class Benchmark(Section):
    batch: Sentences = 1
    tokens: Tokens = 32
    threads: Threads | None = None
    repeats: Samples = 30
    grid_batches: Annotated[list[Sentences], Field(max_length=100)] = [1, 8]
    grid_tokens: Annotated[list[Tokens], Field(max_length=100)] = [16, 32, 128]
    grid_repeats: Samples = 5


class Report(Section):
    html: bool = True
    examples: Annotated[Int, Field(ge=0), _at_most(100, " examples")] = 20


class Goals(Section):
    kept: NotNegative | None = None
    size_ratio: NotNegative | None = None
    speedup_teacher: NotNegative | None = None
    speedup_bf16: NotNegative | None = None


class Recipe(Section):
    """A whole pipeline: what follows, and one section per stage (`recipe_class` of `kdnative.pipeline.stages`).

    A section may be ``null`` where its stage is optional: that stage is left out.
    """

    stages: ClassVar[tuple[Any, ...]] = ()
    """Every stage that a recipe may have, in their order; set by `recipe_class`."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    task: Annotated[str, AfterValidator(_known_task)] = "text-classification"
    seed: Seed = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Threads | None = None
    store: str | None = None
    data: Data
    teacher: Teacher
    student: Student = Student()
    goals: Goals = Goals()

    @model_validator(mode="after")
    def _one_temperature(self):
        """The mass that top-k soft labels keep for all other classes holds at one temperature only."""
        given = self.compress_teacher.temperature
        if given is None or self.compress_teacher.top_k is None:
            return self
        sections = {stage.name: getattr(self, stage.name) for stage in self.active_stages()}
        learning = {name: s for name, s in sections.items() if isinstance(s, Distilling) and s.epochs and s.soft_weight}
        other = [f"{name}.temperature is {s.temperature}" for name, s in learning.items() if s.temperature != given]
        if other:
            raise ValueError(
                f"compress_teacher.temperature is {given}, but {', '.join(other)}: with compress_teacher.top_k they "
                "must be equal; compress_teacher.temperature: null keeps no mass of other classes and fits any"
            )
        return self

    @model_validator(mode="after")
    def _means_something_to_the_task(self):
        task = task_named(self.task)
        if not task.pair and self.data.text_pair is not None:
            raise ValueError(f"data.text_pair: the task {self.task} reads one text; leave it out, or give another task")
        for stage in self.active_stages():
            for name, part in self.sections_of(stage):
                for key, why in task.lacks.items():
                    if value := getattr(part, key, None):
                        raise ValueError(f"{name}.{key} is {shown(value)}, but {why}: leave it out")
        return self

    def active_stages(self) -> list[Any]:
        """The stages (`kdnative.pipeline.stages.Stage`) of this recipe in their order, without those it leaves out."""
        return [stage for stage in self.stages if getattr(self, stage.name) is not None]

    def sections_of(self, stage: Any) -> list[tuple[str, Section]]:
        """The names and settings of an active stage: its section, and those inside of it."""
        section = getattr(self, stage.name)
        inner = [(f"{stage.name}.{name}", value) for name, value in section if isinstance(value, Section)]
        return [(stage.name, section), *inner]

    @property
    def student_source(self) -> str:
        """Where the student, and with it its tokenizer, comes from."""
        return self.teacher.source if self.student.source == "teacher" else self.student.source

    def student_before(self, name: str) -> str:
        """The stage whose student the stage ``name`` starts from: the last one before it that makes one."""
        names = [stage.name for stage in self.stages]
        before = names[: names.index(name)]
        return [stage.name for stage in self.active_stages() if stage.student and stage.name in before][-1]

    def final_schemes(self) -> Schemes:
        """Schemes of the final student: those of ``convert``, else those it was trained for, else w8a8."""
        if self.convert.schemes is not None:
            return self.convert.schemes
        return self.recover.schemes if self.recover is not None else "w8a8"
