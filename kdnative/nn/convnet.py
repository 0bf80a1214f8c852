"""A network of convolutions as one native operator: codes of 8 bits from the image to the result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kdnative import ops
from kdnative.formats.convnet.checks import check, check_weight, weight_shapes
from kdnative.formats.convnet.graph import Conv, ConvWeight, Graph
from kdnative.formats.convnet.json import from_json, to_json
from kdnative.formats.convnet.pack import pack
from kdnative.formats.convnet.sizes import out_size, sizes, steps_to
from kdnative.formats.convnet.unpack import packed_bytes, unpack
from kdnative.nn.emptiness import empty, stays_empty, target_of

__all__ = ["ConvNet"]

_TYPES = (torch.float32, torch.bfloat16, torch.float16)  # what the operator reads
_PARTS = ("qweight", "scale", "bias")
_REMEMBERED = 64  # sizes of images


class _Place(NamedTuple):
    """Where an output is in a row of results: a map of height, width and channels, or None: numbers without places."""

    begin: int
    end: int
    map: tuple[int, int, int] | None


class ConvNet(nn.Module):
    """A network of convolutions: its weights in one uint8 buffer ``packed``, its structure as plain data.

    Made by :func:`kdnative.convert_`, or from a :class:`kdnative.formats.convnet.graph.Graph` by :meth:`from_graph`.
    ``state_dict()`` gives plain tensors, ``<convolution>.qweight``, ``.scale`` and ``.bias`` under the names of the
    modules that they come from, and ``load_state_dict()`` packs them. It runs on the CPU, in inference.
    """

    packed: Tensor
    numbers: Tensor

    def __init__(self, graph: Graph) -> None:
        """An empty network: its weights come with ``load_state_dict`` or :meth:`fill`, and its forward is an error.

        Args:
            graph: weights in it are not looked at.

        Raises:
            ValueError: kernels could not run it; the text names the node.
        """
        super().__init__()
        check(graph, weights=False)
        self._set(replace(graph, weights={}), *(torch.empty(0, dtype=torch.uint8, device="meta") for _ in range(2)))

    def _set(self, graph: Graph, packed: Tensor, numbers: Tensor) -> None:
        self._graph = graph
        self._steps = tuple((steps_to(graph, number, 0), steps_to(graph, number, 1)) for number in graph.outputs)
        self._places_of: dict[tuple[int, int], tuple[int, tuple[_Place, ...]]] = {}
        self.register_buffer("packed", packed, persistent=False)
        # Scales and biases as they were, which epilogues have only in products: bytes, so that .half() leaves them.
        self.register_buffer("numbers", numbers, persistent=False)

    @classmethod
    def from_graph(cls, graph: Graph) -> ConvNet:
        """A network for inference.

        Raises:
            ValueError: kernels could not run it, or its weights are not those of its nodes.
        """
        check(graph)
        module = cls.__new__(cls)
        nn.Module.__init__(module)
        # Entering a device is slow for everything within, and a training packs in every step.
        with nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu"):
            module._set(replace(graph, weights={}), pack(graph), _numbers(graph))
        return module.eval()

    @classmethod
    def from_spec(cls, spec: dict[str, Any]) -> ConvNet:
        """An empty network for inference, from :attr:`spec`.

        Raises:
            ValueError: an entry of the spec is missing, unknown, or of another kind than it must be.
        """
        return cls(_graph_of(spec)).eval()

    @property
    def graph(self) -> Graph:
        """The network without its weights."""
        return self._graph

    @property
    def spec(self) -> dict[str, Any]:
        """The network without its weights, as JSON can hold it."""
        return {"graph": to_json(self._graph)}

    @property
    def device(self) -> torch.device:
        """Where the weights are: the CPU, if they are anywhere."""
        return self._buffers["packed"].device

    @property
    def is_empty(self) -> bool:
        """Whether it has no weights: a new one, or one that was moved to the meta device."""
        return self._buffers["packed"].is_meta

    def plain(self) -> Graph:
        """The network with a copy of its weights; RuntimeError when it is empty."""
        if self.is_empty:
            raise RuntimeError(empty("kdnative.nn.ConvNet"))
        with torch.device("cpu"):
            codes = unpack(self.packed, self._graph)
        values = self.numbers.view(torch.float32)
        weights, begin = {}, 0
        for node in _convolutions(self._graph):
            n = node.channels
            scale, bias = values[begin : begin + n], values[begin + n : begin + 2 * n]
            weights[node.name] = ConvWeight(codes[node.name], scale.clone(), bias.clone())
            begin += 2 * n
        return replace(self._graph, weights=weights)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The network's outputs for images ``[N, C, H, W]`` of any float type and strides, in that type.

        Returns:
            ``[N, C, H, W]`` (channels last in memory), or ``[N, C]`` of a flat output; a tuple where there are several.
            An image that holds NaN gives NaN; infinity is the end of the range.

        Raises:
            RuntimeError: the images require grad, have another number of channels, or no floats.
            ValueError: they are too small, of another size than a linear layer needs, or than the one that the network
                is for.
        """
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                "kdnative.nn.ConvNet is for inference and its input requires grad: call the model under "
                "torch.inference_mode() or torch.no_grad(); to train what comes before it, keep the float model"
            )
        if x.dim() != 4 or not x.is_floating_point():
            raise RuntimeError(
                f"kdnative.nn.ConvNet takes images [N, C, H, W] of floats, got {x.dtype} of {list(x.shape)}: add the "
                "missing dimension (x[None]), and bring bytes to the mean and deviation of training"
            )
        features, places = self._places(x.shape[2], x.shape[3])
        dtype = x.dtype
        rows = ops.convnet(self._buffers["packed"], x if dtype in _TYPES else x.float(), features)
        if dtype != torch.float32:  # asking is faster than a conversion to what it is already
            rows = rows.to(dtype)
        if len(places) == 1:
            return _output(rows, places[0])
        return tuple(_output(rows[:, place.begin : place.end], place) for place in places)

    def _places(self, height: int, width: int) -> tuple[int, tuple[_Place, ...]]:
        """How many numbers an image gives, and where the outputs are among them."""
        if self._graph.fixed is not None:
            self._graph.fixed.check(height, width)
        if torch.compiler.is_compiling():  # sizes may be symbolic: arithmetic alone, and the operator checks the sum
            return self._place([(_after(height, rows), _after(width, columns)) for rows, columns in self._steps])
        found = self._places_of.get((height, width))
        if found is None:
            every = sizes(self._graph, height, width)
            found = self._place([every[number] for number in self._graph.outputs])
            if len(self._places_of) >= _REMEMBERED:
                self._places_of.clear()
            self._places_of[height, width] = found
        return found

    def _place(self, every: list[tuple[int, int]]) -> tuple[int, tuple[_Place, ...]]:
        places, total = [], 0
        ends: dict[int, tuple[int, int]] = {}
        for number, flat, (height, width) in zip(self._graph.outputs, self._graph.flat, every, strict=True):
            node = self._graph.nodes[number]
            if flat and (height != 1 or width != 1):  # `sizes` has refused it already, where it could
                raise ValueError(
                    f"images do not fit: {node.name} has several pixels where its linear layer needs one; give images "
                    "of the size that the network was made for"
                )
            if number not in ends:  # what is returned twice has one place
                ends[number] = total, total + height * width * node.channels
                total = ends[number][1]
            places.append(_Place(*ends[number], None if flat else (height, width, node.channels)))
        return total, tuple(places)

    def _apply(self, fn, recurse=True):
        if self.is_empty and stays_empty(fn, "kdnative.nn.ConvNet"):
            return self
        target = target_of(fn, self.packed)
        if target.type not in ("meta", "cpu"):
            raise RuntimeError(
                f"kdnative.nn.ConvNet can't move to {target}: kdnative has kernels of convolutions for the CPU alone. "
                "Leave the model there. Call .cpu() on the model to bring back what has moved"
            )
        return super()._apply(fn, recurse)

    # -- plain tensors -------------------------------------------------------------------------------------------------

    @classmethod
    def plain_shapes(cls, spec: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
        """Name, shape and dtype of each tensor in ``state_dict()``, by arithmetic alone.

        Raises:
            ValueError: as :meth:`from_spec`.
        """
        yield from weight_shapes(_graph_of(spec))

    @classmethod
    def derived_bytes(cls, spec: dict[str, Any]) -> int:
        """Bytes that the packed form has besides them, at most."""
        return packed_bytes(_graph_of(spec))

    def plain_names(self) -> list[str]:
        """Names of the tensors in ``state_dict()``."""
        return [name for name, _, _ in weight_shapes(self._graph)]

    def fill(self, read: Callable[[str, Tensor | None], Tensor]) -> list[str]:
        """Give a network its weights, one convolution after the other, so that they are never all in memory twice.

        Args:
            read: returns the plain tensor of a name of :meth:`plain_names`. Its second argument is None.

        Returns:
            What is wrong with the tensors, in words; if anything is, the network is as it was.
        """
        shapes = {name: (shape, dtype) for name, shape, dtype in weight_shapes(self._graph)}
        numbers: list[Tensor] = []

        def weight_of(node: Conv) -> ConvWeight:
            q, scale, bias = (read(f"{node.name}.{part}", None).detach() for part in _PARTS)
            weight = ConvWeight(q, *(t.float() if t.is_floating_point() else t for t in (scale, bias)))
            check_weight(node.name, weight, shapes)
            numbers.extend((weight.scale, weight.bias))
            return weight

        with torch.device("cpu"):
            try:
                packed = pack(self._graph, weight_of)
            except ValueError as error:
                return [str(error)]
            self.packed, self.numbers = packed, _as_bytes(numbers)
        return []

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.is_empty:
            for name, shape, dtype in weight_shapes(self._graph):
                destination[prefix + name] = torch.empty(shape, dtype=dtype, device="meta")
            return
        for name, weight in self.plain().weights.items():
            for part, tensor in zip(_PARTS, (weight.q, weight.scale, weight.bias), strict=True):
                destination[f"{prefix}{name}.{part}"] = tensor

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        super()._load_from_state_dict(state_dict, prefix, local_metadata, False, [], [], [])  # runs pre-hooks
        known = {prefix + name: name for name in self.plain_names()}
        unexpected_keys += [key for key in state_dict if key.startswith(prefix) and key not in known]
        missing = [key for key in known if key not in state_dict]
        missing_keys += missing
        if len(missing) == len(known):
            return
        if missing and self.is_empty:
            what = prefix.rstrip(".") or type(self).__name__
            error_msgs.append(f"{what}: it is empty, so all of its tensors are needed; missing: {', '.join(missing)}")
            return
        # Like in torch, what is not there stays as it is.
        own = self.state_dict() if missing else {}
        error_msgs += self.fill(
            lambda name, place: state_dict[prefix + name] if prefix + name in state_dict else own[name]
        )

    def extra_repr(self) -> str:
        convolutions = list(_convolutions(self._graph))
        channels = self._graph.nodes[0].channels
        return f"{len(convolutions)} convolutions, channels={channels}, outputs={len(self._graph.outputs)}"


def _graph_of(spec: dict[str, Any]) -> Graph:
    if not isinstance(spec, dict) or spec.keys() != {"graph"}:
        raise ValueError("the spec of a ConvNet must be a table with the entry 'graph' alone")
    return from_json(spec["graph"])


def _convolutions(graph: Graph) -> Iterator[Conv]:
    return (node for node in graph.nodes if isinstance(node, Conv))


def _numbers(graph: Graph) -> Tensor:
    """Scale and bias of every convolution in the order of nodes, as bytes."""
    weights = [graph.weights[node.name] for node in _convolutions(graph)]
    return _as_bytes([tensor for weight in weights for tensor in (weight.scale, weight.bias)])


def _as_bytes(tensors: list[Tensor]) -> Tensor:
    arrays = [t.detach().cpu().numpy() for t in tensors]
    return torch.from_numpy(np.concatenate([np.empty(0, np.float32), *arrays]).view(np.uint8))


def _output(rows: Tensor, place: _Place) -> Tensor:
    return rows if place.map is None else rows.unflatten(1, place.map).permute(0, 3, 1, 2)


def _after(size: int, steps: tuple[Any, ...]) -> int:
    for step in steps:
        size = out_size(size, step)
    return size
