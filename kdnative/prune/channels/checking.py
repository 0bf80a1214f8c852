"""Whether a model with fewer channels still runs, forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from kdnative.nn.modes import evaluating

__all__ = ["Ran", "try_out"]

Shapes = list[tuple[int, ...]]


class Ran:
    """What a model gave for an example.

    Args:
        shapes: of the tensors that it returned in evaluation mode.
        training: whether it runs in training mode, too.
    """

    def __init__(self, shapes: Shapes, training: bool) -> None:
        self.shapes, self.training = shapes, training


def try_out(model: nn.Module, example: Tensor, before: Ran | None = None) -> Ran:
    """Runs a model forward and backward, in evaluation mode and then in training mode. It is left as it was.

    Args:
        example: images [N, C, H, W].
        before: what it gave before it was changed, and has to give again.

    Raises:
        ValueError: it fails, gives other shapes, or NaN.
    """
    when = "" if before is None else " with fewer channels"
    try:
        with evaluating(model), torch.enable_grad():
            tensors = _forward_and_backward(model, example)
    except Exception as error:  # whatever a user's code raises
        hint = "" if before is None else ". Name the modules whose channel counts are hard-coded in keep="
        raise ValueError(f"{type(model).__name__} can't run on the example{when}: {error}{hint}") from error
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise ValueError(f"the output of {type(model).__name__} for the example holds NaN or infinite values{when}")
    if before is not None and shapes != before.shapes:
        raise ValueError(f"the output of {type(model).__name__} has shapes {shapes}{when}, and had {before.shapes}")
    training = True
    try:
        with _training_for_a_moment(model), torch.enable_grad():
            # The statistics of a batch need two images at least.
            _forward_and_backward(model, example if len(example) > 1 else torch.cat([example, example]))
    except Exception as error:
        if before is not None and before.training:
            raise ValueError(
                f"{type(model).__name__} can't run in training mode{when}: {error}. Parts that run only in "
                "training (auxiliary classifiers) can't be followed: name the modules that feed them in "
                "keep=, or remove these parts"
            ) from error
        training = False
    return Ran(shapes, training)


def _forward_and_backward(model: nn.Module, images: Tensor) -> list[Tensor]:
    """The tensors that the model returned."""
    tensors = _tensors(model(images))
    if not tensors:
        raise ValueError("it returns no tensor")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total = sum((tensor.double().mean() for tensor in tensors), torch.zeros((), dtype=torch.float64))
    if parameters and total.requires_grad:
        torch.autograd.grad(total, parameters, allow_unused=True)
    return tensors


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor) and leaf.is_floating_point()]


@contextmanager
def _training_for_a_moment(model: nn.Module) -> Iterator[None]:
    """Training mode; modes, statistics and torch's random numbers come back."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices=[]):
            model.train()
            yield
    finally:
        with torch.no_grad():
            for buffer, old in buffers:
                buffer.copy_(old)
        for module, mode in modes:
            module.training = mode
