"""Small networks of convolutions, made by hand or at random, for tests that need one."""

import math

import torch
from torch import nn

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
    Pool,
    Range,
    Resize,
)
from kdnative.nn import ConvNet

PICTURE, USUAL = Range(0.02, 128), Range(0.03, 120)


class Builder:
    """Appends nodes with random weights and gives their numbers."""

    def __init__(self, channels=3, out=PICTURE, seed=0):
        self.nodes, self.weights = [], {}
        self.generator = torch.Generator().manual_seed(seed)
        self.add(Input("x", (), out, channels))

    def add(self, node):
        self.nodes.append(node)
        return len(self.nodes) - 1

    def conv(self, x, channels, *, out=USUAL, residual=None, name=None, **settings):
        name = name or f"conv{len(self.nodes)}"
        inputs = (x,) if residual is None else (x, residual)
        node = Conv(name, inputs, out, channels, **settings)
        shape = (channels, self.nodes[x].channels // node.groups, *node.kernel)
        q = torch.randint(-127, 128, shape, generator=self.generator).to(torch.int8)
        # Results of about 1, whatever the fan-in is.
        scale = (torch.rand(channels, generator=self.generator) + 0.5) / (73 * math.prod(shape[1:]) ** 0.5)
        self.weights[name] = ConvWeight(q, scale, torch.randn(channels, generator=self.generator) * 0.3)
        return self.add(node)

    def other(self, cls, inputs, channels=None, *, out=USUAL, **settings):
        channels = self.nodes[inputs[0]].channels if channels is None else channels
        return self.add(cls(f"{cls.__name__.lower()}{len(self.nodes)}", tuple(inputs), out, channels, **settings))

    def graph(self, *outputs, flat=None):
        flat = (False,) * len(outputs) if flat is None else flat
        return Graph(tuple(self.nodes), outputs, flat, self.weights)


def every_kind(channels=3, width=24, classes=7):
    """A network that has every kind of node, and two outputs: a map, and logits."""
    b = Builder(channels)
    positive = Range(0.01, 0)
    stem = b.conv(0, width, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1), ending=Ending("relu6"), out=positive)
    wide = b.conv(stem, 2 * width, ending=Ending("hard_swish"))
    deep = b.conv(wide, 2 * width, kernel=(5, 3), padding="same", groups=2 * width, stride=(2, 1))
    silu = b.other(Lookup, [deep], ending=Ending("silu"))
    pooled = b.other(Pool, [silu], kind="average", kernel=(1, 1), adaptive=True)
    squeezed = b.conv(pooled, 8, ending=Ending("relu"), out=positive)
    gate = b.conv(
        squeezed, 2 * width, ending=Ending("sigmoid", before=Range(0.05, 128)), out=Range(1 / 255, 0), name="gate"
    )
    excited = b.other(Multiply, [silu, gate])
    small = b.other(Pool, [stem], out=positive, kind="max", kernel=(3, 1), stride=(2, 1), padding=(1, 0))
    mixed = b.conv(excited, width, residual=small, ending=Ending("gelu", before=Range(0.06, 100)), name="mixed")
    grouped = b.conv(mixed, width, kernel=(3, 3), dilation=(2, 2), padding=(2, 2, 2, 2), groups=2)
    added = b.other(Add, [mixed, grouped], out=Range(0.05, 110), ending=Ending("relu"))
    shuffled = b.other(Channels, [added], out=Range(0.05, 110), order=tuple(range(width - 1, -1, -1)))
    both = b.other(Concat, [shuffled, grouped], 2 * width, out=Range(0.05, 110))
    twice = b.other(Resize, [both], out=Range(0.05, 110), factor=(2.0, 2.0))
    mean = b.other(Pool, [both], kind="average", kernel=(1, 1), adaptive=True, out=Range(0.02, 60))
    logits = b.conv(mean, classes, out=None, name="fc")
    return b.graph(twice, logits, flat=(False, True))


def small():
    """A native network that `small_floats` might have become."""
    b = Builder()
    x = b.conv(0, 8, kernel=(3, 3), ending=Ending("relu"), out=Range(0.01, 0), name="0")
    mean = b.other(Pool, [x], kind="average", kernel=(1, 1), adaptive=True, out=Range(0.01, 0))
    b.conv(mean, 3, out=None, name="4")
    return ConvNet.from_graph(b.graph(3, flat=(True,)))


def small_floats():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
