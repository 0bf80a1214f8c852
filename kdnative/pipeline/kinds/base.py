"""What a kind of inputs says: how they are read, which models read them, and how these are trained, saved and timed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from kdnative.data import Dataset, DataSplits
from kdnative.data.batches import EncodedDataset
from kdnative.evaluate import Predictions

__all__ = ["Context", "Kind", "Recipe", "Rehearsal", "Shared", "Source"]

# Of kdnative.pipeline.stages, .rehearsed_models and .schema, which know kinds and so can't be imported here.
Context = Any
Shared = Any
Rehearsal = Any
Recipe = Any
Source = Any  # the recipe's teacher or student


class Kind(ABC):
    """Texts, or pictures.

    Attributes:
        things: what examples are called. unit: of an example's size, in the tables of the benchmark.
        models: what a model's source may be, for messages: "folder: give ...".
        convolutions: whether models are networks of convolutions.
    """

    things: ClassVar[str]
    unit: ClassVar[str]
    models: ClassVar[str]
    convolutions: ClassVar[bool] = False

    # Data

    @abstractmethod
    def load_data(self, recipe: Recipe) -> DataSplits:
        """The examples of a recipe; DataError where they can't be used."""

    @abstractmethod
    def encode(self, shared: Shared, source: str, part: Dataset) -> EncodedDataset:
        """Examples as the model from a source reads them."""

    def notes(self, recipe: Recipe) -> list[str]:
        """What the user should know of data of which a part is not read, a sentence each."""
        return []

    @abstractmethod
    def shown(self, part: Dataset, index: int) -> dict[str, Any]:
        """An example as the report shows it: "texts", and of pictures also "image", a data URI."""

    # Models

    @abstractmethod
    def load(self, context: Context, settings: Source, *, fine_tuned: bool = False) -> nn.Module:
        """A model of the recipe, with a head for the data's classes; PipelineError where it can't be loaded."""

    @abstractmethod
    def rehearsed(self, rehearsal: Rehearsal, key: str, settings: Source, stages: set[str]) -> nn.Module | None:
        """The model that `load` would load, without values; None where it can't be known.

        Args:
            key: of the model's source in the recipe. stages: those that load it.
        """

    @abstractmethod
    def save(self, context: Context, model: nn.Module, source: str, path: Path) -> None:
        """Saves a model with all that is needed to use it."""

    @abstractmethod
    def load_saved(self, path: Path) -> nn.Module:
        """A model that `save` has saved, on the CPU, in evaluation mode."""

    def copied(self, context: Context, path: Path) -> nn.Module:
        """A student from the fine-tuned teacher that was saved there, before it is given a shape of its own."""
        return self.load_saved(path)

    @abstractmethod
    def check_sizes(self, recipe: Recipe, who: str, source: str, model: nn.Module, pending: Collection[str]) -> None:
        """PipelineError for inputs that are too large for a model or the machine."""

    # Training

    @abstractmethod
    def batches(self, context: Context, source: str, data: EncodedDataset) -> Any:
        """What a training stage learns from, anew in every epoch."""

    @abstractmethod
    def changes_inputs(self, context: Context) -> bool:
        """Whether training inputs change from epoch to epoch, so that a teacher has to answer for each."""

    @abstractmethod
    def check_training(self, context: Context, source: str) -> None:
        """PipelineError for what only the model itself can tell of a recipe."""

    def precision(self, context: Context, model: nn.Module, batches: Any, loss: Sequence[nn.Module]) -> str:
        """ "fp32", "bf16" or "auto": in what a stage trains a model, where its recipe leaves it to the machine."""
        return "auto"

    # Conversion and measuring

    def conversion(self, context: Context, source: str, model: nn.Module, schemes: Any) -> dict[str, Any]:
        """Further options of `convert_`, for a model from a source and the schemes of the recipe."""
        return {}

    @abstractmethod
    def sizes(self, recipe: Recipe) -> tuple[int, list[int]]:
        """Sizes of examples to time models with: that of the benchmark's case, and those of its grid."""

    def measured(
        self, context: Context, models: dict[str, nn.Module], answers: dict[str, Predictions]
    ) -> dict[str, Any]:
        """Further figures of the evaluation, of the teacher and the final student."""
        return {}
