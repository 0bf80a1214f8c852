"""What may be too large for the rounding behind the sums of a convolution, and what may not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kdnative.formats.convnet.graph import Conv, ConvWeight, Ending, Graph, Input, Pool, Range
from kdnative.formats.convnet.pack import pack
from kdnative.nn import ConvNet
from tests.convnets import Builder


def network(scale: float, ending: Ending, out: Range | None, bias: float = 0.0) -> Graph:
    """One weight of 127 steps on one channel: results from 0 to 255 * 127 * scale."""
    q = torch.full((1, 1, 1, 1), 127, dtype=torch.int8)
    weight = ConvWeight(q, torch.tensor([scale]), torch.tensor([bias]))
    nodes = (Input("x", (), Range(1.0, 0), 1), Conv("conv", (0,), out, 1, ending=ending))
    return Graph(nodes, (1,), (False,), {"conv": weight})


def test_real_results_are_as_large_as_fp32_is():
    net = ConvNet.from_graph(network(1e6, Ending(), None))
    assert net(torch.full((1, 1, 1, 1), 255.0)).item() == torch.tensor(255 * 127.0).mul(1e6).item() > 2**30
    with pytest.raises(ValueError, match="conv: results may become .*e.38, and fp32 ends at 3.4e.38"):
        pack(network(1e34, Ending(), None, 2e38))


@pytest.mark.parametrize(("step", "fits"), [(1.0, True), (1e-8, False)])
def test_codes_are_bounded(step, fits):
    refused(network(1.0, Ending(), Range(step, 0)), fits)


@pytest.mark.parametrize(("step", "fits"), [(1e-4, True), (1e-5, False)])
def test_hard_swish_is_bounded_behind_its_product(step, fits):
    """32,385 before it are few; divided by the step of the result they are 2^28 or 2^31."""
    refused(network(1.0, Ending("hard_swish"), Range(step, 0)), fits)


@pytest.mark.filterwarnings("error")
def test_infinity_goes_without_warnings():
    """In the scale of a channel whose codes are all zero, and in a table."""
    graph = network(3e38, Ending("leaky_relu", (1e300,), Range(1.0, 128)), Range(1e-20, 0))
    (weight,) = graph.weights.values()
    weight.q.zero_()
    weight.scale.mul_(1.1)
    source = Input("x", (), Range(4.0, 0), 1)
    pack(replace(graph, nodes=(source, *graph.nodes[1:])))


@pytest.mark.parametrize(("step", "fits"), [(1e-6, True), (1e-7, False)])
def test_averages_are_bounded(step, fits):
    b = Builder(1, Range(1.0, 0))
    b.other(Pool, [0], out=Range(step, 0), kind="average", kernel=(2, 2))
    refused(b.graph(1), fits)


@pytest.mark.parametrize(
    ("window", "words"),
    [
        ({"kernel": (65, 65)}, "a kernel of 65 x 65 pixels; 4096 pixels are allowed"),
        ({"kernel": (64, 64), "stride": (1, 4097)}, "a stride of 1 x 4097 pixels; 4096 a side are allowed"),
        ({"kernel": (1, 2100), "padding": (0, 1025)}, "a padding or dilation of more than 1024 pixels"),
        ({"kernel": (4097, 1), "adaptive": True}, "an adaptive pooling to 4097 x 1 pixels; 4096 a side are allowed"),
        ({"kernel": (64, 64), "stride": (1, 4096)}, None),
        ({"kernel": (1, 2100), "padding": (0, 1024)}, None),
        ({"kernel": (4096, 1), "adaptive": True}, None),
    ],
)
@pytest.mark.parametrize("kind", ["max", "average"])
def test_windows_of_poolings_are_those_that_kernels_have(kind, window, words):
    b = Builder(1)
    b.other(Pool, [0], out=b.nodes[0].out, kind=kind, **window)
    if words is None:
        x = torch.zeros(0, 1, *window["kernel"])
        assert ConvNet.from_graph(b.graph(1))(x).shape[0] == 0  # the kernels know the window too
        return
    with pytest.raises(ValueError, match=f"pool1: the kernels can't run {words}"):
        pack(b.graph(1))


@pytest.mark.parametrize(("stride", "fits"), [(4096, True), (4097, False)])
def test_strides_of_convolutions_are_those_that_kernels_have(stride, fits):
    b = Builder(1)
    graph = b.graph(b.conv(0, 1, stride=(stride, 1)))
    if fits:
        assert ConvNet.from_graph(graph)(torch.zeros(1, 1, 2, 2)).shape == (1, 1, 1, 2)
        return
    with pytest.raises(ValueError, match="a stride of 4097 x 1 pixels; 4096 a side are allowed"):
        pack(graph)


def refused(graph: Graph, fits: bool) -> None:
    if fits:
        pack(graph)
        return
    with pytest.raises(ValueError, match=r": results may become .* which is more than kernels take \(2\^30\)"):
        pack(graph)
