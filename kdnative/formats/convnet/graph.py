"""A network of convolutions as plain data: what it computes, in which ranges, and which weights it has.

Activations are 8-bit codes with one scale and zero point for a whole map (static ranges, found by calibration). Nodes
are in the order of execution and name their inputs by number. All of it goes through JSON, and holds no code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "ACTIVATIONS",
    "Add",
    "Channels",
    "Concat",
    "Conv",
    "ConvWeight",
    "Fixed",
    "Graph",
    "Input",
    "Lookup",
    "Multiply",
    "Node",
    "Pool",
    "Range",
    "Resize",
]

Pair = tuple[int, int]

ACTIVATIONS = (
    "none",
    "relu",
    "relu6",
    "hard_swish",
    "hard_sigmoid",
    "silu",
    "gelu",
    "gelu_tanh",
    "sigmoid",
    "tanh",
    "elu",
    "leaky_relu",
    "mish",
    "softplus",
)
"""Functions of one value that nodes may end with. ``none``, ``relu`` and ``relu6`` are limits of codes, ``hard_swish``
behind a convolution is computed in fp32, and every other one is a table of 256 codes."""


@dataclass(frozen=True)
class Range:
    """Codes of a map: value = (code - zero_point) * scale, codes 0 to 255."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Node:
    """What all nodes have.

    Args:
        name: of the module it comes from ("layer1.0.conv1"), or else of the traced node; unique in a graph.
        inputs: numbers of earlier nodes.
        out: the range of the result. None: real numbers, float32; then no node reads it.
        channels: of the result.
    """

    name: str
    inputs: tuple[int, ...]
    out: Range | None
    channels: int


@dataclass(frozen=True)
class Input(Node):
    """Real numbers [N, C, H, W] as codes. It has no inputs, and there is one of it."""


@dataclass(frozen=True)
class Ending:
    """An activation behind a node, in its own function.

    Args:
        activation: of `ACTIVATIONS`. parameters: its numbers (the slope of leaky_relu, the alpha of elu).
        before: where the activation is a table: the range of what it is applied to.
    """

    activation: str = "none"
    parameters: tuple[float, ...] = ()
    before: Range | None = None


@dataclass(frozen=True)
class Conv(Node):
    """A convolution, or a linear layer (its kernel is the whole map): inputs ``(x,)``, or ``(x, residual)``.

    The residual is added before the activation. Weights are in `Graph.weights` under the node's name.

    Args:
        kernel, stride, dilation: height and width.
        padding: top, bottom, left, right. "same": of TensorFlow, as much as the output needs to have
            ceil(size / stride) pixels, the smaller half before.
        groups: depthwise where it is the number of channels on both sides.
    """

    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] | Literal["same"] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    ending: Ending = field(default_factory=Ending)


@dataclass(frozen=True)
class Pool(Node):
    """Pooling of one map.

    Args:
        kind: "max" or "average". For "max" `out` is the range of the input.
        window: kernel, stride, padding (height and width) of torch's pooling, or the output size of adaptive pooling.
        adaptive: `kernel` is the output size; the rest means nothing. ((1, 1): global pooling.)
        ceil_mode, count_include_pad: as torch has them.
    """

    kind: Literal["max", "average"] = "max"
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    adaptive: bool = False
    ceil_mode: bool = False
    count_include_pad: bool = True


@dataclass(frozen=True)
class Add(Node):
    """The sum of two maps, and an activation."""

    ending: Ending = field(default_factory=Ending)


@dataclass(frozen=True)
class Multiply(Node):
    """A map times a number a channel: inputs ``(x, gate)``, the gate with one pixel an image (squeeze-excite)."""


@dataclass(frozen=True)
class Concat(Node):
    """Maps side by side, channels in the order of the inputs. Inputs of another range than `out` are coded again."""


@dataclass(frozen=True)
class Channels(Node):
    """Channels of one map in another order: result c is channel ``order[c]`` (slices, channel shuffles)."""

    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class Lookup(Node):
    """A function of each code of one map, or with "none" another range for it."""

    ending: Ending = field(default_factory=Ending)


@dataclass(frozen=True)
class Resize(Node):
    """One map in another size, which is fixed or a multiple of that of the input; `out` is its range.

    Args:
        mode: "nearest" or "bilinear". size: height and width, or None. factor: of both, where size is None.
        align_corners: as torch has it.
    """

    mode: Literal["nearest", "bilinear"] = "nearest"
    size: Pair | None = None
    factor: tuple[float, float] | None = None
    align_corners: bool = False


@dataclass(frozen=True)
class ConvWeight:
    """Integer weights of a convolution: w = q * scale[o].

    Args:
        q: int8 [O, I / groups, kh, kw], values in [-127, 127]. scale: float32 [O]. bias: float32 [O], of real values.
    """

    q: Tensor
    scale: Tensor
    bias: Tensor

    def dequantize(self) -> Tensor:
        """float32, of the shape of `q`."""
        return self.q.to(torch.float32) * self.scale.reshape(-1, 1, 1, 1)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`q`, `scale` and `bias` on the CPU: views of what is there. NumPy brings far less code into memory."""
        q, scale, bias = (tensor.detach().cpu().numpy() for tensor in (self.q, self.scale, self.bias))
        return q, scale, bias


@dataclass(frozen=True)
class Fixed:
    """The one size of images that a network is for.

    Args:
        size: height and width.
        why: others don't fit, in words.
    """

    size: Pair
    why: str

    def check(self, height: int, width: int) -> None:
        """ValueError for images of another size."""
        if height != self.size[0] or width != self.size[1]:
            raise ValueError(
                f"images of {height} x {width} pixels in a network for {self.size[0]} x {self.size[1]}: it was "
                f"followed at that size, and is another one at others ({self.why}); give images of that size"
            )


@dataclass(frozen=True)
class Graph:
    """A network, and its weights by the names of its convolutions.

    Args:
        nodes: the first is the `Input`.
        outputs: numbers of the nodes whose values the network returns, in order; codes come back as real numbers.
        flat: for each output, whether it is [N, C] (it has one pixel) and not [N, C, H, W].
        fixed: the one size of images that it is for; None: any will do.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[int, ...]
    flat: tuple[bool, ...]
    weights: dict[str, ConvWeight] = field(default_factory=dict)
    fixed: Fixed | None = None
