"""Readers of functions of each value, sums, products and concatenations."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdnative.cnn.building import Builder
from kdnative.cnn.floats import Scale
from kdnative.cnn.reading import reads
from kdnative.cnn.recording import Step, Value
from kdnative.formats.convnet.graph import Add, Concat, Conv, Ending, Lookup, Multiply

__all__: list[str] = []


@reads("relu", "relu6", "sigmoid", "tanh", "mish")
def _plain(builder: Builder, step: Step) -> None:
    builder.activation(step, step.bind("input").input, Ending(step.function))


@reads("hardswish", "hardsigmoid", "silu")
def _renamed(builder: Builder, step: Step) -> None:
    names = {"hardswish": "hard_swish", "hardsigmoid": "hard_sigmoid", "silu": "silu"}
    builder.activation(step, step.bind("input").input, Ending(names[step.function]))


@reads("gelu")
def _gelu(builder: Builder, step: Step) -> None:
    a = step.bind("input", approximate="none")
    builder.activation(step, a.input, Ending("gelu_tanh" if a.approximate == "tanh" else "gelu"))


@reads("elu")
def _elu(builder: Builder, step: Step) -> None:
    a = step.bind("input", alpha=1.0)
    builder.activation(step, a.input, Ending("elu", (float(a.alpha),)))


@reads("leaky_relu")
def _leaky_relu(builder: Builder, step: Step) -> None:
    a = step.bind("input", negative_slope=0.01)
    builder.activation(step, a.input, Ending("leaky_relu", (float(a.negative_slope),)))


@reads("softplus")
def _softplus(builder: Builder, step: Step) -> None:
    a = step.bind("input", beta=1, threshold=20)
    if a.beta != 1:
        raise step.refuse(f"softplus with beta={a.beta}; only 1 is supported")
    builder.activation(step, a.input, Ending("softplus"))


@reads("hardtanh")
def _hardtanh(builder: Builder, step: Step) -> None:
    a = step.bind("input", min_val=-1.0, max_val=1.0)
    _limits(builder, step, a.input, a.min_val, a.max_val)


@reads("clamp", "clip", "clamp_min")
def _clamp(builder: Builder, step: Step) -> None:
    a = step.bind("input", min=None, max=None)
    _limits(builder, step, a.input, a.min, a.max)


def _limits(builder: Builder, step: Step, x: Any, low: Any, high: Any) -> None:
    names = {(0, 6): "relu6", (0, None): "relu", (0, float("inf")): "relu"}
    if isinstance(low, Tensor) or isinstance(high, Tensor) or (low, high) not in names:
        raise step.refuse(f"limits of {low} and {high}; only 0 and 6, or 0 without an upper limit, are supported")
    builder.activation(step, x, Ending(names[low, high]))


@reads("add", "iadd", "radd")
def _add(builder: Builder, step: Step) -> None:
    a, b, more = _operands(step)
    if more.get("alpha", 1) != 1:
        raise step.refuse(f"a sum with alpha={more['alpha']}")
    if isinstance(a, Value) and isinstance(b, Value):
        if builder.view(step, a).shape != builder.view(step, b).shape:
            raise step.refuse(f"a sum of {list(builder.view(step, a).shape)} and {list(builder.view(step, b).shape)}")
        x, y = builder.map(step, a), builder.map(step, b)
        builder.add(step, Add(builder.name(step, "add"), (x, y), None, builder.nodes[x].channels))
    elif isinstance(a, Value):
        _scaled(builder, step, a, offset=b)
    else:
        _scaled(builder, step, b, offset=a)


@reads("sub", "isub")
def _sub(builder: Builder, step: Step) -> None:
    a, b, more = _operands(step)
    if more.get("alpha", 1) != 1 or isinstance(b, Value):
        raise step.refuse("a difference; only a constant can be subtracted")
    _scaled(builder, step, a, offset=-b)


@reads("mul", "imul", "rmul", "multiply")
def _mul(builder: Builder, step: Step) -> None:
    a, b, _ = _operands(step)
    if isinstance(a, Value) and isinstance(b, Value):
        _product(builder, step, a, b)
    elif isinstance(a, Value):
        _scaled(builder, step, a, factor=b)
    else:
        _scaled(builder, step, b, factor=a)


@reads("div", "truediv", "itruediv", "true_divide")
def _div(builder: Builder, step: Step) -> None:
    a, b, more = _operands(step)
    if more.get("rounding_mode") is not None or isinstance(b, Value):
        raise step.refuse("a quotient; the divisor must be a constant")
    inner = _shifted_relu6(builder, step, a)
    if inner is not None and not isinstance(b, Tensor) and b == 6:
        # relu6(x + 3) / 6
        name, c = builder.name(step), builder.nodes[inner].channels
        builder.add(step, Lookup(name, (inner,), None, c, Ending("hard_sigmoid")))
    else:
        _scaled(builder, step, a, factor=1 / b)


@reads("cat", "concat", "concatenate")
def _cat(builder: Builder, step: Step) -> None:
    a = step.bind("tensors", dim=0)
    shapes = [list(builder.view(step, part).shape) for part in a.tensors]
    if len({len(shape) for shape in shapes}) != 1 or a.dim % len(shapes[0]) != 1:
        what = f"a concatenation of {', '.join(map(str, shapes))} along {a.dim}"
        raise step.refuse(f"{what}; only dimension 1 (channels) is supported")
    if len(shapes) == 1:
        builder.same(step, a.tensors[0])
        return
    inputs = tuple(builder.map(step, part) for part in a.tensors)
    channels = sum(builder.nodes[number].channels for number in inputs)
    builder.add(step, Concat(builder.name(step, "cat"), inputs, None, channels))


def _operands(step: Step) -> tuple[Any, Any, dict[str, Any]]:
    """Both operands of an operation, and its other arguments."""
    a = step.bind("input", "other")
    return a.input, a.other, step.kwargs


def _product(builder: Builder, step: Step, a: Value, b: Value) -> None:
    """Squeeze and excite, or an activation that is written as a product."""
    x, y = builder.map(step, a), builder.map(step, b)
    for value, gate in ((x, y), (y, x)):
        node = builder.nodes[gate]
        whole = {"sigmoid": "silu", "hard_sigmoid": "hard_swish"}
        if isinstance(node, Lookup) and node.ending.activation in whole and node.inputs == (value,):
            ending = Ending(whole[node.ending.activation])
            builder.add(step, Lookup(builder.name(step), (value,), None, node.channels, ending))
            return
    if builder.shapes[y][1:] != (1, 1):
        x, y = y, x
    (c, h, w), gate_shape = builder.shapes[x], builder.shapes[y]
    if gate_shape != (c, 1, 1) or step.shapes[0][1:] not in ((c, h, w), (c,)):
        raise step.refuse(
            f"a product of maps {[c, h, w]} and {list(gate_shape)}; one of them must have one number per channel"
        )
    builder.add(step, Multiply(builder.name(step, "mul"), (x, y), None, c))


def _scaled(builder: Builder, step: Step, x: Any, factor: Any = 1.0, offset: Any = 0.0) -> None:
    """A product or a sum with numbers that don't depend on the image."""
    view = builder.view(step, x)
    for number in (factor, offset):
        if isinstance(number, Tensor) and number.numel() != 1:
            shape = [1] * (len(view.shape) - number.dim()) + list(number.shape)
            if len(view.shape) < 2 or shape != [1, view.shape[1]] + [1] * (len(view.shape) - 2):
                what = f"numbers {list(number.shape)} for {list(view.shape)}"
                raise step.refuse(f"{what}; only one number per channel is supported")
    if not isinstance(factor, Tensor) and not isinstance(offset, Tensor) and (factor, offset) == (1, 0):
        builder.same(step, x)
    else:
        builder.affine(step, x, Scale(step.module, factor, offset))


def _shifted_relu6(builder: Builder, step: Step, x: Any) -> int | None:
    """The node n of relu6(n + 3), as which older code writes 6 * hard_sigmoid(n)."""
    node = builder.nodes[builder.map(step, x)]
    if not isinstance(node, Lookup) or node.ending.activation != "relu6":
        return None
    shifted = builder.nodes[node.inputs[0]]
    source = builder.sources.get(shifted.name)
    if not isinstance(shifted, Conv) or source is None or source.weight is not None or len(source.behind) != 1:
        return None
    part = source.behind[0]
    if not isinstance(part, Scale) or isinstance(part.factor, Tensor) or isinstance(part.offset, Tensor):
        return None
    return shifted.inputs[0] if (part.factor, part.offset) == (1, 3) else None
