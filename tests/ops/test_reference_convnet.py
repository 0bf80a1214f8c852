"""Networks of convolutions in plain torch: each node against float64, and cases worked by hand."""

import pytest
import torch
import torch.nn.functional as F

from kdnative.formats.convnet.endings import table
from kdnative.formats.convnet.graph import (
    ACTIVATIONS,
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
    Pool,
    Range,
    Resize,
)
from kdnative.ops import reference_convnet as reference
from tests.convnets import Builder, every_kind

FUNCTIONS = {
    "none": lambda x: x,
    "relu": torch.relu,
    "relu6": F.relu6,
    "hard_swish": F.hardswish,
    "hard_sigmoid": F.hardsigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "elu": F.elu,
    "leaky_relu": F.leaky_relu,
    "mish": F.mish,
    "softplus": F.softplus,
}
STEEPEST = 1.2  # no slope of them is larger; hard-swish has 1.5, and is computed in fp32 behind convolutions
PARAMETERS = {"elu": (0.7,), "leaky_relu": (0.2,)}


def real(codes, range_):
    """What codes stand for, in float64; real numbers as they are."""
    return codes.double() if range_ is None else (codes.double() - range_.zero_point) * range_.scale


def held(x, range_):
    """The number nearest to x of those between the ends of a range."""
    return x.clamp(-range_.zero_point * range_.scale, (255 - range_.zero_point) * range_.scale)


def float_node(node, weights, inputs):
    """The node in float64 before its activation, from real inputs."""
    match node:
        case Conv():
            weight = weights[node.name]
            w = weight.q.double() * weight.scale.double()[:, None, None, None]
            x = inputs[0]
            if node.padding == "same":  # as TensorFlow documents it
                for axis in (0, 1):
                    k, s, d, n = (*(v[axis] for v in (node.kernel, node.stride, node.dilation)), x.shape[2 + axis])
                    lost = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
                    pad = (lost // 2, lost - lost // 2)
                    x = F.pad(x, (0, 0, *pad) if axis == 0 else (*pad, 0, 0))
            else:
                top, bottom, left, right = node.padding
                x = F.pad(x, (left, right, top, bottom))
            y = F.conv2d(x, w, weight.bias.double(), node.stride, 0, node.dilation, node.groups)
            return y + inputs[1] if len(inputs) > 1 else y
        case Pool(kind="max"):
            return F.max_pool2d(inputs[0], node.kernel, node.stride, node.padding, node.dilation, node.ceil_mode)
        case Pool(adaptive=True):
            return F.adaptive_avg_pool2d(inputs[0], node.kernel)
        case Pool():
            options = node.ceil_mode, node.count_include_pad
            return F.avg_pool2d(inputs[0], node.kernel, node.stride, node.padding, *options)
        case Add():
            return inputs[0] + inputs[1]
        case Multiply():
            return inputs[0] * inputs[1]
        case Concat():
            return torch.cat(inputs, 1)
        case Channels():
            return torch.stack([inputs[0][:, c] for c in node.order], 1)
        case Resize():
            corners = {"align_corners": node.align_corners} if node.mode == "bilinear" else {}
            return F.interpolate(inputs[0], node.size, node.factor, node.mode, **corners)
        case Lookup() | Input():
            return inputs[0]


def assert_nodes_agree(graph, x):
    """Every node, from the codes that it really gets, within the rounding that the contract has."""
    values = reference.evaluate(graph, x)
    for node, got in zip(graph.nodes, values, strict=True):
        inputs = [real(values[i], graph.nodes[i].out) for i in node.inputs] or [x.double()]
        want = float_node(node, graph.weights, inputs)
        assert got.shape == want.shape, node
        ending = getattr(node, "ending", Ending())
        slack = 1e-5
        if isinstance(node, Resize) and node.mode == "bilinear":  # weights are rounded to 2048ths, two of them
            slack += 255 * node.out.scale * 2 / 4096
        if ending.before is not None:  # rounded there too, and held within that range
            want = held(want, ending.before)
            slack += STEEPEST * 0.5 * ending.before.scale
        want = FUNCTIONS[ending.activation](want, *ending.parameters)
        if node.out is None:
            assert got.dtype == torch.float32
            torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-5)
            continue
        assert got.dtype == torch.uint8
        if want.numel():
            error = (real(got, node.out) - held(want, node.out)).abs().max()
            assert error <= 0.5 * node.out.scale + slack, node


