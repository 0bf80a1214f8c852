"""Which layer of the final student loses what, where that student may be trained for integer weights already.

:func:`kdnative.evaluate.sensitivity` rounds the weights that a model has. Those of a recovered student lie on the grid
of a scheme, within clipped ranges: rounding them a second time shows losses that neither scheme has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdnative.evaluate import predict
from kdnative.quantize import FakeQuantLinear, finish_qat_, quantize_weight
from kdnative.scheme import Scheme

if TYPE_CHECKING:
    from kdnative.data import TokenizedDataset


def layer_losses(
    model: nn.Module, data: TokenizedDataset, device: str, schemes: Sequence[str] = ("w8a8", "w4a8-g64")
) -> list[dict[str, Any]]:
    """Measures every linear layer in every scheme, one at a time and all at once, against the student as it is.

    A layer that was trained for a scheme keeps its weights and ranges in this one, and loses nothing; in any other, its
    float weights are rounded. Activations stay in floating point.

    Args:
        model: the student before conversion; afterwards a plain float model with its dequantized weights.
        data: labelled examples.

    Returns:
        Rows as ``kdnative.report.schema.SensitivityRow``, in the order of the model, per scheme; a scheme whose groups
        do not divide a layer's inputs is left out for that layer.
    """
    trained = {
        name: (layer.scheme, layer.weight.detach().clone())
        for name, layer in model.named_modules()
        if isinstance(layer, FakeQuantLinear)
    }
    finish_qat_(model)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}

    def measured() -> tuple[Tensor, float]:
        p = predict(model, data, device=device)
        return p.logits.double().log_softmax(-1), float((p.classes == p.labels).double().mean())

    original, accuracy = measured()
    rows = []
    for scheme in map(Scheme.parse, schemes):
        changes = [
            (name, layer, _rounded(scheme, *trained.get(name, (None, layer.weight))))
            for name, layer in layers.items()
            if scheme.group_size is None or layer.in_features % scheme.group_size == 0
        ]
        targets = [(name, [(layer, new)]) for name, layer, new in changes]
        if len(changes) > 1:
            targets.append(("(all)", [(layer, new) for _, layer, new in changes]))
        for name, change in targets:
            with _changed(change):
                log_q, now = measured()
            divergence = float((original.exp() * (original - log_q)).sum(-1).mean())
            row = {"layer": name, "scheme": str(scheme), "accuracy_drop": accuracy - now, "divergence": divergence}
            rows.append(row)
    return rows


def _rounded(scheme: Scheme, own: Scheme | None, weight: Tensor) -> Tensor | None:
    """A float weight as a scheme stores it; None for the scheme that the layer was trained for: it has that one."""
    if own is not None and _stored(own) == _stored(scheme):
        return None
    return quantize_weight(weight, scheme).dequantize()


def _stored(scheme: Scheme) -> Scheme:
    """The scheme without what does not change a weight's value."""
    return replace(scheme.dense, activation_bits=8)


@contextmanager
def _changed(change: list[tuple[nn.Linear, Tensor | None]]) -> Iterator[None]:
    """Other weights in place, where there are any; puts the exact ones back."""
    kept = [(layer.weight, layer.weight.detach().clone()) for layer, _ in change]
    try:
        with torch.no_grad():
            for layer, new in change:
                if new is not None:
                    layer.weight.copy_(new)
        yield
    finally:
        with torch.no_grad():
            for weight, exact in kept:
                weight.copy_(exact)
