"""How far a changed model is from the original, example by example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdnative.evaluate.metrics import divergences
from kdnative.evaluate.predict import logits_of
from kdnative.nn.modes import evaluating
from kdnative.precision.examples import Examples, Inputs, call

__all__ = ["METRICS", "Answers", "Metric", "answers", "metric_named", "score_drops", "smooth"]

Read = Callable[[Any, Inputs], Tensor]
"""A model's output and its inputs to a tensor [B, ...], a row for each example."""
Score = Callable[[Tensor, "Tensor | None"], "float | Tensor"]
"""Outputs [N, ...] and labels [N] to a score, or to a score for each example [N]; higher is better."""


@dataclass(frozen=True)
class Answers:
    """What a model says of some examples.

    Attributes:
        kind: "classes" (logits [B, C]), "tokens" (logits [B, T, V] of a language model), "embeddings" [B, H], "values"
            (predictions [B, ...]) or "own" (what the user's function reads).
        outputs: fp32, for each batch; of tokens those that are no padding, [tokens, V], or their classes, int64
            [tokens].
        owners: of a token, which example of its batch it belongs to; None for other kinds.
        rows: numbers of the examples of each batch.
        finite: no output was NaN or infinite.
    """

    kind: str
    outputs: list[Tensor]
    owners: list[Tensor] | None
    rows: list[np.ndarray]
    finite: bool = True

    @property
    def classes(self) -> int:
        """How many there are, in logits."""
        return self.outputs[0].shape[-1]

    def joined(self) -> Tensor:
        """[N, ...] in the order of the examples' numbers."""
        if self.owners is not None:
            raise ValueError("a function that scores whole outputs needs one row per example, not tokens")
        return torch.cat(self.outputs)[torch.from_numpy(np.argsort(np.concatenate(self.rows), kind="stable"))]


@dataclass(frozen=True)
class Metric:
    """A drop for each example, from two models' outputs.

    Attributes:
        kinds: of answers that it is made for. words: what its mean is, for reports.
        drops: original and changed outputs [B, ...] and labels to fp64 [B]; higher is worse.
        labelled: it needs labels. most: the largest drop that there can be; None: no end.
        counts: what drops of whole examples are, for `kdnative.precision.bounds.upper_bound`.
    """

    name: str
    kinds: tuple[str, ...]
    words: str
    drops: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    labelled: bool = False
    most: float | None = 1.0
    counts: str = "mean"


def _changed_class(original: Tensor, changed: Tensor, labels: Tensor | None) -> Tensor:
    before, after = (each.argmax(-1) if each.is_floating_point() else each for each in (original, changed))
    return (before != after).double()


def _lost(original: Tensor, changed: Tensor, labels: Tensor | None) -> Tensor:
    assert labels is not None
    return (original.argmax(-1) == labels).double() - (changed.argmax(-1) == labels).double()


def _divergence(original: Tensor, changed: Tensor, labels: Tensor | None) -> Tensor:
    return divergences(original, changed)


def _distance(original: Tensor, changed: Tensor, labels: Tensor | None) -> Tensor:
    return 1 - nn.functional.cosine_similarity(original.double().flatten(1), changed.double().flatten(1))


def _square(original: Tensor, changed: Tensor, labels: Tensor | None) -> Tensor:
    return (original.double() - changed.double()).square().flatten(1).mean(1)


MOST_BYTES = 4_000_000_000
"""Of one model's logits of tokens."""

_CHOICES = ("classes", "tokens", "own")
METRICS = {
    metric.name: metric
    for metric in (
        Metric("agreement", _CHOICES, "share of answers that changed", _changed_class, counts="share"),
        Metric("accuracy", ("classes", "own"), "accuracy lost", _lost, labelled=True, counts="difference"),
        Metric("kl", _CHOICES, "mean KL(original || changed), nats", _divergence, most=None),
        Metric("cosine", ("embeddings", "values", "own"), "mean of 1 - cosine", _distance, most=2.0),
        Metric("mse", ("embeddings", "values", "own"), "mean squared difference", _square, most=None),
    )
}


def metric_named(name: str, kind: str | None = None) -> Metric:
    """The metric of a name.

    Raises:
        ValueError: there is none, or it is not for answers of this kind.
    """
    found = METRICS.get(name)
    if found is None:
        raise ValueError(f"metric={name!r}: allowed are {', '.join(map(repr, METRICS))}, or your own function")
    if kind is not None and kind not in found.kinds:
        fitting = [each.name for each in METRICS.values() if kind in each.kinds]
        raise ValueError(f"metric={name!r} does not fit a model that gives {kind}: use {' or '.join(fitting)}")
    return found


def smooth(kind: str) -> Metric:
    """The loss that ranks layers by few examples: every example counts, not only those whose class changes."""
    return METRICS[{"classes": "kl", "tokens": "kl", "embeddings": "cosine"}.get(kind, "mse")]


