"""Tensors on the way through a model as views of maps: which element of which map each of their elements is.

Models move data in many words (view, transpose, chunk, flatten, indexing ...). Here the same words are applied to the
numbers of a map's elements, and what comes out is read afterwards: the whole map, some of its channels in some order,
or its elements in one row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdnative.cnn.padding import Padding

__all__ = ["View"]


@dataclass(frozen=True)
class View:
    """A tensor that holds elements of one map.

    Args:
        node: number of the map's node.
        map: its size [N, C, H, W].
        shape: of the tensor.
        elements: numbers of the map's elements, int64 of `shape`; None: all of them in order.
        padding: zeros that lie around it: top, bottom, left, right. `shape` counts them.
        padded_by: name of the module that padded.
    """

    node: int
    map: tuple[int, int, int, int]
    shape: tuple[int, ...]
    elements: Tensor | None = None
    padding: Padding = (0, 0, 0, 0)
    padded_by: str = ""

    def moved(self, elements: Tensor) -> View:
        """Another view of the same map."""
        in_order = elements.numel() == self.numbers().numel() and bool((elements.reshape(-1).diff() == 1).all())
        return View(self.node, self.map, tuple(elements.shape), None if in_order else elements)

    def numbers(self) -> Tensor:
        """`elements`, where they are in order too."""
        if self.elements is not None:
            return self.elements
        count = self.map[0] * self.map[1] * self.map[2] * self.map[3]
        return torch.arange(count).reshape(self.shape)

    def channels(self) -> tuple[int, ...] | None:
        """Where it is a map of the same height and width: which channels of the whole map it has. None: it isn't.

        Images are left as they are. A map of one pixel may be [N, C], too.
        """
        n, c, h, w = self.map
        if len(self.shape) == 2 and h == w == 1:
            found = self.numbers().reshape(*self.shape, 1, 1)
        elif len(self.shape) == 4:
            found = self.numbers()
        else:
            return None
        if found.shape[0] != n or tuple(found.shape[2:]) != (h, w):
            return None
        if self.elements is None:
            return tuple(range(c))
        order = found[0, :, 0, 0] // (h * w)
        whole = torch.arange(n * c * h * w).reshape(n, c, h, w)
        in_place = int(order.max()) < c and torch.equal(found, whole[:, order])
        return tuple(order.tolist()) if in_place else None

    def is_row(self) -> bool:
        """Whether it is [N, C * H * W], all elements of each image in order."""
        return self.elements is None and len(self.shape) == 2 and self.shape[0] == self.map[0]