@pytest.mark.parametrize("shape", [(2, 17, 23), (0, 9, 9), (1, 1, 1), (1, 32, 7)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_node(shape, channels):
    n, h, w = shape
    assert_nodes_agree(every_kind(channels), torch.randn(n, channels, h, w))


@pytest.mark.parametrize("channels", [1, 3, 7, 24, 116])
@pytest.mark.parametrize("depthwise", [False, True])
def test_odd_channels(channels, depthwise):
    b = Builder(channels, seed=channels)
    settings = {"kernel": (3, 2), "stride": (1, 2), "padding": (2, 0, 1, 1), "dilation": (1, 2)}
    settings |= {"groups": channels} if depthwise else {}
    b.conv(0, channels if depthwise else 5, **settings)
    assert_nodes_agree(b.graph(1), torch.randn(2, channels, 11, 13))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_of_every_node_that_has_them(activation):
    ending = Ending(activation, PARAMETERS.get(activation, ()))
    before = Range(0.06, 130)
    out = Range(0.04, 40)
    b = Builder()
    fused = ending if activation in ("none", "relu", "relu6", "hard_swish") else Ending(*vars_of(ending), before)
    conv = b.conv(0, 7, ending=fused, out=out)
    summed = ending if activation in ("none", "relu", "relu6") else Ending(*vars_of(ending), before)
    added = b.other(Add, [conv, b.conv(0, 7)], ending=summed if activation != "hard_swish" else Ending())
    looked = b.other(Lookup, [added], out=out, ending=ending)
    if activation == "hard_swish":  # its slope is 1.5: looked up, it is exact
        assert_nodes_agree(b.graph(looked), torch.randn(1, 3, 9, 9) * 2)
    assert_nodes_agree(b.graph(looked), torch.randn(2, 3, 9, 9))


def vars_of(ending):
    return ending.activation, ending.parameters


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)},
        {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1), "count_include_pad": False},
        {"kernel": (3, 2), "stride": (2, 3), "ceil_mode": True},
        {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1), "ceil_mode": True},
        {"kernel": (3, 5), "adaptive": True},
        {"kernel": (1, 1), "adaptive": True},
    ],
)
@pytest.mark.parametrize("size", [(9, 8), (7, 7), (3, 3)])
def test_average_pooling(settings, size):
    b = Builder(5)
    b.other(Pool, [0], kind="average", out=Range(0.011, 77), **settings)
    assert_nodes_agree(b.graph(1), torch.randn(2, 5, *size) + 0.5)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_max_pooling(dilation, ceil_mode):
    b = Builder(5)
    settings = {"kernel": (3, 2), "stride": (2, 2), "padding": (1, 1), "dilation": (dilation, dilation)}
    b.other(Pool, [0], kind="max", out=b.nodes[0].out, ceil_mode=ceil_mode, **settings)
    assert_nodes_agree(b.graph(1), torch.randn(2, 5, 9, 8) - 2)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("settings", [{"size": (5, 11)}, {"factor": (2.0, 2.0)}, {"factor": (1.5, 0.6)}])
@pytest.mark.parametrize("align_corners", [False, True])
def test_resizing(mode, settings, align_corners):
    b = Builder(3)
    b.other(Resize, [0], mode=mode, out=b.nodes[0].out, align_corners=align_corners and mode == "bilinear", **settings)
    assert_nodes_agree(b.graph(1), torch.randn(2, 3, 7, 9))


