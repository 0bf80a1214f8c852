"""What ``kdnative bench quality`` quantizes, with the texts that calibrate and measure it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdnative.bench.quality_figures import Losses, classifier_losses, embedding_losses, pooled

Inputs = dict[str, Tensor]
Runs = Callable[..., Any]
"""Called with a model's inputs as keywords; returns what the model returns. Engines other than torch come as one."""

_BATCH = 32


class Subject(ABC):
    """A float model and how a quantized one is compared with it.

    Args:
        name: shown in tables.
        model: fp32, in evaluation mode; never changed.
        tokenizer: of transformers.
        texts: that measure: texts, or of a language model token ids.
        calibration: that calibrate, none of them among the former.
        max_tokens: longer texts are cut.
    """

    task: str
    deciding: str
    """The figure that methods are ranked by."""
    unit = "texts"

    def __init__(
        self,
        name: str,
        model: nn.Module,
        tokenizer: Any,
        texts: Sequence[Any],
        calibration: Sequence[Any],
        max_tokens: int = 128,
    ) -> None:
        if shared := set(texts) & set(calibration):
            raise ValueError(f"{len(shared)} texts calibrate and measure, such as {sorted(shared)[0]!r}")
        self.name, self.model, self.tokenizer, self.max_tokens = name, model.eval(), tokenizer, max_tokens
        self.texts, self._calibration = list(texts), list(calibration)

    def copy(self) -> nn.Module:
        """A model to change."""
        return copy.deepcopy(self.model)

    def schemes(self, scheme: str) -> Any:
        """What `convert_` is asked for where a case has this scheme."""
        return scheme

    def about(self) -> dict[str, Any]:
        """What the result says of the float model."""
        return {}

    def calibration(self, count: int, batch: int = _BATCH, whole: bool = False) -> list[Inputs]:
        """Batches of the first so many texts that calibrate.

        Args:
            count: texts.
            batch: texts in one of them.
            whole: one batch of all.

        Raises:
            ValueError: there are fewer.
        """
        if count > len(self._calibration):
            raise ValueError(f"{count} texts to calibrate with are asked for, and there are {len(self._calibration)}")
        texts = self._calibration[:count]
        size = count if whole else batch
        return [self._encoded(texts[i : i + size]) for i in range(0, count, size)]

    def answers(self, model: Runs) -> Tensor:
        """A model's answers to the texts that measure, float64 [N, ...] in the order of the texts."""
        found: list[tuple[list[int], Tensor]] = []
        with torch.inference_mode():
            for rows, inputs in self._batches:
                found.append((rows, self.answer(model(**inputs), inputs).double()))
        order = np.argsort([row for rows, _ in found for row in rows])
        return torch.cat([answer for _, answer in found])[torch.from_numpy(order)]

    @cached_property
    def exact(self) -> Tensor:
        """The float model's answers."""
        return self.answers(self.model)

    def losses(self, model: Runs) -> Losses:
        """What a quantized model loses, text by text.

        Raises:
            ValueError: it gives NaN or infinite numbers.
        """
        found = self.answers(model)
        if not bool(torch.isfinite(found).all()):
            raise ValueError("the model's answers hold NaN or infinite values")
        return self.compare(found)

    @abstractmethod
    def answer(self, output: Any, inputs: Inputs) -> Tensor:
        """A row for each text from what a model returns."""

    @abstractmethod
    def compare(self, found: Tensor) -> Losses:
        """What answers lose against the exact ones."""

    @cached_property
    def _batches(self) -> list[tuple[list[int], Inputs]]:
        """Texts of like length together, so that little is padding."""
        order = sorted(range(len(self.texts)), key=lambda i: (len(self.texts[i]), i))
        parts = [order[i : i + _BATCH] for i in range(0, len(order), _BATCH)]
        return [(rows, self._encoded([self.texts[i] for i in rows])) for rows in parts]

    def _encoded(self, texts: Sequence[Any]) -> Inputs:
        options = {"padding": True, "truncation": True, "max_length": self.max_tokens, "return_tensors": "pt"}
        return dict(self.tokenizer(list(texts), **options))


class Embedder(Subject):
    """Mean-pooled embeddings of sentences: cosine to those of the float model, and the same neighbours."""

    task, deciding = "embedder", "distance"

    def answer(self, output: Any, inputs: Inputs) -> Tensor:
        return pooled(output.last_hidden_state, inputs["attention_mask"])

    def compare(self, found: Tensor) -> Losses:
        return embedding_losses(self.exact, found)


class Classifier(Subject):
    """Classes of texts: divergence from the float model's answers, agreement, and accuracy.

    Args:
        labels: of the texts that measure.
    """

    task, deciding = "classifier", "kl"

    def __init__(self, name: str, model: nn.Module, tokenizer: Any, texts: Sequence[str], *args: Any, labels: Any):
        super().__init__(name, model, tokenizer, texts, *args)
        self.labels = torch.as_tensor(labels)
        if len(self.labels) != len(self.texts):
            raise ValueError(f"{len(self.texts)} texts, but {len(self.labels)} labels")

    def answer(self, output: Any, inputs: Inputs) -> Tensor:
        return output.logits

    def compare(self, found: Tensor) -> Losses:
        return classifier_losses(self.exact, found, self.labels)

    def about(self) -> dict[str, Any]:
        """Its ``accuracy``."""
        return {"accuracy": float(self.compare(self.exact)["accuracy"].mean())}


def load_embedder(source: str, texts: Sequence[str], calibration: Sequence[str]) -> Embedder:
    """An encoder of transformers with its tokenizer."""
    from kdnative.bench.encoder_models import load_encoder
    from kdnative.pipeline.models import load_tokenizer

    return Embedder(short_name(source), load_encoder(source), load_tokenizer(source), texts, calibration)


def load_classifier(
    folder: str, name: str, texts: Sequence[str], labels: Sequence[int], calibration: Sequence[str]
) -> Classifier:
    """A fine-tuned classifier of transformers, or a kdnative checkpoint of one.

    Raises:
        ValueError: the folder has no tokenizer.
    """
    from kdnative.pipeline.models import load_any

    model, tokenizer = load_any(folder)
    if tokenizer is None:
        raise ValueError(f"{folder} has no tokenizer: give the folder of a classifier that was saved with one")
    return Classifier(name, model, tokenizer, texts, calibration, labels=labels)


def short_name(source: str) -> str:
    """The last part of a model's name, as tables show it."""
    return source.rstrip("/").rpartition("/")[2].rpartition(":")[2]
