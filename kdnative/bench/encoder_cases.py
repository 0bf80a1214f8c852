"""What the encoder suite runs: a batch of sequences, full or of different lengths, and a model with its engines."""

from __future__ import annotations

import argparse
import functools
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.bench.options import sizes
from kdnative.machine.latency import example_inputs

RAGGED = (32, 8, 128, 40)  # sequences, least and largest length, mean length


@dataclass(frozen=True)
class Shape:
    """Sizes of one case.

    Attributes:
        batch: sequences.
        tokens: columns, the length of the longest sequence.
        lengths: of each sequence where they differ, None where all have ``tokens``.
    """

    batch: int
    tokens: int
    lengths: tuple[int, ...] | None = None

    @property
    def label(self) -> str:
        return "ragged" if self.lengths else f"{self.batch}x{self.tokens}"


def ragged_lengths(batch: int, least: int, largest: int, mean: int, seed: int = 0) -> tuple[int, ...]:
    """Lengths of many short and few long sequences with exactly this mean; one is the least and one the largest.

    Raises:
        ValueError: no such lengths exist.
    """
    rest = batch * mean - least - largest
    if not (0 < least <= mean <= largest and batch >= 2 and (batch - 2) * least <= rest <= (batch - 2) * largest):
        raise ValueError(f"{batch} lengths from {least} to {largest} can't have the mean {mean}")
    # The power of evenly spread numbers in [0, 1] that has this mean; rounding is made up for one token at a time.
    power = (largest - least) / max(mean - least, 1e-9) - 1
    inner = [round(least + (largest - least) * ((i + 0.5) / (batch - 2)) ** power) for i in range(batch - 2)]
    index = 0
    while sum(inner) != rest:
        moved = inner[index % len(inner)] + (1 if sum(inner) < rest else -1)
        if least <= moved <= largest:
            inner[index % len(inner)] = moved
        index += 1
    lengths = [least, *inner, largest]
    random.Random(seed).shuffle(lengths)
    return tuple(lengths)


def shapes(text: str) -> list[Shape]:
    """``"1x16,16x128,ragged"`` as shapes."""
    found = []
    for part in text.split(","):
        if part == "ragged":
            batch, least, largest, mean = RAGGED
            found.append(Shape(batch, largest, ragged_lengths(batch, least, largest, mean)))
            continue
        try:
            found.append(Shape(*sizes(part)[0]))
        except argparse.ArgumentTypeError:
            problem = f"{part!r} is neither 'ragged' nor a pair of positive numbers such as 16x128"
            raise argparse.ArgumentTypeError(problem) from None
    return found


@dataclass
class Encoder:
    """A model and the engines' versions of it, built once for all cases.

    Attributes:
        model: fp32, in eval mode; candidates never change it.
        threads: of every engine.
        output: of the model: ``"last_hidden_state"``, or ``"logits"`` of a classifier.
        samples: inputs to find ranges of activations with; None draws token ids.
    """

    model: nn.Module
    threads: int = 1
    output: str = "last_hidden_state"
    samples: Sequence[dict[str, Tensor]] | None = None
    models: dict[str, Any] = field(default_factory=dict)
    engines: dict[str, Any] = field(default_factory=dict)

    def use_threads(self, threads: int) -> None:
        """From now on engines get this many threads; models and files that do not depend on it stay."""
        self.threads = threads
        self.engines.clear()

    def build(self, name: str, make: Callable[[], Any]) -> Any:
        """What ``make()`` returned the first time; a failure is remembered too, and raised again."""
        return _once(self.models, name, make)

    def engine(self, name: str, make: Callable[[], Any]) -> Any:
        """The same for what has threads of its own."""
        return _once(self.engines, name, make)

    def calibration(self) -> Sequence[dict[str, Tensor]]:
        """Inputs for engines that find ranges of activations beforehand."""
        return self.samples or [example_inputs(self.model, 1, 64, seed) for seed in range(8)]

    @functools.cached_property
    def folder(self) -> Path:
        """Where exported files go; removed with this object."""
        self._folder = tempfile.TemporaryDirectory(prefix="kdnative-bench-")
        return Path(self._folder.name)


def _once(store: dict[str, Any], name: str, make: Callable[[], Any]) -> Any:
    if name not in store:
        try:
            store[name] = make()
        except Exception as error:  # an engine may raise anything; the same candidate fails in the next case too
            store[name] = error
    if isinstance(store[name], Exception):
        raise store[name]
    return store[name]


@dataclass
class EncoderCase:
    """A model and what it is given: token ids, a mask with 0 for padding and, where the model takes them, type ids.

    Attributes:
        bucket: None gives the sequences as they are, in one batch that is padded to the longest of them. A number sorts
            them by length and gives batches of that many, each padded to its own longest: what sentence-transformers
            does with many sentences, and the fastest way for engines that compute padding.
        given: the inputs; None draws token ids.
    """

    encoder: Encoder
    shape: Shape
    bucket: int | None = None
    given: dict[str, Tensor] | None = None

    @functools.cached_property
    def inputs(self) -> dict[str, Tensor]:
        """All sequences in one batch."""
        if self.given is not None:
            return self.given
        inputs = example_inputs(self.encoder.model, self.shape.batch, self.shape.tokens)
        if self.shape.lengths:
            columns = torch.arange(self.shape.tokens)
            padding = columns >= torch.tensor(self.shape.lengths)[:, None]
            fill = getattr(self.encoder.model.config, "pad_token_id", None) or 0
            inputs["input_ids"] = inputs["input_ids"].masked_fill(padding, fill)
            inputs["attention_mask"] = (~padding).long()
        return inputs

    @functools.cached_property
    def _buckets(self) -> list[Tensor]:
        """The numbers of the sequences of each batch."""
        every = torch.arange(self.shape.batch)
        if self.bucket is None:
            return [every]
        return list(torch.argsort(self.inputs["attention_mask"].sum(1), stable=True).split(self.bucket))

    @functools.cached_property
    def batches(self) -> list[dict[str, Tensor]]:
        """What an engine is given in one run of the case, one batch after the other."""
        found = []
        for rows in self._buckets:
            longest = int(self.inputs["attention_mask"][rows].sum(1).max())
            tokens = self.shape.tokens if self.bucket is None else longest
            found.append({name: value[rows, :tokens].contiguous() for name, value in self.inputs.items()})
        return found

    @functools.cached_property
    def reference(self) -> Tensor:
        """What the float model gives, ``[tokens, H]``."""
        return self.result_of(self.encoder.model)

    def result_of(self, model: nn.Module) -> Tensor:
        """What a model gives, ``[tokens, H]``."""
        return self.of_tokens([getattr(model(**batch), self.encoder.output).float() for batch in self.batches])

    def of_tokens(self, hidden: Sequence[Tensor]) -> Tensor:
        """The rows of hidden states that belong to tokens, ``[tokens, H]``; what engines write for padding differs.

        Args:
            hidden: of each batch, ``[B, T, H]``; or logits ``[B, C]``, which come back as ``[batch, C]``.
        """
        if self.encoder.output == "logits":
            return torch.cat(list(hidden))[torch.argsort(torch.cat(self._buckets))]
        mask = self.inputs["attention_mask"].bool()
        whole = torch.zeros(*mask.shape, hidden[0].shape[-1])
        for rows, batch, found in zip(self._buckets, self.batches, hidden, strict=True):
            if found.shape[:2] != batch["input_ids"].shape:
                return found  # of another shape than the reference: it is reported as wrong
            whole[rows, : found.shape[1]] = found
        return whole[mask]
