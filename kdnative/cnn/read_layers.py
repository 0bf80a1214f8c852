"""Readers of convolutions, linear layers, normalization, pooling and resizing."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from kdnative.cnn.building import Builder
from kdnative.cnn.floats import Norm, Source
from kdnative.cnn.padding import Padding, tensorflow_padding
from kdnative.cnn.reading import constant, pair, reads
from kdnative.cnn.recording import Step
from kdnative.formats.convnet.checks import MAX_PRODUCTS
from kdnative.formats.convnet.graph import Conv, Pool, Resize
from kdnative.formats.convnet.limits import too_much

__all__: list[str] = []


@reads("conv2d")
def _conv2d(builder: Builder, step: Step) -> None:
    a = step.bind("input", "weight", bias=None, stride=1, padding=0, dilation=1, groups=1)
    weight, bias = _weights(step, a.weight, a.bias)
    kernel, stride, dilation = (weight.shape[2], weight.shape[3]), pair(a.stride), pair(a.dilation)
    view = builder.view(step, a.input)
    padding = _padding(a.padding, kernel, dilation)
    same = False
    if any(view.padding):
        top, bottom, left, right = view.padding
        padding = (padding[0] + top, padding[1] + bottom, padding[2] + left, padding[3] + right)
        # timm pads as TensorFlow does, in the forward of the convolution itself.
        same = view.padded_by == step.module and padding == tensorflow_padding(view.map[2:], kernel, stride, dilation)
        x = view.node
    else:
        x = builder.map(step, a.input)
    node = Conv(
        builder.name(step),
        (x,),
        None,
        weight.shape[0],
        kernel,
        stride,
        "same" if same else padding,
        dilation,
        int(a.groups),
    )
    _check_limits(step, node, weight.shape[1])
    builder.conv(step, node, Source(step.module, weight, bias, (*weight.shape[:2], *kernel)))


@reads("linear")
def _linear(builder: Builder, step: Step) -> None:
    a = step.bind("input", "weight", bias=None)
    weight, bias = _weights(step, a.weight, a.bias)
    view = builder.view(step, a.input)
    if view.is_row():
        x, (_, c, h, w) = view.node, view.map
    elif len(view.shape) == 2:
        x = builder.map(step, a.input)
        c, h, w = builder.shapes[x]
    else:
        raise step.refuse(f"a linear layer over the last dimension of {list(view.shape)}; only [N, K] is supported")
    node = Conv(builder.name(step), (x,), None, weight.shape[0], (h, w))
    _check_limits(step, node, c)
    builder.conv(step, node, Source(step.module, weight, bias, (weight.shape[0], c, h, w)))


@reads("batch_norm")
def _batch_norm(builder: Builder, step: Step) -> None:
    if step.call is not F.batch_norm:
        raise step.refuse("torch.batch_norm; use torch.nn.functional.batch_norm instead")
    a = step.bind(
        "input", "running_mean", "running_var", weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
    )
    mean, variance = constant(step, a.running_mean, "the mean"), constant(step, a.running_var, "the variance")
    if a.training or mean is None or variance is None:
        raise step.refuse("a normalization with the statistics of the batch; only running statistics are supported")
    weight, bias = constant(step, a.weight, "the weight"), constant(step, a.bias, "the bias")
    builder.affine(step, a.input, Norm(step.module, mean, variance, float(a.eps), weight, bias))


@reads("max_pool2d", "max_pool2d_with_indices")
def _max_pool2d(builder: Builder, step: Step) -> None:
    a = step.bind("input", "kernel_size", stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False)
    if a.return_indices or len(step.results) != 1:
        raise step.refuse("a pooling that returns indices")
    if pair(a.dilation) != (1, 1):
        raise step.refuse(f"a max pooling with a dilation of {pair(a.dilation)}; only 1 is supported")
    _pool(builder, step, a, kind="max")


@reads("avg_pool2d")
def _avg_pool2d(builder: Builder, step: Step) -> None:
    a = step.bind(
        "input", "kernel_size", stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    )
    if a.divisor_override is not None:
        raise step.refuse("an average pooling with divisor_override")
    _pool(builder, step, a, kind="average", count_include_pad=bool(a.count_include_pad))


@reads("adaptive_avg_pool2d", "adaptive_max_pool2d", "adaptive_max_pool2d_with_indices")
def _adaptive_pool2d(builder: Builder, step: Step) -> None:
    a = step.bind("input", "output_size", return_indices=False)
    if a.return_indices or len(step.results) != 1:
        raise step.refuse("a pooling that returns indices")
    kind: Literal["max", "average"] = "max" if "max" in step.function else "average"
    _adaptive(builder, step, a.input, kind, step.shapes[0][2:])


@reads("mean", "amax")
def _reduce(builder: Builder, step: Step) -> None:
    a = step.bind("input", dim=None, keepdim=False)
    view = builder.view(step, a.input)
    dims = (a.dim,) if isinstance(a.dim, int) else tuple(a.dim or ())
    # The pixels of a map, which may lie in one row: [N, C, H, W] or [N, C, H * W].
    if len(view.shape) < 3 or {d % len(view.shape) for d in dims} != set(range(2, len(view.shape))):
        what = f"{step.function} over {list(dims) or 'all'} of {list(view.shape)}"
        raise step.refuse(f"{what}; only pooling over all pixels is supported")
    _adaptive(builder, step, a.input, "max" if step.function == "amax" else "average", (1, 1))


@reads("interpolate", "upsample")
def _interpolate(builder: Builder, step: Step) -> None:
    a = step.bind(
        "input",
        size=None,
        scale_factor=None,
        mode="nearest",
        align_corners=None,
        recompute_scale_factor=None,
        antialias=False,
    )
    if a.mode not in ("nearest", "bilinear") or a.antialias or a.recompute_scale_factor:
        raise step.refuse(
            f"resizing with mode={a.mode!r}, antialias={a.antialias}; only nearest and bilinear are supported"
        )
    x = builder.map(step, a.input)
    size, factor = None, None
    if a.size is not None:
        size = (step.shapes[0][2], step.shapes[0][3])
    else:
        both = a.scale_factor if isinstance(a.scale_factor, (tuple, list)) else (a.scale_factor, a.scale_factor)
        factor = (float(both[0]), float(both[1]))
    name, c = builder.name(step, "" if step.kind == "Upsample" else "resize"), builder.nodes[x].channels
    mode: Literal["nearest", "bilinear"] = a.mode
    builder.add(step, Resize(name, (x,), None, c, mode, size, factor, bool(a.align_corners)))


def _check_window(step: Step, node: Conv | Pool) -> None:
    """Refuses what is too much for the kernels, so that the rest of the model can be native without it."""
    if (problem := too_much(node)) is not None:
        raise step.refuse(problem)


def _check_limits(step: Step, node: Conv, inputs: int) -> None:
    """The same, of a convolution's sums too."""
    _check_window(step, node)
    if (products := node.kernel[0] * node.kernel[1] * inputs) > MAX_PRODUCTS:
        raise step.refuse(f"sums of {products} products could overflow int32; at most {MAX_PRODUCTS} are allowed")


