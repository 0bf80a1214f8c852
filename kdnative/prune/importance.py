"""Scores of attention heads and feed-forward neurons: which matter least."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.nn.modes import evaluating
from kdnative.prune.graph import Attention, FeedForward, Graph, Outputs

__all__ = ["Scores", "call", "magnitude_scores", "taylor_scores"]

Scores = dict[str, Tensor]  # by name of the attention or feed-forward; fp64 [heads] or [neurons], on the CPU


def magnitude_scores(graph: Graph) -> Scores:
    """Squared L2 norm of all the weights of a head (q, k, v rows and out columns) or a neuron (its gate among them)."""
    scores: Scores = {}
    for attention in graph.attentions:
        per_unit = sum(map(_rows, attention.inputs)) + _columns(attention.out)
        scores[attention.name] = per_unit.view(attention.heads, -1).sum(1)
    for ffn in graph.all_feed_forwards:
        scores[key_of(ffn)] = sum(map(_rows, ffn.inputs)) + _columns(ffn.down)
    return scores


def taylor_scores(
    model: nn.Module, graph: Graph, batches: Iterable[Any], loss: Callable[[nn.Module, Any], Tensor] | None = None
) -> Scores:
    """First-order change of the loss when a head or neuron is removed, ``sum over batches of |sum of w * grad w|``.

    The inner sum runs over the columns of the following linear that read the head or neuron; it equals the gradient of
    the loss with respect to a gate on its output (Michel et al. 2019, equation 2; Molchanov et al. 2019).

    Args:
        batches: calibration batches; each counts the same, so equal and not too large batches serve best.
        loss: ``loss(model, batch)`` -> scalar. None: ``model(**batch).loss``, which a Hugging Face model gives for
            batches with labels.

    Raises:
        ValueError: no batches, a loss that is missing or not finite.
    """
    users: dict[str, tuple[nn.Linear, int]] = {a.name: (a.out, a.heads) for a in graph.attentions}
    users |= {key_of(ffn): (ffn.down, ffn.width) for ffn in graph.all_feed_forwards}
    weights = [linear.weight for linear, _ in users.values()]
    scores = {name: torch.zeros(units, dtype=torch.float64) for name, (_, units) in users.items()}
    count = 0
    with evaluating(model), _requiring_grad(weights), torch.enable_grad():
        for batch in batches:
            value = _loss(model, batch, loss)
            grads = torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True)
            for (name, (linear, units)), grad in zip(users.items(), grads, strict=True):
                change = (linear.weight.detach().double() * grad.double()).sum(0).view(units, -1).sum(1)
                scores[name] += change.abs().cpu()
            count += 1
    if not count:
        raise ValueError("calibration holds no batches; Taylor importance needs at least one")
    return scores


def key_of(ffn: FeedForward | Attention) -> str:
    """A name that is unique: several pairs of one nn.Sequential share their parent's."""
    return ffn.inputs[0].name if isinstance(ffn, FeedForward) else ffn.name


def call(model: nn.Module, inputs: Any) -> Any:
    """Runs a model on a mapping (keywords), a tuple or list (positions) or a single tensor."""
    if hasattr(inputs, "keys"):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


@contextmanager
def _requiring_grad(weights: list[nn.Parameter]):
    frozen = [weight for weight in weights if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


def _loss(model: nn.Module, batch: Any, loss: Callable[[nn.Module, Any], Tensor] | None) -> Tensor:
    value = call(model, batch).loss if loss is None and hasattr(batch, "keys") else loss and loss(model, batch)
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(
            "calibration gave no scalar loss: add labels to the batches, or pass loss=lambda model, batch: ..."
        )
    if not bool(torch.isfinite(value)):
        raise ValueError(f"the calibration loss is {float(value)}: check the batches and the model")
    return value


def _rows(outputs: Outputs) -> Tensor:
    return outputs.linear.weight.detach().double().square().sum(1).cpu().view(outputs.runs, -1).sum(0)


def _columns(linear: nn.Linear) -> Tensor:
    return linear.weight.detach().double().square().sum(0).cpu()
