"""What the model loses when one linear layer alone is changed, measured at the model's output.

A layer's own relative error ranks nothing: what counts is what the rest of the model makes of it. Losses of single
layers add up well enough for :func:`kdnative.precision.assign` to choose schemes by their sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdnative.evaluate.predict import Predictions, select_device
from kdnative.formats.scheme import Scheme
from kdnative.formats.weight import QuantizedWeight
from kdnative.ops.backends import accepted
from kdnative.precision.changing import Changer, Trained, change_of, changed, linears, masking, rounding, untrained
from kdnative.precision.examples import Examples, call
from kdnative.precision.metrics import Answers, Metric, answers, drops, metric_named, smooth
from kdnative.precision.units import joint, title
from kdnative.quantize.linears import LinearSite

__all__ = ["ALL", "Sensitivity", "sensitivity"]

ALL = "(all)"


@dataclass(frozen=True)
class Sensitivity:
    """One layer, or some that read one input, under one change.

    Attributes:
        names: the modules that were changed. layer: their common name for tables; "(all)" for every chosen layer.
        change: a scheme, such as "w4a8-g64", or "sparsity 0.50".
        weights: number of weights changed. bytes: that they take in this scheme (of sparsity: in float).
        loss: how far the outputs moved, mean over the examples, in the unit of the metric.
        score, score_change: what ``score`` says of the changed model, and the difference; None without it.
        ms: median latency of the native layer, where :func:`kdnative.precision.measure_latency` found it.
    """

    names: tuple[str, ...]
    layer: str
    change: str
    weights: int
    bytes: int
    loss: float
    score: float | None = None
    score_change: float | None = None
    ms: float | None = None


def sensitivity(
    model: nn.Module,
    data: Any,
    schemes: Sequence[str | Scheme] = ("w8a8", "w4a8-g64"),
    *,
    weights: Mapping[str, Mapping[str, QuantizedWeight]] | None = None,
    sparsities: Sequence[float] = (),
    layers: str | Sequence[str] = "*",
    groups: Sequence[Sequence[str]] | None = None,
    include_all: bool = False,
    metric: str | Metric = "auto",
    score: Callable[[Predictions], float] | None = None,
    tokenizer: Any = None,
    labels: Any = None,
    read: Callable[[Any, Any], Tensor] | None = None,
    batch_size: int = 64,
    device: str | torch.device = "auto",
) -> list[Sensitivity]:
    """Measures the linear layers of a model under every scheme and sparsity, one at a time.

    A layer gets the dequantized weight, and, for schemes with 8-bit activations, its inputs are rounded to int8 per
    token; everything else stays in floating point. Layers that read the very same tensor (queries, keys and values)
    move together, as they do in a fused operator. The model is the same, bit for bit, and where it was, afterwards.

    A layer that was trained for a scheme (`FakeQuantLinear`) is compared in that scheme: there it keeps its weights and
    ranges and loses what rounding its inputs costs, and in any other its float weights are rounded.

    Args:
        model: of floats.
        data: held-out examples: texts with ``tokenizer``, batches of the model's inputs, or a tokenized dataset. One or
            two hundred rank the layers well.
        schemes, sparsities: the changes; a sparsity is the share of weights set to 0, smallest first, within (0, 1).
        weights: integer weights by scheme and name, such as ``{"w4a8-g64": kd.quantize.calibrate_(...)}``; those of
            other layers are rounded to the nearest.
        layers: patterns of module names.
        groups: names that move together; None: found by a forward.
        include_all: also change all chosen layers at once, per change.
        metric: "kl", "cosine", "mse", "agreement" or "accuracy"; "auto": KL of classifiers and language models, 1 -
            cosine of embeddings, the mean square of other values.
        score: of predictions (of classifiers and regressions), higher is better.
        labels: [N], where the data has none of its own.
        read: what to take of the model's output, ``(output, inputs) -> [B, ...]``.
        batch_size, device: of the forwards.

    Returns:
        Rows in the order of the model, per change; a scheme whose groups do not divide a layer's inputs is left out
        for that layer.

    Raises:
        ValueError: no linear layer matches, a sparsity outside of (0, 1), data that can't be used, or a float model
            that gives NaN.
    """
    examples = Examples.of(data, tokenizer=tokenizer, labels=labels)
    changers = {str(s): rounding(s, (weights or {}).get(str(s), {})) for s in map(accepted, schemes)}
    changers |= {f"sparsity {share:.2f}": masking(share) for share in sparsities}
    model, trained = untrained(model)
    found = linears(model, [layers] if isinstance(layers, str) else list(layers))
    with _on(model, select_device(device)):
        return _measured(
            model, trained, found, examples, changers, groups, include_all, metric, score, read, batch_size
        )


def _measured(
    model: nn.Module,
    trained: Trained,
    found: Mapping[str, LinearSite],
    examples: Examples,
    changers: Mapping[str, Changer],
    groups: Sequence[Sequence[str]] | None,
    include_all: bool,
    metric: str | Metric,
    score: Callable[[Predictions], float] | None,
    read: Callable[[Any, Any], Tensor] | None,
    batch_size: int,
) -> list[Sensitivity]:
    """The rows of `sensitivity`, of a model where it is to run."""
    rows = np.arange(len(examples))
    if groups is None:
        first, _ = next(examples.batches(rows, batch_size))
        groups = joint(model, found, lambda: call(model, first))

    def measured() -> Answers:
        return answers(model, examples, rows, read=read, batch_size=batch_size)

    original = measured()
    if not original.finite:
        raise ValueError("the model gives NaN or infinite values on this data: no loss can be measured")
    chosen = smooth(original.kind) if metric == "auto" else metric
    if isinstance(chosen, str):
        chosen = metric_named(chosen, original.kind)
    if chosen.labelled and examples.labels is None:
        raise ValueError(f"metric={chosen.name!r} needs labels: give labels=, or labelled data")
    scored = partial(_scored, score, examples.labels)
    before, made = scored(original), []
    for change, changer in changers.items():
        targets = [(tuple(group), title(group)) for group in groups]
        if include_all and len(groups) > 1:
            targets.append((tuple(found), ALL))
        for names, layer in targets:
            changes = {n: c for n in names if (c := change_of(changer, change, n, found[n], trained)) is not None}
            if not changes or (len(changes) < len(names) and layer != ALL):
                continue
            with changed(found, changes):
                now = measured()
            loss = float(drops(chosen, original, now, examples.labels).mean()) if now.finite else float("inf")
            after = scored(now)
            sizes = sum(c.weight.numel() for c in changes.values()), sum(c.bytes for c in changes.values())
            moved = None if after is None or before is None else after - before
            made.append(Sensitivity(names, layer, change, *sizes, loss, after, moved))
    return made


@contextmanager
def _on(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model on a device for a while."""
    home = next(model.parameters()).device
    model.to(device)
    try:
        yield
    finally:
        model.to(home)


def _scored(score: Callable[[Predictions], float] | None, labels: np.ndarray | None, found: Answers) -> float | None:
    if score is None or labels is None or found.kind not in ("classes", "values"):
        return None
    return score(Predictions(found.joined(), torch.from_numpy(labels)))
