"""Which layer loses what: one linear layer at a time gets coarser weights, and the model is measured again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from kdnative.data.batches import Batches, TokenizedDataset
from kdnative.evaluate.predict import Predictions, predict
from kdnative.formats.scheme import ActivationFormat, Scheme

__all__ = ["Sensitivity", "accuracy", "mean_divergence", "sensitivity"]

Trained = tuple[Scheme, Tensor] | None
"""The scheme that a layer was trained for, and its float weight; None for a layer of float weights only."""
Coarser = Callable[[Tensor, Trained], Tensor | None]
"""A layer's weight, and what it was trained for, to the changed weight; None where the change does not apply."""


@dataclass(frozen=True)
class Sensitivity:
    """One layer under one change.

    Attributes:
        layer: module name, or "(all)" for every chosen layer at once. change: a scheme, such as "w4a8-g64", or
            "sparsity 0.50". weights: number of weights changed.
        divergence: how far the outputs moved; it shows harm long before the score does. Of classifiers the mean
            ``KL(original || changed)`` of the predicted distributions in nats.
        score, score_change: accuracy, or what else was asked for; None without labels.
    """

    layer: str
    change: str
    weights: int
    divergence: float
    score: float | None
    score_change: float | None


def accuracy(predictions: Predictions) -> float:
    """Share of the examples whose class is right."""
    return float((predictions.classes == predictions.labels).double().mean())


def mean_divergence(original: Tensor, changed: Tensor) -> float:
    """Mean ``KL(original || changed)`` of two classifiers' distributions, from logits [N, C], in nats."""
    log_p, log_q = original.double().log_softmax(-1), changed.double().log_softmax(-1)
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


def sensitivity(
    model: nn.Module,
    data: TokenizedDataset | Batches,
    schemes: Sequence[str | Scheme] = ("w8a8", "w4a8-g64"),
    *,
    sparsities: Sequence[float] = (),
    layers: str | Sequence[str] = "*",
    include_all: bool = True,
    batch_size: int = 64,
    device: str | torch.device = "auto",
    score: Callable[[Predictions], float] = accuracy,
    divergence: Callable[[Tensor, Tensor], float] = mean_divergence,
) -> list[Sensitivity]:
    """Measures every linear layer under every scheme and sparsity, one at a time.

    Weights are rounded to the nearest codes and back (`quantize_weight`; activations stay in floating point), or the
    smallest magnitudes of the layer are set to 0. The model's weights are the same, bit for bit, afterwards.

    A layer that was trained for a scheme (`FakeQuantLinear`) is compared in that scheme: there it keeps its weights and
    ranges and loses nothing, and in any other its float weights are rounded. Its integer weights lie on a grid within
    clipped ranges; rounding them a second time would show losses that neither scheme has.

    Args:
        model: a classifier, or what `score` and `divergence` understand.
        data: a validation set; a few hundred examples rank the layers well.
        schemes, sparsities: the changes; a sparsity is the share of weights set to 0, within (0, 1).
        layers: shell patterns of module names.
        include_all: also change all chosen layers at once, per change.
        score: of labelled predictions; higher is better.
        divergence: of two models' logits [N, C], the exact model's first.

    Returns:
        Rows in the order of the model, per change; a scheme whose groups do not divide a layer's inputs is left out
        for that layer.

    Raises:
        ValueError: no linear layer matches, or a sparsity outside of (0, 1).
    """
    from kdnative.quantize import FakeQuantLinear, finish_qat_

    trained = {
        name: (module.scheme, module.weight.detach())
        for name, module in model.named_modules()
        if isinstance(module, FakeQuantLinear)
    }
    if trained:
        model = copy.deepcopy(model)
        finish_qat_(model)
    patterns = [layers] if isinstance(layers, str) else list(layers)
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and any(fnmatchcase(name, p) for p in patterns)
    }
    if not found:
        raise ValueError(f"layers={patterns}: no linear layer of this model matches")
    from kdnative.ops.backends import accepted  # loads the native library

    changes = {str(accepted(s)): _rounding(accepted(s)) for s in schemes}
    changes |= {f"sparsity {share:.2f}": _masking(share) for share in sparsities}

    def measured() -> tuple[Tensor, float | None]:
        p = predict(model, data, batch_size=batch_size, device=device)
        return p.logits, None if p.labels is None else score(p)

    original, before = measured()
    rows = []
    for change, coarser in changes.items():
        every = [(module, trained.get(name)) for name, module in found.items()]
        targets = [(name, [layer]) for name, layer in zip(found, every, strict=True)]
        targets += [("(all)", every)] if include_all and len(found) > 1 else []
        for name, chosen in targets:
            with _changed(chosen, coarser) as weights:
                if not weights:
                    continue
                logits, now = measured()
            change_of_score = None if before is None else now - before
            rows.append(Sensitivity(name, change, weights, divergence(original, logits), now, change_of_score))
    return rows


@contextmanager
def _changed(layers: list[tuple[nn.Linear, Trained]], coarser: Coarser) -> Iterator[int]:
    """Coarser weights in place; yields how many were changed and puts the exact ones back."""
    kept = [(module.weight, module.weight.detach().clone(), trained) for module, trained in layers]
    changed = 0
    try:
        for weight, original, trained in kept:
            new = coarser(original, trained)
            if new is not None:
                weight.data.copy_(new)
                changed += weight.numel()
        yield changed
    finally:
        for weight, original, _ in kept:
            weight.data.copy_(original)


def _stored(scheme: Scheme) -> Scheme:
    """The scheme without what does not change a weight's value."""
    return replace(scheme.dense, activation=ActivationFormat())


def _rounding(scheme: Scheme) -> Coarser:
    from kdnative.quantize import quantize_weight

    def coarser(weight: Tensor, trained: Trained) -> Tensor | None:
        if scheme.group_size is not None and weight.shape[1] % scheme.group_size:
            return None
        if trained is not None:
            own, floats = trained
            if _stored(own) == _stored(scheme):
                return weight
            weight = floats
        return quantize_weight(weight, scheme).dequantize().to(weight.dtype)

    return coarser


def _masking(share: float) -> Coarser:
    if not 0 < share < 1:
        raise ValueError(f"sparsity {share}: within 0 and 1, both excluded")

    def coarser(weight: Tensor, trained: Trained) -> Tensor:
        smallest = weight.abs().flatten().topk(round(share * weight.numel()), largest=False).indices
        return weight.flatten().index_fill(0, smallest, 0.0).view_as(weight)

    return coarser
