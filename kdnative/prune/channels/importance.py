"""What is lost with each channel: scores of units, summed over all layers that give or read them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdnative.cnn import Norm
from kdnative.nn.modes import evaluating
from kdnative.prune.channels.layers import Layers, channels_of

__all__ = ["IMPORTANCE", "Loss", "scores_of"]

IMPORTANCE = ("taylor", "l2", "bn", "random")
"""How channels may be ranked."""

Loss = Callable[[nn.Module, Any], Tensor]


def scores_of(
    model: nn.Module,
    layers: Layers,
    importance: str,
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
) -> Tensor:
    """The score of every unit, by its number; float64, at least 0.

    Args:
        importance: of `IMPORTANCE`.
            "taylor": ``sum over batches of |sum of w * grad w|`` over the weights that read the channel, which is the
            derivative of the loss by a gate on it (Molchanov et al. 2019, "Importance Estimation for Neural Network
            Pruning").
            "l2": squared norm of the folded weights that give and that read the channel, each layer's relative to its
            mean (Fang et al. 2023, "DepGraph").
            "bn": the size of the factors of batch normalization, relative to the layer's mean (Liu et al. 2017,
            "Learning Efficient Convolutional Networks through Network Slimming").
            "random": from ``seed``.
        batches: for "taylor": pairs (images, labels), or whatever ``loss`` takes.
        loss: ``loss(model, batch)`` -> scalar; None: cross entropy of the model's result.

    Raises:
        ValueError: no batches, or a loss that is no finite number.
    """
    found = torch.zeros(len(layers.parents), dtype=torch.float64)
    if importance == "random":
        return torch.rand(len(found), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if importance == "taylor":
        return _taylor(model, layers, found, batches, loss)
    for layer in layers.layers:
        if importance == "bn":
            for part in layer.source.behind:
                if isinstance(part, Norm) and part.weight is not None:
                    _add(layers, found, layer.outputs, part.weight.detach().double().abs().cpu())
            continue
        weight = layer.source.fold(torch.float64)[0].detach().square().cpu()
        _add(layers, found, layer.outputs, weight.sum((1, 2, 3)))
        if layer.dense:
            _add(layers, found, layer.inputs, weight.sum((0, 2, 3)))
    return found


def _add(layers: Layers, found: Tensor, channels: list[int], values: Tensor) -> None:
    """Adds a layer's values, one for each of its channels, relative to their mean."""
    mean = values.mean()
    found.index_add_(0, channels_of(layers, channels), values / mean if mean > 0 else values)


def _taylor(
    model: nn.Module, layers: Layers, found: Tensor, batches: Iterable[Any] | None, loss: Loss | None
) -> Tensor:
    # Depthwise and grouped convolutions hand on what they read, so only the layers behind them count.
    reading = [layer for layer in layers.layers if layer.dense]
    weights = [layer.source.weight for layer in reading]
    numbers = [channels_of(layers, layer.inputs) for layer in reading]
    frozen = [weight for weight in weights if not weight.requires_grad]
    count = 0
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        with evaluating(model), torch.enable_grad():
            for batch in batches or ():
                gradients = torch.autograd.grad(
                    _loss(model, batch, loss), weights, allow_unused=True, materialize_grads=True
                )
                change = torch.zeros_like(found)
                for layer, weight, gradient, number in zip(reading, weights, gradients, numbers, strict=True):
                    product = (weight.detach().double() * gradient.double()).reshape(layer.source.shape)
                    change.index_add_(0, number, product.sum((0, 2, 3)).cpu())
                found += change.abs()
                count += 1
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
    if not count:
        raise ValueError("batches holds no batches; Taylor importance needs at least one")
    return found / count


def _loss(model: nn.Module, batch: Any, loss: Loss | None) -> Tensor:
    if loss is not None:
        value = loss(model, batch)
    elif isinstance(batch, (tuple, list)) and len(batch) == 2:
        value = F.cross_entropy(model(batch[0]), batch[1])
    else:
        raise ValueError(
            f"batches must be pairs (images, labels), got {type(batch).__name__}: for other batches, pass "
            "loss=lambda model, batch: ..."
        )
    if not isinstance(value, Tensor) or value.numel() != 1 or not bool(torch.isfinite(value)):
        raise ValueError(f"the loss of a batch must be one finite number, got {value}: check batches and loss")
    return value
