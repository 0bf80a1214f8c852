"""Networks of convolutions in plain torch, on any device with float64, from plain weights: the tests' oracle.

Sums are exact (integers in float64), and what follows is one fp32 operation after the other, as
`csrc/cpu/convolution.h` has them: the bits are those of the kernels.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdnative.formats.convnet import sizes
from kdnative.formats.convnet.checks import check
from kdnative.formats.convnet.endings import Target, table, target_of
from kdnative.formats.convnet.graph import (
    Add,
    Channels,
    Concat,
    Conv,
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

__all__ = ["convnet", "evaluate", "run"]

_INPUT_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def convnet(graph: Graph, x: Tensor) -> Tensor:
    """What the operator ``kdnative::convnet`` returns for the packed network: float32 ``[N, features]``.

    Args:
        graph: with its weights. x: float32, bfloat16 or float16 ``[N, C, H, W]``, any strides.

    Raises:
        ValueError: the network is wrong, or the images are too small for it.
        RuntimeError: the images are of another type, shape or number of channels.
    """
    outputs = run(graph, x)
    rows = [y if y.dim() == 2 else y.permute(0, 2, 3, 1).reshape(y.shape[0], y.shape[1:].numel()) for y in outputs]
    return torch.cat(rows, 1)


def run(graph: Graph, x: Tensor) -> list[Tensor]:
    """The outputs of a network: float32 ``[N, C, H, W]``, or ``[N, C]`` of those that are flat. See `convnet`."""
    values = evaluate(graph, x)
    not_numbers = x.isnan().flatten(1).any(1)
    results = []
    for number, flat in zip(graph.outputs, graph.flat, strict=True):
        out = graph.nodes[number].out
        y = values[number] if out is None else (values[number].float() - out.zero_point) * _fp32(out.scale)
        y = y.masked_fill(not_numbers[:, None, None, None], torch.nan)
        results.append(y.flatten(1) if flat else y)
    return results


def evaluate(graph: Graph, x: Tensor) -> list[Tensor]:
    """The result of every node: codes, uint8 ``[N, C, H, W]``, or float32 where a node gives real numbers.

    An image that holds NaN has codes as any other: see `convnet` for what is wrong.
    """
    check(graph)
    if x.dim() != 4 or x.shape[1] != graph.nodes[0].channels or x.dtype not in _INPUT_TYPES:
        raise RuntimeError(
            f"convnet: the images must be [N, {graph.nodes[0].channels}, H, W] of float32, bfloat16 or float16, got "
            f"{x.dtype} of {list(x.shape)}"
        )
    sizes.sizes(graph, x.shape[2], x.shape[3])  # whether they fit
    values: list[Tensor] = []
    for node in graph.nodes:
        inputs = [values[number] for number in node.inputs] or [x.float()]
        ranges = [graph.nodes[number].out for number in node.inputs]
        values.append(_compute(node, graph, inputs, ranges))
    return values


# -- nodes -------------------------------------------------------------------------------------------------------------


@singledispatch
def _compute(node: Node, graph: Graph, inputs: list[Tensor], ranges: list[Any]) -> Tensor:
    raise NotImplementedError(type(node).__name__)


@_compute.register
def _(node: Input, graph: Graph, inputs: list[Tensor], ranges: list[Any]) -> Tensor:
    assert node.out is not None
    scale = 1 / torch.tensor(node.out.scale, dtype=torch.float64, device=inputs[0].device)
    v = inputs[0] * scale.float() + float(node.out.zero_point)
    return _code(v.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf))


@_compute.register
def _(node: Conv, graph: Graph, inputs: list[Tensor], ranges: list[Any]) -> Tensor:
    weight = graph.weights[node.name]
    residual = inputs[1] if len(inputs) > 1 else None
    target = target_of(node.name, node.ending, node.out)
    scale = ranges[0].scale * weight.scale.double() / target.step
    bias = weight.bias.double() / target.step + target.zero
    x = inputs[0].double() - ranges[0].zero_point
    top, bottom, left, right = sizes.paddings(node, (x.shape[2], x.shape[3]))
    x = F.pad(x, (left, right, top, bottom))
    q = weight.q.to(device=x.device, dtype=torch.float64)
    sums = F.conv2d(x, q, stride=node.stride, dilation=node.dilation, groups=node.groups)
    if residual is None:
        return _finish(target, sums.float() * _channels(scale, x) + _channels(bias, x))
    residual_scale = ranges[1].scale / target.step
    v = sums.float() * _channels(scale, x) + _channels(bias - ranges[1].zero_point * residual_scale, x)
    return _finish(target, v + residual.float() * _fp32(residual_scale))


@_compute.register
def _(node: Pool, graph: Graph, inputs: list[Tensor], ranges: list[Any]) -> Tensor:
    x = inputs[0]
    if node.kind == "max":
        if node.adaptive:
            return F.adaptive_max_pool2d(x.float(), node.kernel).to(torch.uint8)
        return F.max_pool2d(
            x.float(), node.kernel, node.stride, node.padding, node.dilation, ceil_mode=node.ceil_mode
        ).to(torch.uint8)
    assert node.out is not None
    rows, columns = (_windows(node, axis, x.shape[2 + axis]) for axis in (0, 1))
    found = x.new_empty((*x.shape[:2], len(rows), len(columns)))
    for i, (top, bottom, height) in enumerate(rows):
        for j, (left, right, width) in enumerate(columns):
            pixels = (bottom - top) * (right - left)
            sums = x[:, :, top:bottom, left:right].long().sum((2, 3)) - pixels * ranges[0].zero_point
            scale = ranges[0].scale / (height * width * node.out.scale)
            found[:, :, i, j] = _code(sums.float() * _fp32(scale) + float(node.out.zero_point))
    return found


@_compute.register
def _(node: Add, graph: Graph, inputs: list[Tensor], ranges: list[Any]) -> Tensor:
    target = target_of(node.name, node.ending, node.out)
    scale_a, scale_b = (own.scale / target.step for own in ranges)
    offset = target.zero - ranges[0].zero_point * scale_a - ranges[1].zero_point * scale_b
    first = inputs[0].float() * _fp32(scale_a) + _fp32(offset)
    return _finish(target, first + inputs[1].float() * _fp32(scale_b))


@_compute.register
def _(node: Multiply, graph: Graph, inputs: list[Tensor], ranges: list[Any]) -> Tensor:
    assert node.out is not None
    x, gate = (value.int() - range_.zero_point for value, range_ in zip(inputs, ranges, strict=True))
    scale = _fp32(ranges[0].scale * ranges[1].scale / node.out.scale)
    return _code((x * gate).float() * scale + float(node.out.zero_point))


@_compute.register
def _(node: Concat, graph: Graph, inputs: list[Tensor], ranges: list[Any]) -> Tensor:
    assert node.out is not None
    return torch.cat([_recoded(x, own, node.out) for x, own in zip(inputs, ranges, strict=True)], 1)


@_compute.register
def _(node: Channels, graph: Graph, inputs: list[Tensor], ranges: list[Any]) -> Tensor:
    return inputs[0][:, list(node.order)]


@_compute.register
def _(node: Lookup, graph: Graph, inputs: list[Tensor], ranges: list[Any]) -> Tensor:
    assert node.out is not None
    return _look_up(table(node.ending, ranges[0], node.out), inputs[0])


@_compute.register
def _(node: Resize, graph: Graph, inputs: list[Tensor], ranges: list[Any]) -> Tensor:
    x = inputs[0]
    if node.mode == "nearest":
        return F.interpolate(x.float(), size=node.size, scale_factor=node.factor, mode="nearest").to(torch.uint8)
    y0, y1, fy = _corners(node, 0, x.shape[2], x.device)
    x0, x1, fx = _corners(node, 1, x.shape[3], x.device)
    a, b, c, d = (x[:, :, rows][:, :, :, columns].long() for rows in (y0, y1) for columns in (x0, x1))
    upper, lower = a * (2048 - fx) + b * fx, c * (2048 - fx) + d * fx
    return ((upper * (2048 - fy[:, None]) + lower * fy[:, None] + (1 << 21)) >> 22).to(torch.uint8)


# -- steps -------------------------------------------------------------------------------------------------------------


def _windows(node: Pool, axis: int, size: int) -> list[tuple[int, int, int]]:
    """For each output pixel of an axis: begin and end of its window within the map, and the divisor's share."""
    kernel, stride, padding = node.kernel[axis], node.stride[axis], node.padding[axis]
    if node.adaptive:
        bounds = [(i * size // kernel, -(-(i + 1) * size // kernel)) for i in range(kernel)]
        return [(begin, end, end - begin) for begin, end in bounds]
    step = sizes.step(node, axis)
    assert step is not None
    found = []
    for i in range(sizes.out_size(size, step)):
        begin, end = i * stride - padding, min(i * stride - padding + kernel, size + padding)
        inside = max(begin, 0), min(end, size)
        found.append((*inside, end - begin if node.count_include_pad else inside[1] - inside[0]))
    return found


def _corners(node: Resize, axis: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each output pixel of an axis: the two pixels between which it lies, and how far from the first, 2048ths."""
    step = sizes.step(node, axis)
    assert step is not None
    count = sizes.out_size(size, step)
    place = torch.arange(count, dtype=torch.float64, device=device)
    if node.align_corners:
        place = place * ((size - 1) / max(count - 1, 1))
    else:
        ratio = 1 / node.factor[axis] if node.factor is not None else size / count
        place = ((place + 0.5) * ratio - 0.5).clamp(min=0)
    first = place.long().clamp(max=size - 1)
    return first, (first + 1).clamp(max=size - 1), ((place - first) * 2048 + 0.5).long()


def _finish(target: Target, v: Tensor) -> Tensor:
    if target.finish == "real":
        return v
    if target.finish == "hard_swish":
        t = (v * _fp32(1 / 6) + 0.5).clamp(0, 1)
        v = (v * t) * _fp32(target.out_scale) + target.out_zero
    q = v.round().clamp(target.low, target.high).to(torch.uint8)
    return q if target.table is None else _look_up(target.table, q)


def _code(v: Tensor) -> Tensor:
    return v.round().clamp(0, 255).to(torch.uint8)


def _look_up(codes: Tensor, x: Tensor) -> Tensor:
    return codes.to(x.device)[x.long()]


def _recoded(x: Tensor, own: Range, out: Range) -> Tensor:
    return x if own == out else _look_up(table(Ending(), own, out), x)


def _channels(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.device).float()[:, None, None]


def _fp32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()