def _pool(builder: Builder, step: Step, a: Any, **more: Any) -> None:
    x = builder.map(step, a.input)
    kernel = pair(a.kernel_size)
    stride = kernel if a.stride is None or a.stride == [] else pair(a.stride)
    node = Pool(
        builder.name(step, "" if "Pool" in step.kind else step.function),
        (x,),
        None,
        builder.nodes[x].channels,
        kernel=kernel,
        stride=stride,
        padding=pair(a.padding),
        ceil_mode=bool(a.ceil_mode),
        **more,
    )
    _check_window(step, node)
    builder.add(step, node)


def _adaptive(builder: Builder, step: Step, x: Any, kind: Literal["max", "average"], size: tuple[int, ...]) -> None:
    view = builder.view(step, x)
    in_rows = len(view.shape) == 3 and view.elements is None and view.shape[:2] == view.map[:2]
    number = view.node if in_rows else builder.map(step, x)
    name = builder.name(step, "" if "Pool" in step.kind else "pool")
    node = Pool(name, (number,), None, builder.nodes[number].channels, kind, (size[0], size[1]), adaptive=True)
    _check_window(step, node)
    builder.add(step, node)


def _weights(step: Step, weight: Any, bias: Any) -> tuple[Tensor, Tensor | None]:
    found = constant(step, weight, "the weight")
    assert found is not None
    return found, constant(step, bias, "the bias")


def _padding(given: Any, kernel: tuple[int, int], dilation: tuple[int, int]) -> Padding:
    """Top, bottom, left, right, of torch's argument."""
    if given == "valid":
        return (0, 0, 0, 0)
    if given == "same":  # torch has it for strides of 1 alone
        return tensorflow_padding(kernel, kernel, (1, 1), dilation)
    vertical, horizontal = pair(given)
    return (vertical, vertical, horizontal, horizontal)
