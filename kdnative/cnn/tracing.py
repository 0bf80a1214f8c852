"""From a float model to its graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdnative.cnn import read_layers, read_moves, read_values  # noqa: F401  (they register their readers)
from kdnative.cnn.building import Builder
from kdnative.cnn.floats import FloatGraph
from kdnative.cnn.fusing import fuse
from kdnative.cnn.reading import READERS
from kdnative.cnn.recording import Recording, Value, record
from kdnative.cnn.sizes import of_any_size
from kdnative.models.layer import Unsupported

__all__ = ["graph_of", "image_size", "trace", "trace_recorded"]


def trace(model: nn.Module, example: Tensor | Sequence[int]) -> FloatGraph:
    """The network of convolutions that ``model`` computes in evaluation mode.

    Nothing is computed, so tensors on the meta device will do. The graph refers to the model's own tensors.

    Args:
        model: takes one tensor [N, C, H, W], and returns a tensor or several.
        example: images, or their size [N, C, H, W]. Only the size matters, and of N only that it isn't 0.

    Raises:
        Unsupported: the model is no network of convolutions; which module and line of code, and why.
        ValueError: the size isn't that of images.
    """
    return trace_recorded(model, record(model, image_size(example)))


def trace_recorded(model: nn.Module, recording: Recording) -> FloatGraph:
    """`trace`, of a model that was recorded already."""
    graph = graph_of(recording)
    n, c, h, w = recording.shape
    # Some models are made for multiples of 32 alone; others for one size.
    failures = []
    for more_h, more_w in ((37, 53), (64, 128)):
        try:
            other = graph_of(record(model, (n, c, h + more_h, w + more_w)))
        except Unsupported as error:
            failures.append(str(error))
        else:
            return of_any_size(graph, other)
    return graph.only_here(failures[-1])


def graph_of(recording: Recording) -> FloatGraph:
    """The nodes that recorded steps amount to.

    Raises:
        Unsupported: they are more than a network of convolutions.
    """
    if recording.failure is not None:
        raise recording.failure
    builder = Builder(recording.shape)
    with torch.no_grad():
        for step in recording.steps:
            reader = READERS.get(step.function)
            if reader is None:
                raise step.refuse(f"{step.function} is not supported in native convolutional networks")
            reader(builder, step)
    outputs, flat = _outputs(builder, recording.result)
    return fuse(builder, outputs, flat)


def image_size(example: Tensor | Sequence[int]) -> tuple[int, int, int, int]:
    """The size at which a model is traced for an example."""
    size = tuple(example.shape) if isinstance(example, Tensor) else tuple(example)
    if len(size) != 4 or min(size) < 1:
        raise ValueError(f"images have a size [N, C, H, W] of at least one pixel each; got {list(size)}")
    # With two images, what moves images can be told from what moves channels.
    return (2, size[1], size[2], size[3])


def _outputs(builder: Builder, result: Any) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    # Native networks return plain tuples, and code may ask another kind for more than its items.
    leaves = list(result) if type(result) is tuple and len(result) > 1 else [result]
    numbers, flat = [], []
    for leaf in leaves:
        if not isinstance(leaf, Value):
            raise Unsupported(
                f"it returns {type(result).__name__}; it must return a tensor or a plain tuple of tensors"
            )
        view = builder.views[leaf.number]
        order = view.channels()
        if order is None or any(view.padding):
            raise Unsupported(
                f"it returns {list(view.shape)}; it must return maps [N, C, H, W], or [N, C] for one pixel"
            )
        if order != tuple(range(view.map[1])):
            raise Unsupported("it returns a part of a map's channels")
        numbers.append(view.node)
        flat.append(len(view.shape) == 2)
    return tuple(numbers), tuple(flat)
