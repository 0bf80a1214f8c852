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
    header["node_table"] = writer.add(_raw(records))
    header["links"] = writer.add(torch.tensor([*links, *outputs], dtype=torch.int32))
    return writer.buffer(header)


class _Writer:
    """Puts sections behind the header, where they stay, and gives each its offset.

    Args:
        most: bytes that the buffer may have. Memory that nothing is written to costs nothing.
    """

    def __init__(self, weight_of: Callable[[Conv], ConvWeight], most: int) -> None:
        self.weight_of = weight_of
        self.bytes = HEADER.itemsize
        self._out = large_pages.zeros(most)

    def add(self, section: Tensor) -> int:
        offset = self.bytes
        raw = section.contiguous().view(torch.uint8).flatten()
        self._out[offset : offset + raw.numel()] = raw
        self.bytes += -(-raw.numel() // ALIGN) * ALIGN
        return offset

    def buffer(self, header: np.ndarray) -> Tensor:
        """As large as what was written, and so are copies of it."""
        header["bytes"] = self.bytes
        self._out[: HEADER.itemsize] = _raw(header)
        return torch.frombuffer(self._out.numpy(), dtype=torch.uint8, count=self.bytes)


def _raw(record: np.ndarray) -> Tensor:
    return torch.from_numpy(np.frombuffer(record.tobytes(), dtype=np.uint8).copy())


def _range(graph: Graph, number: int) -> Range:
    found = graph.nodes[number].out
    assert found is not None  # of what nodes read
    return found


def _put_target(writer: _Writer, record: np.void, target: Target) -> None:
    record["finish"], record["low"], record["high"] = FINISH[target.finish], target.low, target.high
    record["out_scale"], record["out_zero"] = target.out_scale, target.out_zero
    if target.table is not None:
        record["table"] = writer.add(target.table)


def _input(writer: _Writer, record: np.void, node: Input, graph: Graph) -> None:
    assert node.out is not None
    record["kind"] = KINDS["input"]
    record["scales"] = writer.add(torch.full((node.channels,), 1 / node.out.scale, dtype=torch.float32))
    record["biases"] = writer.add(torch.full((node.channels,), float(node.out.zero_point)))


def _conv(writer: _Writer, record: np.void, node: Conv, graph: Graph) -> None:
    source = graph.nodes[node.inputs[0]]
    before = _range(graph, node.inputs[0])
    weight = writer.weight_of(node)
    q = weight.q.detach().cpu()
    check_window(node)
    single = is_depthwise(node, source.channels)
    rows = not single and _is_stem(node, source)
    packed = tiles.depthwise(q) if single else tiles.tiles(q, node.groups, rows)
    target = target_of(node.name, node.ending, node.out)
    scale = weight.scale.detach().cpu().double() * before.scale / target.step
    bias = weight.bias.detach().cpu().double() / target.step + target.zero
    sums, most = q.flatten(1).sum(1, dtype=torch.int64), q.flatten(1).abs().sum(1, dtype=torch.int64) * 255
    if int(most.max()) >= 2**31:
        raise ValueError(f"{node.name}: sums of its products could overflow int32; it has too many inputs")
    largest = most.double() * scale.abs() + bias.abs()
    if len(node.inputs) == 2:
        residual = _range(graph, node.inputs[1])
        factor = residual.scale / target.step
        bias = bias - residual.zero_point * factor
        record["residual_scale"] = factor
        largest = largest + bias.abs() + 255 * factor
    target.check(node.name, largest)
    record["kind"] = KINDS["depthwise" if single else "conv"]
    for name in ("kernel", "stride", "dilation"):
        record[f"{name}_h"], record[f"{name}_w"] = getattr(node, name)
    record["same"] = node.padding == "same"
    if node.padding != "same":
        record["pad_top"], record["pad_bottom"], record["pad_left"], record["pad_right"] = node.padding
    record["whole_rows"] = rows
    record["tiles"], record["lanes"] = len(packed.tiles), len(packed.channel)
    record["weights"], record["weight_bytes"] = writer.add(packed.weights), packed.weights.numel()
    if len(packed.tiles):
        record["tile_table"] = writer.add(_raw(packed.tiles))
        record["zeros"] = writer.add(torch.full((packed.deepest + 64,), before.zero_point, dtype=torch.uint8))

    def lanes(values: Tensor, dtype: torch.dtype) -> int:
        padded = torch.cat([values, values.new_zeros(1)])  # channel -1: none
        return writer.add(padded[packed.channel].to(dtype))

    record["start"] = lanes(-before.zero_point * sums, torch.int32)
    record["start_signed"] = lanes((128 - before.zero_point) * sums, torch.int32)
    record["scales"], record["biases"] = lanes(scale, torch.float32), lanes(bias, torch.float32)
    _put_target(writer, record, target)


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
        record["table"] = writer.add(torch.cat([table(Ending(), found, node.out) for found in ranges]))


def _channels(writer: _Writer, record: np.void, node: Channels, graph: Graph) -> None:
    record["kind"] = KINDS["channels"]
    record["order"] = writer.add(torch.tensor(node.order, dtype=torch.int32))


def _lookup(writer: _Writer, record: np.void, node: Lookup, graph: Graph) -> None:
    assert node.out is not None
    record["kind"] = KINDS["lookup"]
    record["table"] = writer.add(table(node.ending, _range(graph, node.inputs[0]), node.out))


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