def answers(
    model: nn.Module,
    examples: Examples,
    rows: np.ndarray,
    *,
    read: Read | None = None,
    batch_size: int = 32,
    classes: bool = False,
) -> Answers:
    """Runs a model over some examples.

    Args:
        model: put into eval mode meanwhile.
        rows: numbers of the examples. read: what to take of the output; None: logits, the embedding of a sentence, or
            the mean of the last hidden state over the tokens that are no padding.
        classes: keep of tokens the class alone, which agreement compares.

    Raises:
        ValueError: outputs that are not one row an example, or logits of tokens that take more than 4 GB.
    """
    found: list[tuple[str, Tensor, Tensor | None]] = []
    numbers: list[np.ndarray] = []
    finite, held = True, 0
    with evaluating(model):
        for inputs, part in examples.batches(rows, batch_size):
            output = call(model, inputs)
            kind, values, owners = _read(output, inputs) if read is None else ("own", read(output, inputs), None)
            if owners is None and len(values) != len(part):
                raise ValueError(
                    f"the model gave {list(values.shape)} for {len(part)} examples: one row each is needed"
                )
            values = values.detach().float().cpu()
            finite = finite and bool(torch.isfinite(values).all())
            if owners is not None:
                values = values.argmax(-1) if classes else values
                held += values.nbytes
                _check_size(held, len(rows))
            found.append((kind, values, owners))
            numbers.append(part)
    owned = [owners.cpu() for _, _, owners in found if owners is not None]
    return Answers(found[0][0], [values for _, values, _ in found], owned or None, numbers, finite)


def _check_size(held: int, examples: int) -> None:
    """Two models' logits of all tokens are held at once."""
    if held > MOST_BYTES:
        raise ValueError(
            f"the logits of all tokens of {examples} examples take more than {MOST_BYTES / 1e9:.0f} GB: give fewer or "
            "shorter examples, or metric='agreement', which holds the class of each token alone"
        )


def _read(output: Any, inputs: Inputs) -> tuple[str, Tensor, Tensor | None]:
    """The kind of an output, its values, and of tokens their owners."""
    embedding = output.get("sentence_embedding") if isinstance(output, dict) else None
    if isinstance(embedding, Tensor):
        return "embeddings", embedding, None
    mask = inputs.get("attention_mask") if isinstance(inputs, dict) else None
    hidden = getattr(output, "last_hidden_state", None)
    if isinstance(hidden, Tensor) and not isinstance(getattr(output, "logits", None), Tensor):
        weights = torch.ones(hidden.shape[:2]) if mask is None else mask
        weights = weights.to(hidden)[..., None]
        return "embeddings", (hidden * weights).sum(1) / weights.sum(1).clamp(min=1), None
    logits = logits_of(output)
    if logits.dim() == 3:
        kept = torch.ones(logits.shape[:2], dtype=torch.bool) if mask is None else mask.bool()
        return "tokens", logits[kept.to(logits.device)], kept.nonzero()[:, 0]
    if logits.dim() == 2 and logits.shape[1] > 1:
        return "classes", logits, None
    return "values", logits if logits.dim() > 1 else logits[:, None], None


def drops(metric: Metric, original: Answers, changed: Answers, labels: np.ndarray | None) -> np.ndarray:
    """The drop of every example, fp64 [N], in the order of the examples' numbers."""
    found = []
    for number, rows in enumerate(original.rows):
        known = None if labels is None else torch.from_numpy(labels[rows])
        values = metric.drops(original.outputs[number], changed.outputs[number], known)
        if original.owners is not None:
            owners = original.owners[number]
            total = torch.zeros(len(rows), dtype=torch.float64).index_add_(0, owners, values)
            values = total / torch.bincount(owners, minlength=len(rows)).clamp(min=1)
        found.append(values)
    return torch.cat(found).numpy()[np.argsort(np.concatenate(original.rows), kind="stable")]


def score_drops(
    score: Score, original: Answers, changed: Answers, labels: Tensor | None
) -> tuple[np.ndarray, float] | None:
    """The drop of every example by a function of the user's, and the largest drop between any two scores it gave.

    None where it gives one score for all examples.

    Raises:
        ValueError: it gives neither one score nor one for each example.
    """
    before, after = (torch.as_tensor(score(found.joined(), labels)).double().cpu() for found in (original, changed))
    n = sum(map(len, original.rows))
    if {before.dim(), after.dim()} == {0}:
        return None
    if before.shape != (n,) or after.shape != (n,):
        raise ValueError(
            f"the function of metric= gave {list(before.shape)} and {list(after.shape)} for {n} examples: one score, "
            "or one for each example [N], is needed"
        )
    span = torch.cat([before, after]).max() - torch.cat([before, after]).min()
    return (before - after).numpy(), float(span)
