"""A network of convolutions -> the buffer that kernels read; one for every instruction set and every size of image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kdnative.formats import large_pages
from kdnative.formats.convnet import tiles
from kdnative.formats.convnet.checks import check
from kdnative.formats.convnet.endings import Target, check_bound, table, target_of
from kdnative.formats.convnet.graph import (
    Add,
    Channels,
    Concat,
    Conv,
    ConvWeight,
    Ending,
    Graph,
    Input,
    Lookup,
    Multiply,
    Node,
    Pool,
    Range,
    Resize,
)
from kdnative.formats.convnet.layout import ALIGN, FINISH, HEADER, KINDS, MAGIC, RECORD, VERSION
from kdnative.formats.convnet.limits import check_window
from kdnative.formats.convnet.unpack import packed_bytes

__all__ = ["is_depthwise", "pack"]

_BLOCK = 1 << 15  # codes that are widened at a time: a whole layer as int32 would be four times what is packed of it


def is_depthwise(conv: Conv, inputs: int) -> bool:
    """Whether each output channel of a convolution is made of the input channel of the same number alone."""
    return conv.groups == inputs == conv.channels and len(conv.inputs) == 1 and conv.out is not None


def pack(graph: Graph, weight_of: Callable[[Conv], ConvWeight] | None = None) -> Tensor:
    """All of ``graph`` as one uint8 ``[bytes]`` buffer on the CPU, aligned to 64 bytes.

    Args:
        weight_of: gives the checked weights of each convolution, in the order of nodes, so that they need not all be in
            memory at once. None: they are those of the graph.

    Raises:
        ValueError: the network is wrong, a node is one that kernels don't have, or its sums could leave int32 or the
            range of exact rounding.
    """
    check(graph, weights=weight_of is None)
    writer = _Writer(weight_of or (lambda node: graph.weights[node.name]), packed_bytes(graph))
    records = np.zeros(len(graph.nodes), RECORD)
    links: list[int] = []
    for record, node in zip(records, graph.nodes, strict=True):
        record["channels"], record["real"] = node.channels, node.out is None
        if node.out is not None:
            record["step"], record["zero"] = node.out.scale, node.out.zero_point
        record["inputs"], record["input_count"] = len(links), len(node.inputs)
        links += node.inputs
        _PACKERS[type(node)](writer, record, node, graph)
    header = np.zeros((), HEADER)
    header["magic"], header["version"] = MAGIC, VERSION
    outputs = list(dict.fromkeys(graph.outputs))  # what is returned twice is written once
    header["nodes"], header["link_count"], header["outputs"] = len(records), len(links), len(outputs)
    header["node_table"] = writer.add(records)
    header["links"] = writer.add(np.array([*links, *outputs], np.int32))
    return writer.buffer(header)


class _Writer:
    """Puts sections behind the header, where they stay, and gives each its offset.

    Args:
        most: bytes that the buffer may have. Memory that nothing is written to costs nothing.
    """

    def __init__(self, weight_of: Callable[[Conv], ConvWeight], most: int) -> None:
        self.weight_of = weight_of
        self.bytes = HEADER.itemsize
        self._out = large_pages.zeros(most).numpy()

    def take(self, size: int) -> np.ndarray:
        """The next ``size`` bytes, uint8 zeros, to be written to."""
        found = self._out[self.bytes : self.bytes + size]
        self.bytes += -(-size // ALIGN) * ALIGN
        return found

    def add(self, section: np.ndarray) -> int:
        offset = self.bytes
        raw = np.ascontiguousarray(section).view(np.uint8)
        self.take(raw.size)[:] = raw
        return offset

    def buffer(self, header: np.ndarray) -> Tensor:
        """As large as what was written, and so are copies of it."""
        header["bytes"] = self.bytes
        self._out[: HEADER.itemsize] = header.reshape(1).view(np.uint8)
        return torch.frombuffer(self._out, dtype=torch.uint8, count=self.bytes)


def _range(graph: Graph, number: int) -> Range:
    found = graph.nodes[number].out
    assert found is not None  # of what nodes read
    return found


def _put_target(writer: _Writer, record: np.void, target: Target) -> None:
    record["finish"], record["low"], record["high"] = FINISH[target.finish], target.low, target.high
    record["out_scale"], record["out_zero"] = target.out_scale, target.out_zero
    if target.table is not None:
        record["table"] = writer.add(target.table.numpy())


def _input(writer: _Writer, record: np.void, node: Input, graph: Graph) -> None:
    assert node.out is not None
    record["kind"] = KINDS["input"]
    record["scales"] = writer.add(np.full(node.channels, 1 / node.out.scale, np.float32))
    record["biases"] = writer.add(np.full(node.channels, node.out.zero_point, np.float32))


def _conv(writer: _Writer, record: np.void, node: Conv, graph: Graph) -> None:
    source = graph.nodes[node.inputs[0]]
    before = _range(graph, node.inputs[0])
    q, scale, bias = writer.weight_of(node).arrays()
    check_window(node)
    single = is_depthwise(node, source.channels)
    rows = not single and _is_stem(node, source)
    record["weights"] = writer.bytes
    packed = tiles.depthwise(q, writer.take) if single else tiles.tiles(q, node.groups, rows, writer.take)
    record["weight_bytes"] = packed.bytes
    target = target_of(node.name, node.ending, node.out)
    scale = scale.astype(np.float64) * before.scale / target.step
    bias = bias.astype(np.float64) / target.step + target.zero
    sums, magnitudes = _sums(q)
    most = 255 * magnitudes
    if int(most.max()) >= 2**31:
        raise ValueError(f"{node.name}: sums of its products could overflow int32; it has too many inputs")
    largest = most * np.abs(scale) + np.abs(bias)
    if len(node.inputs) == 2:
        residual = _range(graph, node.inputs[1])
        factor = residual.scale / target.step
        bias = bias - residual.zero_point * factor
        record["residual_scale"] = factor
        largest = largest + np.abs(bias) + 255 * factor
    target.check(node.name, largest)
    record["kind"] = KINDS["depthwise" if single else "conv"]
    for name in ("kernel", "stride", "dilation"):
        record[f"{name}_h"], record[f"{name}_w"] = getattr(node, name)
    record["same"] = node.padding == "same"
    if node.padding != "same":
        record["pad_top"], record["pad_bottom"], record["pad_left"], record["pad_right"] = node.padding
    record["whole_rows"] = rows
    record["tiles"], record["lanes"] = len(packed.tiles), len(packed.channel)
    if len(packed.tiles):
        record["tile_table"] = writer.add(packed.tiles)
        record["zeros"] = writer.add(np.full(packed.deepest + 64, before.zero_point, np.uint8))

    def lanes(values: np.ndarray, dtype: type[np.generic]) -> int:
        padded = np.append(values, 0)  # channel -1: none
        with np.errstate(over="ignore"):  # of the scale of a channel whose codes are all zero
            return writer.add(padded[packed.channel].astype(dtype))

    record["start"] = lanes(-before.zero_point * sums, np.int32)
    record["start_signed"] = lanes((128 - before.zero_point) * sums, np.int32)
    record["scales"], record["biases"] = lanes(scale, np.float32), lanes(bias, np.float32)
    _put_target(writer, record, target)


def _sums(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 ``[O]``: the sum of the codes of each output channel, and that of their magnitudes."""
    rows = q.reshape(len(q), -1)
    found = np.empty((2, len(rows)), np.int64)
    step = max(1, _BLOCK // rows.shape[1])
    for begin in range(0, len(rows), step):
        wide = rows[begin : begin + step].astype(np.int32)
        found[0, begin : begin + step] = wide.sum(1, dtype=np.int32)
        found[1, begin : begin + step] = np.abs(wide, out=wide).sum(1, dtype=np.int32)
    return found[0], found[1]


def _is_stem(node: Conv, source: Node) -> bool:
    """Whether rows of the filter are single taps: the input of the network has pixels of 4 bytes."""
    few = isinstance(source, Input) and source.channels <= 4 and node.groups == 1
    return few and node.kernel[1] > 1 and node.dilation[1] == 1


def _pool(writer: _Writer, record: np.void, node: Pool, graph: Graph) -> None:
    check_window(node)
    if node.kind == "average":
        assert node.out is not None
        check_bound(node.name, 255 * _range(graph, node.inputs[0]).scale / node.out.scale + 255)
    if node.kind == "max" and node.dilation != (1, 1):
        raise ValueError(f"{node.name}: max pooling has no kernel with a dilation of {node.dilation}; keep it (1, 1)")
    record["kind"] = KINDS[node.kind]
    record["kernel_h"], record["kernel_w"] = node.kernel
    record["stride_h"], record["stride_w"] = node.stride
    record["pad_top"] = record["pad_bottom"] = node.padding[0]
    record["pad_left"] = record["pad_right"] = node.padding[1]
    record["dilation_h"] = record["dilation_w"] = 1
    record["adaptive"], record["ceil_mode"] = node.adaptive, node.ceil_mode
    record["count_pad"] = node.count_include_pad


def _add(writer: _Writer, record: np.void, node: Add, graph: Graph) -> None:
    a, b = (_range(graph, number) for number in node.inputs)
    target = target_of(node.name, node.ending, node.out)
    if target.finish not in ("clamp", "table"):
        raise ValueError(f"{node.name}: a sum of maps ends in codes, by limits or a table (got {node.ending})")
    scale_a, scale_b = a.scale / target.step, b.scale / target.step
    offset = target.zero - a.zero_point * scale_a - b.zero_point * scale_b
    check_bound(node.name, 255 * (scale_a + scale_b) + abs(offset))
    record["kind"] = KINDS["add"]
    record["scale_a"], record["offset"], record["residual_scale"] = scale_a, offset, scale_b
    _put_target(writer, record, target)


def _multiply(writer: _Writer, record: np.void, node: Multiply, graph: Graph) -> None:
    x, gate = (_range(graph, number) for number in node.inputs)
    assert node.out is not None
    scale = x.scale * gate.scale / node.out.scale
    check_bound(node.name, 255 * 255 * scale + 255)
    record["kind"], record["scale"] = KINDS["multiply"], scale


def _concat(writer: _Writer, record: np.void, node: Concat, graph: Graph) -> None:
    assert node.out is not None
    record["kind"] = KINDS["concat"]
    ranges = [_range(graph, number) for number in node.inputs]
    if any(found != node.out for found in ranges):
        record["table"] = writer.add(np.concatenate([table(Ending(), found, node.out).numpy() for found in ranges]))


def _channels(writer: _Writer, record: np.void, node: Channels, graph: Graph) -> None:
    record["kind"] = KINDS["channels"]
    record["order"] = writer.add(np.array(node.order, np.int32))


def _lookup(writer: _Writer, record: np.void, node: Lookup, graph: Graph) -> None:
    assert node.out is not None
    record["kind"] = KINDS["lookup"]
    record["table"] = writer.add(table(node.ending, _range(graph, node.inputs[0]), node.out).numpy())


def _resize(writer: _Writer, record: np.void, node: Resize, graph: Graph) -> None:
    record["kind"] = KINDS["resize"]
    record["bilinear"], record["align_corners"] = node.mode == "bilinear", node.align_corners
    if node.size is not None:
        record["size_h"], record["size_w"] = node.size
    else:
        assert node.factor is not None
        record["factor_h"], record["factor_w"] = node.factor


_PACKERS: dict[type[Node], Callable[..., None]] = {
    Input: _input,
    Conv: _conv,
    Pool: _pool,
    Add: _add,
    Multiply: _multiply,
    Concat: _concat,
    Channels: _channels,
    Lookup: _lookup,
    Resize: _resize,
}