def test_a_convolution_worked_by_hand():
    """acc = (138 - 128) * 3 + (118 - 128) * -2 = 50; v = 50 * (0.1 * 0.5 / 0.25) + (1 / 0.25 + 7) = 21, and
    (128 - 128) * ... = 0 gives 4 + 7 = 11; ReLU6 ends at rint(6 / 0.25) + 7 = 31."""
    weight = ConvWeight(torch.tensor([[[[3]], [[-2]]]], dtype=torch.int8), torch.tensor([0.5]), torch.tensor([1.0]))
    nodes = (
        Input("x", (), Range(0.1, 128), 2),
        Conv("c", (0,), Range(0.25, 7), 1, ending=Ending("relu6")),
    )
    graph = Graph(nodes, (1,), (False,), {"c": weight})
    x = torch.tensor([[[[1.0, 0.0, 12.7, -9.0]], [[-1.0, 0.0, -9.0, 9.0]]]])
    codes = reference.evaluate(graph, x)
    assert codes[0].flatten().tolist() == [138, 128, 255, 38, 118, 128, 38, 218]
    assert codes[1].flatten().tolist() == [21, 11, 31, 7]
    assert reference.run(graph, x)[0].flatten().tolist() == [3.5, 1.0, 6.0, 0.0]


def test_halves_are_rounded_to_even():
    graph = Graph((Input("x", (), Range(1.0, 100), 1),), (0,), (False,))
    codes = reference.evaluate(graph, torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]).view(1, 1, 1, 5))
    assert codes[0].flatten().tolist() == [100, 102, 102, 100, 98]


def test_the_order_of_features():
    """Output after output, and in each of them pixel after pixel, the channels of a pixel side by side."""
    b = Builder(2)
    b.other(Pool, [0], kind="average", kernel=(1, 1), adaptive=True, out=Range(0.02, 128))
    graph = b.graph(0, 1, flat=(False, True))
    x = torch.tensor([[[[0.0, 0.2, 0.4]], [[1.0, 1.2, 1.4]]]])
    got = reference.convnet(graph, x)
    torch.testing.assert_close(got, torch.tensor([[0.0, 1.0, 0.2, 1.2, 0.4, 1.4, 0.2, 1.2]]))


def test_images_that_are_no_numbers():
    graph = every_kind()
    x = torch.randn(3, 3, 9, 9)
    clean = reference.convnet(graph, x)
    x[1, 2, 3, 4] = torch.nan
    x[2, 0] = torch.inf
    got = reference.convnet(graph, x)
    assert torch.equal(got[0], clean[0])
    assert got[1].isnan().all()
    high = x.clone()
    high[2, 0] = 1e30
    assert torch.equal(got[2], reference.convnet(graph, high)[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_floats_and_strides(dtype):
    graph = every_kind()
    x = torch.randn(2, 3, 9, 11).to(dtype)
    want = reference.convnet(graph, x.float())
    assert torch.equal(reference.convnet(graph, x), want)
    assert torch.equal(reference.convnet(graph, x.to(memory_format=torch.channels_last)), want)


def test_what_does_not_fit():
    graph = every_kind()
    with pytest.raises(RuntimeError, match=r"must be \[N, 3, H, W\] of float32.*\[2, 4, 9, 9\]"):
        reference.convnet(graph, torch.randn(2, 4, 9, 9))
    with pytest.raises(RuntimeError, match="float64"):
        reference.convnet(graph, torch.randn(2, 3, 9, 9).double())
    b = Builder()
    b.conv(0, 4, kernel=(5, 5))
    with pytest.raises(ValueError, match="images of 4 x 9 pixels are too small: conv1 is given 4 x 9"):
        reference.convnet(b.graph(1), torch.randn(1, 3, 4, 9))
    with pytest.raises(ValueError, match="conv1 has 2 x 1 pixels where its linear layer needs one"):
        reference.convnet(b.graph(1, flat=(True,)), torch.randn(1, 3, 6, 5))


def test_a_table_by_its_formula():
    got = table(Ending("sigmoid"), Range(0.1, 128), Range(1 / 255, 0))
    want = [round(255 / (1 + 2.718281828459045 ** (-(q - 128) * 0.1))) for q in range(256)]
    assert got.tolist() == want
