"""Held-out examples of any model: texts, tokenized data, or batches of the model's inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdnative.data.batches import Batches, TokenizedDataset, tokenize
from kdnative.data.texts import from_texts
from kdnative.data.types import DataError
from kdnative.quantize.inputs import takes_dictionary

__all__ = ["Examples", "Inputs", "call"]

Inputs = Any
"""What a model takes: a dictionary of keyword arguments, a tuple of positional ones, or a tensor."""


def call(model: nn.Module, inputs: Inputs) -> Any:
    """The output of a model for such inputs, on its device. A SentenceTransformer takes a dictionary whole."""
    parameter = next(model.parameters(), None)
    if parameter is not None and parameter.device.type != "cpu":
        inputs = _each(inputs, lambda tensor: tensor.to(parameter.device))
    if isinstance(inputs, Mapping):
        if takes_dictionary(model):
            return model(dict(inputs))
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


class Examples:
    """N examples that can be run in any part.

    Args:
        parts: inputs of the model, and the numbers of the examples in them, for each batch as it was given; or a
            tokenized dataset, of which batches are made.
        labels: [N], or None.
    """

    def __init__(self, parts: list[tuple[Inputs, np.ndarray]] | TokenizedDataset, labels: np.ndarray | None) -> None:
        self._parts, self.labels = parts, labels
        counted = len(parts) if isinstance(parts, TokenizedDataset) else sum(len(rows) for _, rows in parts)
        self._count = counted

    def __len__(self) -> int:
        return self._count

    @classmethod
    def of(
        cls, data: Any, *, tokenizer: Any = None, labels: Any = None, max_length: int = 128, name: str = "data"
    ) -> Examples:
        """From what a user has.

        Args:
            data: a `TokenizedDataset` or `Batches` of :mod:`kdnative.data`; texts (with ``tokenizer``); or batches,
                each a dictionary, a tuple or a tensor, batch first, as the model takes them. A "labels" of a dictionary
                is taken out.
            tokenizer: of transformers, for texts.
            labels: [N], instead of those of the data. max_length: of texts, in tokens.
            name: of the argument, for errors.

        Raises:
            ValueError: no examples, texts without a tokenizer, or labels of another length. TypeError: something else.
        """
        if isinstance(data, Examples):
            return data
        if isinstance(data, Batches):
            data = data.data
        if isinstance(data, str) or (isinstance(data, Mapping | Tensor)):
            raise TypeError(f"{name}: a list of texts or of batches is needed, not one {type(data).__name__}")
        if not isinstance(data, TokenizedDataset):
            data = list(data) if isinstance(data, Iterable) else data
            if isinstance(data, list) and data and all(isinstance(text, str) for text in data):
                data = _tokenized(data, tokenizer, max_length, name)
        if isinstance(data, TokenizedDataset):
            made = cls(data, data.labels)
        elif isinstance(data, list):
            made = cls(*_taken_apart(data, name))
        else:
            raise TypeError(
                f"{name} is a {type(data).__name__}: give texts with a tokenizer, batches of the model's inputs, or a "
                "TokenizedDataset"
            )
        if not len(made):
            raise ValueError(f"{name} has no examples")
        if labels is not None:
            made.labels = np.asarray(torch.as_tensor(labels) if isinstance(labels, Tensor) else labels)
        if made.labels is not None and len(made.labels) != len(made):
            raise ValueError(f"{name} has {len(made)} examples, but {len(made.labels)} labels are given")
        return made

    @property
    def label_names(self) -> tuple[str, ...]:
        """Of the classes, where the data has them."""
        return self._parts.label_names if isinstance(self._parts, TokenizedDataset) else ()

    def part(self, rows: np.ndarray) -> Examples:
        """Some of the examples, numbered from 0."""
        batches = list(self.batches(rows))
        order = np.argsort(np.concatenate([numbers for _, numbers in batches]), kind="stable")
        places = np.empty(len(rows), np.int64)
        places[order] = np.arange(len(rows))
        parts, begin = [], 0
        for inputs, numbers in batches:
            parts.append((inputs, places[begin : begin + len(numbers)]))
            begin += len(numbers)
        return Examples(parts, None if self.labels is None else self.labels[np.sort(rows)])

    def batches(self, rows: np.ndarray, size: int = 32) -> Iterator[tuple[Inputs, np.ndarray]]:
        """The inputs of some examples, and which ones each batch holds; in an order that wastes little padding."""
        if isinstance(self._parts, TokenizedDataset):
            order = rows[np.argsort(-self._parts.lengths[rows], kind="stable")]
            for begin in range(0, len(order), size):
                chosen = order[begin : begin + size]
                yield self._parts.batch(chosen).inputs, chosen
            return
        wanted = np.zeros(len(self), bool)
        wanted[rows] = True
        for inputs, numbers in self._parts:
            inside = np.flatnonzero(wanted[numbers])
            if len(inside):
                yield _rows_of(inputs, len(numbers), inside), numbers[inside]


def _tokenized(texts: list[str], tokenizer: Any, max_length: int, name: str) -> TokenizedDataset:
    if tokenizer is None:
        raise ValueError(f"{name} holds texts: give the model's tokenizer as well, tokenizer=")
    try:
        return tokenize(from_texts(texts, name=name), tokenizer, max_length)
    except DataError as error:
        raise ValueError(str(error)) from error


def _taken_apart(batches: Sequence[Any], name: str) -> tuple[list[tuple[Inputs, np.ndarray]], np.ndarray | None]:
    parts: list[tuple[Inputs, np.ndarray]] = []
    labels: list[Tensor] = []
    count = 0
    for number, batch in enumerate(batches):
        inputs = batch
        if isinstance(batch, Mapping):
            inputs = {key: value for key, value in batch.items() if key != "labels"}
            if isinstance(batch.get("labels"), Tensor):
                labels.append(batch["labels"])
        elif not isinstance(batch, tuple | Tensor):
            raise TypeError(
                f"{name}[{number}] is a {type(batch).__name__}: a dictionary, a tuple or a tensor is needed"
            )
        tensors = [value for value in _tensors(inputs) if value.dim()]
        if not tensors:
            raise ValueError(f"{name}[{number}] holds no tensor with a batch dimension")
        size = len(tensors[0])
        parts.append((inputs, np.arange(count, count + size)))
        count += size
    complete = len(labels) == len(parts) and sum(map(len, labels)) == count and count > 0
    return parts, torch.cat(labels).cpu().numpy() if complete else None


def _tensors(inputs: Inputs) -> list[Tensor]:
    values = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, tuple) else (inputs,)
    return [value for value in values if isinstance(value, Tensor)]


def _rows_of(inputs: Inputs, size: int, rows: np.ndarray) -> Inputs:
    """Some examples of a batch: rows of every tensor that has one for each."""
    if len(rows) == size:
        return inputs
    index = torch.from_numpy(rows)

    def chosen(tensor: Tensor) -> Tensor:
        has_rows = tensor.dim() > 0 and len(tensor) == size
        return tensor.index_select(0, index.to(tensor.device)) if has_rows else tensor

    return _each(inputs, chosen)


def _each(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """The inputs with every tensor changed."""

    def of(value: Any) -> Any:
        return change(value) if isinstance(value, Tensor) else value

    if isinstance(inputs, Mapping):
        return {key: of(value) for key, value in inputs.items()}
    return tuple(map(of, inputs)) if isinstance(inputs, tuple) else of(inputs)
