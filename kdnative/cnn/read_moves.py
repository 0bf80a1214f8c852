"""Readers of functions that move data and compute nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from kdnative.cnn.building import Builder
from kdnative.cnn.maps import View
from kdnative.cnn.reading import reads
from kdnative.cnn.recording import Step, Value

__all__: list[str] = []


@reads("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
def _dropout(builder: Builder, step: Step) -> None:
    a = step.bind("input", p=0.5, training=True)
    if a.training and a.p:
        raise step.refuse(f"{step.function} is also active in evaluation mode; pass it training=self.training")
    builder.same(step, a.input)


@reads("contiguous", "clone", "detach", "to", "float", "type_as")
def _nothing(builder: Builder, step: Step) -> None:
    dtypes = [leaf for leaf in tree_flatten((step.args, step.kwargs))[0] if isinstance(leaf, torch.dtype)]
    if any(not dtype.is_floating_point for dtype in dtypes):
        raise step.refuse(f"values as {dtypes[0]}")
    builder.same(step, step.args[0] if step.args else step.kwargs["input"])


@reads(
    "view",
    "reshape",
    "view_as",
    "flatten",
    "unflatten",
    "transpose",
    "swapaxes",
    "swapdims",
    "permute",
    "movedim",
    "moveaxis",
    "chunk",
    "split",
    "split_with_sizes",
    "tensor_split",
    "narrow",
    "select",
    "getitem",
    "index_select",
    "unbind",
    "unsqueeze",
    "squeeze",
    "flip",
    "roll",
    "channel_shuffle",
)
def _move(builder: Builder, step: Step) -> None:
    """Do the same to the numbers of the elements."""
    read = [leaf for leaf in tree_flatten((step.args, step.kwargs))[0] if isinstance(leaf, Value)]
    view = builder.view(step, read[0])
    if any(view.padding):
        raise step.refuse(f"{step.function} follows a padding, which only a convolution can")

    def numbers(leaf: Any) -> Any:
        if not isinstance(leaf, Value):
            return leaf
        return builder.view(step, leaf).numbers().clone(memory_format=torch.contiguous_format)

    moved = tree_flatten(step.call(*tree_map(numbers, step.args), **tree_map(numbers, step.kwargs)))[0]
    tensors = [leaf for leaf in moved if isinstance(leaf, Tensor)]
    for result, elements in zip(step.results, tensors, strict=True):
        builder.views[result] = view.moved(elements)


@reads("pad")
def _pad(builder: Builder, step: Step) -> None:
    a = step.bind("input", "pad", mode="constant", value=None)
    view = builder.view(step, a.input)
    sides = (*map(int, a.pad), 0, 0, 0, 0)
    if not any(sides):
        builder.same(step, a.input)
        return
    if a.mode != "constant" or a.value or min(sides) < 0 or any(sides[4:]) or len(view.shape) != 4:
        raise step.refuse(
            f"padding {list(a.pad)} with mode={a.mode!r}, value={a.value}; only rows and columns of zeros are supported"
        )
    left, right, top, bottom = sides[:4]
    node = view.node if any(view.padding) else builder.map(step, a.input)
    before = view.padding
    padding = (before[0] + top, before[1] + bottom, before[2] + left, before[3] + right)
    c, h, w = builder.shapes[node]
    builder.views[step.results[0]] = View(node, (builder.images, c, h, w), step.shapes[0], None, padding, step.module)
