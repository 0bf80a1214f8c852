"""A network of convolutions in one operator."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from kdnative import ops
from kdnative.formats.convnet.graph import Graph
from kdnative.formats.convnet.pack import pack
from kdnative.formats.convnet.shapes import sizes

__all__ = ["ConvNet"]


class ConvNet(nn.Module):
    """A network of convolutions with 8-bit activations and weights, for inference on the CPU.

    Args:
        graph: with its weights, which are packed; the module keeps the rest of it.
    """

    packed: Tensor

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.register_buffer("packed", pack(graph), persistent=False)
        self.graph = replace(graph, weights={})
        self._sizes: dict[tuple[int, int], tuple[tuple[int, int, int, int], ...]] = {}
        self.eval()

    @classmethod
    def from_graph(cls, graph: Graph) -> ConvNet:
        """A native network; ValueError where kernels can't run it."""
        return cls(graph)

    def output_sizes(self, height: int, width: int) -> tuple[tuple[int, int, int, int], ...]:
        """Channels, height, width, and whether it is flat, of each output for images of a size.

        Raises:
            ValueError: images of this size do not fit.
        """
        known = self._sizes.get((height, width)) if isinstance(height, int) and isinstance(width, int) else None
        if known is not None:
            return known
        graph, found = self.graph, sizes(self.graph, height, width)
        result = tuple(
            (graph.nodes[number].channels, *found[number], flat)
            for number, flat in zip(graph.outputs, graph.flat, strict=True)
        )
        if isinstance(height, int) and isinstance(width, int):
            self._sizes[height, width] = result
        return result

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The outputs of the network, in float32.

        Args:
            x: float32, bfloat16 or float16 ``[N, C, H, W]`` on the CPU, any strides.

        Returns:
            ``[N, C, H, W]`` channels-last, or ``[N, C]`` where the network ends in a flat output; a tuple where there
            are several.
        """
        shapes = self.output_sizes(x.shape[2], x.shape[3])
        features = sum(c * h * w for c, h, w, _ in shapes)
        values = ops.convnet(self.packed, x, features)
        outputs, place = [], 0
        for c, h, w, flat in shapes:
            part = values if len(shapes) == 1 else values[:, place : place + c * h * w]
            place = place + c * h * w
            outputs.append(part if flat else part.unflatten(1, (h, w, c)).permute(0, 3, 1, 2))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)
