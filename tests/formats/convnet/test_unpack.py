"""Integer weights come back from the packed form, which is not larger than arithmetic says."""

import dataclasses

import pytest
import torch

from kdnative.formats.convnet.graph import Concat, Range
from kdnative.formats.convnet.pack import pack
from kdnative.formats.convnet.unpack import packed_bytes, unpack
from tests.convnets import Builder, every_kind


def one(inputs, outputs, groups=1, kernel=(3, 2), before=8):
    """A network with a convolution in the middle, and one that is a stem."""
    b = Builder(before)
    x = b.conv(0, inputs)
    b.conv(x, outputs, groups=groups, kernel=kernel, padding=(3, 3, 3, 3))
    return b.graph(2)


SHAPES = [
    (1, 1, 1), (3, 7, 1), (24, 116, 1), (5, 64, 1), (5, 65, 1), (7, 200, 1), (4, 96, 1),  # dense
    (24, 48, 3), (24, 8, 4), (24, 6, 6), (24, 136, 8), (24, 12, 12), (24, 48, 24), (116, 58, 2), (60, 60, 4),  # groups
    (1, 1, 1), (3, 3, 3), (24, 24, 24), (116, 116, 116), (64, 64, 64),  # depthwise
]  # fmt: skip


@pytest.mark.parametrize("kernel", [(1, 1), (3, 2), (5, 7)])
@pytest.mark.parametrize("shape", SHAPES)
def test_round_trip(shape, kernel):
    for graph in (one(*shape, kernel), one(*shape, kernel, before=3)):
        assert_comes_back(graph)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_first_convolution(channels):
    b = Builder(channels)
    b.conv(0, 20, kernel=(7, 5))
    assert_comes_back(b.graph(1))


def test_every_kind():
    assert_comes_back(every_kind())
    b = Builder()
    b.other(Concat, [b.conv(0, 1, out=Range(0.01 * (i + 1), i)) for i in range(60)], 60)
    assert_comes_back(b.graph(61))


def assert_comes_back(graph):
    packed = pack(graph)
    found = unpack(packed, dataclasses.replace(graph, weights={}))
    assert found.keys() == graph.weights.keys()
    for name, weight in graph.weights.items():
        assert torch.equal(found[name], weight.q)
    assert packed.untyped_storage().nbytes() == packed.numel() <= packed_bytes(graph)


def test_another_buffer():
    with pytest.raises(ValueError, match="not one of this network"):
        unpack(torch.zeros(100, dtype=torch.uint8), every_kind())
