"""What tasks about texts share: examples of one or two texts, tokens, and the head of a model of transformers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, nn

from kdnative.data import DataError, Dataset, DataSplits, TokenizedDataset, load_dataset, tokenize
from kdnative.data.types import PAIR, TEXT
from kdnative.machine.latency import example_inputs
from kdnative.tasks.base import Task

__all__ = ["TextTask"]


class TextTask(Task):
    """A question about one text, or two together."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The texts of an example."""
        return (TEXT, PAIR) if self.pair else (TEXT,)

    def load(  # type: ignore[override]
        self, source: str, *, text: str, text_pair: str | None, label: str, **options: Any
    ) -> DataSplits:
        """The examples, with the fields that the task needs (arguments: columns, and options of `load_dataset`).

        Raises:
            DataError: what `load_dataset` says, or no labels to learn from.
        """
        columns = {
            "text_column": text,
            "label_column": label,
            "text_pair_column": (text_pair or PAIR) if self.pair else None,
        }
        found = load_dataset(source, **columns, numbers=self.numbers, **options)
        if not found.train.labelled:
            raise DataError(f"{source}: the training split has no labels")
        return found

    def encode(self, split: Dataset, tokenizer: Any, max_length: int) -> TokenizedDataset:
        """A split as a model reads it; its ``batch`` makes batches."""
        return tokenize(split, tokenizer, max_length)

    @abstractmethod
    def head(self, labels: Sequence[str]) -> dict[str, Any]:
        """Options of transformers' configuration that make the right head."""

    @abstractmethod
    def fit_head(
        self,
        model: nn.Module,
        own: Sequence[str],
        train: Dataset,
        missing: Collection[str],
        replaced: Collection[str],
        source: str,
    ) -> bool:
        """Adapts the head of a loaded model to the training split, in place.

        Args:
            model: a sequence classifier of transformers, made with `head`.
            own: the class names in the model's own configuration.
            missing: names of the parameters that the model's file does not have.
            replaced: names of those that it has in another shape; they are new, too.
            source: of the model, for messages.

        Returns:
            Whether it drew a layer anew that the model's file has.

        Raises:
            ValueError: the head can't be made to fit.
        """

    @abstractmethod
    def head_mismatch(self, own: Sequence[str], labels: Sequence[str]) -> str | None:
        """Why a head for these classes can't answer for those of the data, in words; None where it may."""

    def example_inputs(self, model: nn.Module, batch: int, tokens: int) -> dict[str, Tensor]:
        """Inputs to time a model with: of pairs, the second half of the tokens is the second text."""
        inputs = example_inputs(model, batch, tokens)
        if self.pair and "token_type_ids" in inputs:
            inputs["token_type_ids"][:, tokens // 2 :] = 1
        return inputs
