"""What a task is: everything that depends on what a model is asked for, in one place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn

from kdnative.data import Batch, Batches, DataSplits
from kdnative.evaluate import Interval, Predictions, predict

__all__ = ["Measure", "Task", "Validation", "estimate"]


@dataclass(frozen=True)
class Measure:
    """A figure of the final table; higher is better, where it decides anything.

    Attributes:
        key: under which `Task.quality` has it. name: in headings and sentences.
        percent: a share, shown in percent; else a plain number.
        short: heading of the table in a terminal; None leaves it out there.
    """

    key: str
    name: str
    percent: bool = True
    short: str | None = None

    def text(self, value: float | None, digits: int = 1) -> str:
        """A figure as people read it: 83.6 %, or 0.836."""
        if value is None:
            return "-"
        return f"{100 * value:.{digits}f} %" if self.percent else f"{value:.3f}"


class Trained(Protocol):
    """Of a training section of a recipe, what losses read."""

    label_smoothing: float


class Task(ABC):
    """One kind of question to a model, about a text, two texts together, or a picture.

    Attributes:
        name: in recipes. pair: whether an example has two texts. pictures: whether it is about a picture.
        measures: figures of the final table. The first decides: the best epoch on the validation split is chosen by it,
            and what a student keeps of its teacher is the ratio of it.
        selectable: measures of the validation split by which a recipe may choose the best epoch, and which end is
            better; of those that need a teacher, `from_teacher` is the name.
        lacks: keys of recipe sections that mean nothing to the task, and why.
        numbers: whether labels are targets (floats), not classes.
        divergence_unit: of `divergence`.
    """

    measures: ClassVar[tuple[Measure, ...]]
    selectable: ClassVar[Mapping[str, Literal["max", "min"]]]
    from_teacher: ClassVar[str]
    lacks: ClassVar[Mapping[str, str]] = {}
    numbers: ClassVar[bool] = False
    pictures: ClassVar[bool] = False
    divergence_unit: ClassVar[str]

    def __init__(self, name: str, pair: bool = False) -> None:
        self.name, self.pair = name, pair

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def deciding(self) -> Measure:
        return self.measures[0]

    # Data

    @abstractmethod
    def load(self, source: str, **options: Any) -> DataSplits:
        """The examples, with the fields that the task needs (options: of the recipe's section `data`).

        Raises:
            DataError: data that can't be used, or no labels to learn from.
        """

    def notes(self, data: DataSplits) -> list[str]:
        """What the user should know of data that can be learned from all the same, a sentence each."""
        return []

    # Training

    @abstractmethod
    def hard_loss(self, weight: float, settings: Trained, class_weights: Sequence[float] | None) -> nn.Module:
        """The loss term of labels; examples without one do not count."""

    @abstractmethod
    def soft_loss(self, weight: float, temperature: float, kind: str = "kd") -> nn.Module:
        """The loss term of a teacher's answers: a soft label is what the teacher gives, logits or a prediction.

        Args:
            kind: of `kdnative.distill.terms.SOFT_LOSSES`; of numbers "kd" alone.
        """

    @abstractmethod
    def labels_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss that says how important heads and neurons are to a model, a scalar."""

    def validation(self, batches: Batches, teacher: Predictions | None = None) -> Validation:
        """What `train` asks after every epoch; with a teacher's answers to it also their distance."""
        return Validation(self, batches, teacher)

    # Measuring

    @abstractmethod
    def loss(self, predictions: Predictions) -> float:
        """The mean loss of labelled predictions."""

    @abstractmethod
    def measured(self, predictions: Predictions) -> dict[str, float]:
        """What validations show of labelled predictions, without intervals: "loss" and all of `selectable`."""

    @abstractmethod
    def score(self, predictions: Predictions) -> float:
        """The deciding measure of labelled predictions."""

    @abstractmethod
    def agreement(self, a: Predictions, b: Predictions) -> Interval:
        """How much two models agree on the same examples."""

    @abstractmethod
    def divergence(self, original: Tensor, changed: Tensor) -> float:
        """How far a model's answers moved, from logits [N, C]; 0 where they are the same."""

    @abstractmethod
    def difference(self, before: Predictions, after: Predictions, seed: int) -> Interval:
        """The deciding measure after minus that before, of two models on the same examples, with a paired interval."""

    @abstractmethod
    def ratio(self, before: Predictions, after: Predictions, seed: int) -> Interval | None:
        """The deciding measure after divided by that before, likewise; None where there is nothing to divide by."""

    @abstractmethod
    def quality(self, predictions: Predictions, teacher: Predictions, seed: int) -> dict[str, Any]:
        """All measures of labelled predictions, ready for JSON: an `estimate`, or a plain number."""

    def calibration(self, predictions: Predictions) -> dict[str, Any] | None:
        """How well labelled predictions know how sure they may be, ready for JSON; None where they say nothing of it.

        "ece", the "chance" that a perfectly calibrated model has of as much, "n", and the "bins" of `reliability`.
        """
        return None

    @abstractmethod
    def disagreements(self, teacher: Predictions, student: Predictions, most: int) -> list[dict[str, Any]]:
        """The examples on which two models disagree most, worst first, ready for JSON.

        Each has "index" (in the dataset), and "label", "teacher" and "student" as a reader sees them.
        """

    # Timing

    @abstractmethod
    def example_inputs(self, model: nn.Module, batch: int, size: int) -> dict[str, Tensor]:
        """Inputs to time a model with: so many examples of so many tokens, or pixels on a side."""


class Validation:
    """A model on labelled batches: what the task measures there, and how far it is from a teacher.

    Args:
        teacher: its answers to the same examples; None: there is none to compare with.
    """

    def __init__(self, task: Task, batches: Batches, teacher: Predictions | None = None) -> None:
        self.task, self.batches, self.teacher = task, batches, teacher
        self.names = tuple(name for name in task.selectable if teacher is not None or name != task.from_teacher)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        found = predict(model, self.batches, device=device)
        measured = self.task.measured(found)
        if self.teacher is not None:
            measured[self.task.from_teacher] = self.task.divergence(self.teacher.logits, found.logits)
        return measured


def estimate(interval: Interval | None) -> dict[str, float] | None:
    """A value and its interval, for JSON; None stays None."""
    return interval and {"value": interval.value, "low": interval.low, "high": interval.high}
