"""kdnative::convnet: every kind of node, bit for bit as the oracle in torch has it."""

import numpy as np
import pytest
import torch

from kdnative import ops
from kdnative.formats.convnet import layout, pack, sizes
from kdnative.formats.convnet.graph import (
    Add,
    Channels,
    Concat,
    ConvWeight,
    Ending,
    Lookup,
    Multiply,
    Pool,
    Range,
    Resize,
)
from kdnative.ops.reference_convnet import convnet
from tests.convnets import PICTURE, USUAL, Builder, every_kind

GATE = Range(1 / 255, 0)


def feature_count(graph, height, width):
    found = sizes.sizes(graph, height, width)
    return sum(found[i][0] * found[i][1] * graph.nodes[i].channels for i in graph.outputs)


def native(graph, x):
    return ops.convnet(pack.pack(graph), x, feature_count(graph, *x.shape[2:]))


def same(graph, *sizes, threads=(1,)):
    """The operator and the oracle agree on random images of these sizes."""
    packed = pack.pack(graph)
    for size in sizes:
        x = torch.randn(size)
        want = convnet(graph, x)
        for count in threads:
            torch.set_num_threads(count)
            got = ops.convnet(packed, x, feature_count(graph, *size[2:]))
            assert got.dtype == torch.float32 and got.shape == want.shape
            assert torch.equal(got, want), f"{size}, {count} threads: {(got != want).sum()} of {got.numel()} differ"


def test_every_kind_of_node(isa):
    same(every_kind(), (2, 3, 33, 47), (1, 3, 9, 8), (5, 3, 16, 16), threads=(1, 2))


@pytest.mark.parametrize("inputs,outputs", [(1, 1), (3, 7), (7, 3), (24, 116), (116, 24), (33, 65), (16, 130)])
def test_dense_convolutions(isa, inputs, outputs):
    b = Builder(inputs)
    x = b.conv(0, outputs, kernel=(3, 3), padding=(1, 1, 1, 1), ending=Ending("relu"), out=Range(0.02, 0))
    y = b.conv(x, inputs, kernel=(1, 1), residual=0)
    same(b.graph(y), (1, inputs, 1, 1), (2, inputs, 7, 5))


@pytest.mark.parametrize("channels", [1, 3, 7, 24, 116])
@pytest.mark.parametrize(
    "kernel,stride,dilation", [((3, 3), (1, 1), (1, 1)), ((5, 5), (2, 2), (1, 1)), ((2, 7), (3, 1), (2, 2))]
)
def test_depthwise_convolutions(isa, channels, kernel, stride, dilation):
    b = Builder(channels)
    settings = dict(kernel=kernel, stride=stride, dilation=dilation, groups=channels, padding=(3, 1, 2, 5))
    x = b.conv(0, channels, ending=Ending("silu", before=USUAL), **settings)
    y = b.conv(x, channels, kernel=(3, 3), groups=channels, padding="same")
    same(b.graph(y), (1, channels, 11, 13), (3, channels, 6, 17))


def test_one_channel_with_a_residual_is_no_depthwise_convolution(isa):
    b = Builder(1)
    x = b.conv(0, 1, kernel=(3, 3), padding=(1, 1, 1, 1), residual=0)
    same(b.graph(x), (2, 1, 5, 5))


@pytest.mark.parametrize("inputs,outputs,groups", [(8, 8, 2), (12, 24, 4), (64, 64, 16), (6, 9, 3), (80, 160, 2)])
def test_groups(isa, inputs, outputs, groups):
    b = Builder(inputs)
    same(
        b.graph(b.conv(0, outputs, kernel=(3, 3), padding=(1, 1, 1, 1), groups=groups)),
        (2, inputs, 7, 5),
        (1, inputs, 1, 1),
    )


@pytest.mark.parametrize("kernel,stride,padding", [((7, 7), (2, 2), (3, 3, 3, 3)), ((3, 2), (1, 3), (0, 2, 1, 0))])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_first_convolution(isa, channels, kernel, stride, padding):
    b = Builder(channels)
    x = b.conv(0, 20, kernel=kernel, stride=stride, padding=padding)
    y = b.conv(0, 8, kernel=(5, 5), padding="same", stride=(2, 2))
    same(b.graph(x, y), (2, channels, 13, 17))


@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "hard_swish"])
def test_limits_and_hard_swish(isa, activation):
    b = Builder(5)
    x = b.conv(0, 21, ending=Ending(activation), out=Range(0.025, 20))
    y = b.conv(x, 21, kernel=(3, 3), groups=21, padding=(1, 1, 1, 1), ending=Ending(activation), out=Range(0.02, 31))
    z = b.conv(y, 21, residual=x, ending=Ending(activation), out=Range(0.03, 7))
    same(b.graph(x, y, z), (2, 5, 6, 9))


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("kind", ["max", "average"])
def test_pooling(isa, kind, ceil_mode):
    for channels in (3, 70):
        b = Builder(channels)
        out = PICTURE if kind == "max" else Range(0.01, 100)
        settings = dict(kind=kind, ceil_mode=ceil_mode, out=out)
        outputs = [
            b.other(Pool, [0], kernel=(3, 3), stride=(2, 2), padding=(1, 1), **settings),
            b.other(Pool, [0], kernel=(2, 3), stride=(1, 2), count_include_pad=False, padding=(1, 0), **settings),
            b.other(Pool, [0], kernel=(3, 2), adaptive=True, **settings),
        ]
        same(b.graph(*outputs), (1, channels, 7, 8), (2, channels, 4, 5))


def test_sums_products_and_tables(isa):
    for channels in (3, 64):
        b = Builder(channels)
        x = b.other(Lookup, [0], ending=Ending("gelu"))
        y = b.other(Add, [0, x], ending=Ending("relu"), out=Range(0.05, 3))
        z = b.other(Add, [x, y], ending=Ending("mish", before=Range(0.08, 90)))
        gate = b.other(Pool, [z], kind="average", adaptive=True)
        gate = b.conv(gate, channels, ending=Ending("hard_sigmoid", before=USUAL), out=GATE)
        same(b.graph(x, y, z, b.other(Multiply, [z, gate])), (3, channels, 5, 7))


@pytest.mark.parametrize("settings", [
    dict(size=(7, 4)), dict(factor=(2.0, 2.0)), dict(factor=(1.5, 0.4)), dict(factor=(1.3, 2.3)),
    dict(mode="bilinear", size=(11, 3)), dict(mode="bilinear", factor=(2.0, 1.7)),
    dict(mode="bilinear", size=(9, 1), align_corners=True),
])  # fmt: skip
def test_resizing(isa, settings):
    b = Builder(5)
    same(b.graph(b.other(Resize, [0], out=PICTURE, **settings)), (2, 5, 5, 8), (1, 5, 3, 3))


def test_joined_maps_are_made_in_their_places(isa):
    """As in a DenseNet, where each concatenation begins as the one before it, and in a ShuffleNet."""
    b = Builder(6)
    parts = [b.conv(0, 12)]
    for width in (7, 8, 9):
        whole = b.other(Concat, parts, sum(b.nodes[i].channels for i in parts))
        parts.append(b.conv(whole, width, kernel=(3, 3), padding=(1, 1, 1, 1)))
    whole = b.other(Concat, [*parts, parts[0]], 48)
    low = b.other(Channels, [whole], 20, order=tuple(range(20)))
    high = b.other(Channels, [whole], 28, order=tuple(range(20, 48)))
    deep = b.conv(high, 28, kernel=(3, 3), groups=28, padding=(1, 1, 1, 1))
    recoded = b.other(Concat, [low, deep, parts[1]], 55, out=Range(0.05, 100))
    order = tuple(torch.randperm(55).tolist())
    same(b.graph(b.other(Channels, [recoded], 55, order=order, out=Range(0.05, 100)), whole), (2, 6, 5, 9))


@pytest.mark.parametrize("widths", [(1, 1), (2, 2), (3, 1), (30, 2)])
def test_sums_and_tables_leave_what_lies_beside_them(isa, widths):
    """A part of a joined map may have as many bytes to a pixel as the whole."""
    b = Builder(3)
    first, second = (b.conv(0, width) for width in widths)
    table = b.other(Lookup, [first], widths[0], ending=Ending("gelu"))
    total = b.other(Add, [second, b.conv(0, widths[1])], widths[1])
    whole = b.other(Concat, [table, total, first], sum(widths) + widths[0])
    turned = b.other(Concat, [b.other(Add, [second, second], widths[1]), b.conv(0, widths[0])], sum(widths))
    same(b.graph(whole, turned), (2, 3, 5, 3), (1, 3, 1, 1))


@pytest.mark.parametrize("width", [8, 7])
def test_convolutions_of_one_pixel_leave_joined_maps_where_they_are(isa, width):
    """Depthwise ones, as a BatchNorm that stands alone becomes in a DenseNet."""
    b = Builder(3)
    parts = [b.conv(0, width)]
    for _ in range(3):
        whole = b.other(Concat, parts, width * len(parts)) if len(parts) > 1 else parts[0]
        channels = width * len(parts)
        norm = b.conv(whole, channels, groups=channels, ending=Ending("relu"), out=USUAL)
        parts.append(b.conv(norm, width, kernel=(3, 3), padding=(1, 1, 1, 1)))
    parts.append(b.conv(parts[1], width, groups=width))
    whole = b.other(Concat, parts, width * len(parts))
    deep = b.conv(whole, width * 5, kernel=(3, 3), padding=(1, 1, 1, 1), groups=width * 5)
    same(b.graph(whole, deep), (2, 3, 5, 9), (9, 3, 1, 2))


def test_images_and_steps_are_shared_by_threads(isa):
    """Whole images of large maps, rows of one image, column tiles of large weights; more images than a group has."""
    b = Builder(3)
    x = b.conv(0, 24, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    x = b.conv(x, 24, kernel=(3, 3), groups=24, padding=(1, 1, 1, 1))
    y = b.conv(x, 200, kernel=(3, 3), stride=(3, 3))
    y = b.conv(y, 300, residual=b.conv(y, 300, kernel=(3, 3), padding=(1, 1, 1, 1)))
    z = b.conv(b.other(Pool, [y], kind="average", adaptive=True), 11, out=None)
    same(b.graph(x, z, y), (11, 3, 30, 28), (3, 3, 30, 30), (1, 3, 72, 50), threads=(1, 2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_images_of_any_type_and_strides(isa, dtype):
    graph = every_kind()
    x = torch.randn(2, 3, 14, 18).to(dtype)
    want = convnet(graph, x)
    for view in (
        x,
        x.contiguous(memory_format=torch.channels_last),
        x.flip(2).contiguous().flip(2),
        torch.randn(4, 3, 28, 36).to(dtype)[::2, :, ::2, ::2].copy_(x),
    ):
        assert torch.equal(native(graph, view), want)


def test_images_that_hold_nan_give_nan_and_infinity_saturates(isa):
    graph = every_kind()
    x = torch.randn(4, 3, 12, 12)
    x[1, 2, 11, 11] = torch.nan
    x[2, 0, 0, 0], x[2, 1, 5, 5] = torch.inf, -torch.inf
    got = native(graph, x)
    assert got[1].isnan().all() and not got[[0, 2, 3]].isnan().any()
    assert torch.equal(got[[0, 2, 3]], convnet(graph, x)[[0, 2, 3]])


def test_empty_batches(isa):
    assert native(every_kind(), torch.empty(0, 3, 20, 20)).shape == (0, feature_count(every_kind(), 20, 20))


def test_largest_sums_are_exact(isa):
    """Codes and weights at their ends, in the deepest sum whose result float32 still holds exactly."""
    inputs, codes = 455, torch.tensor([0.0, 255.0])
    b = Builder(inputs, out=Range(1.0, 0))
    b.conv(0, 3, kernel=(1, 1), out=None)
    q = torch.tensor([127, -127, 1], dtype=torch.int8)[:, None, None, None].repeat(1, inputs, 1, 1)
    q[2, ::2] = -127
    b.weights["conv1"] = ConvWeight(q, torch.ones(3), torch.zeros(3))
    x = torch.stack([codes[torch.randint(0, 2, (inputs, 2, 3))] for _ in range(4)])
    want = torch.einsum("nchw,oc->nhwo", x.double(), q[:, :, 0, 0].double()).flatten(1)
    assert want.abs().max() < 2**24 and torch.equal(native(b.graph(1), x).double(), want)


def test_opcheck():
    graph = every_kind()
    x = torch.randn(2, 3, 12, 9)
    torch.library.opcheck(torch.ops.kdnative.convnet.default, (pack.pack(graph), x, feature_count(graph, 12, 9)))


class TestWhatIsRefused:
    graph = every_kind()
    packed = pack.pack(graph)
    values = feature_count(graph, 12, 9)

    @pytest.mark.parametrize(
        "x,message",
        [
            (torch.zeros(1, 4, 12, 9), "x has 4 channels, but the network takes images of 3"),
            (torch.zeros(3, 12, 9), r"x must be \[N, C, H, W\] \(got shape \[3, 12, 9\]\)"),
            (torch.zeros(1, 3, 12, 9, dtype=torch.float64), "x must be float32, bfloat16 or float16"),
            (torch.zeros(1, 3, 12, 90), "but the network returns .* values for an image of 12 x 90"),
            (torch.zeros(1, 3, 0, 9), "images of 0 x 9 pixels are too small"),
            (torch.zeros(1, 3, 1, 1).expand(1, 3, 70000, 1), "70000 x 1 pixels need too much memory"),
        ],
    )
    def test_images(self, x, message):
        with pytest.raises(RuntimeError, match=message):
            ops.convnet(self.packed, x, self.values)

    @pytest.mark.parametrize(
        "change,message",
        [
            (lambda p: p[:100], "shorter than its header"),
            (lambda p: p[:-64], "truncated or has trailing bytes"),
            (lambda p: torch.cat([p, p[:64]]), "truncated or has trailing bytes"),
            (lambda p: torch.cat([p[:1] + 1, p[1:]]), "wrong magic number"),
            (lambda p: torch.cat([p[:4], p[4:5] + 1, p[5:]]), "an unknown version"),
            (lambda p: torch.cat([p[:4], p])[4:], "not 8-byte aligned"),
            (lambda p: p.view(torch.int8), "must be a contiguous uint8 tensor of one dimension"),
            (lambda p: p[None], "must be a contiguous uint8 tensor of one dimension"),
        ],
    )
    def test_buffers(self, change, message):
        with pytest.raises(RuntimeError, match=message):
            ops.convnet(change(self.packed), torch.zeros(1, 3, 12, 9), self.values)

    @pytest.mark.parametrize("number", [-1, 0, 7, 1 << 30, -(1 << 31)])
    def test_every_number_of_every_record_may_be_damaged(self, number):
        """A result or an error in words; what is read outside of the buffer shows in a sanitizer (docs/fuzzing.md)."""
        header = np.frombuffer(self.packed.numpy(), layout.HEADER, 1)[0]
        places = [(0, layout.HEADER)]
        records = np.frombuffer(self.packed.numpy(), layout.RECORD, int(header["nodes"]), int(header["node_table"]))
        places += [(int(header["node_table"]) + i * records.itemsize, layout.RECORD) for i in range(len(records))]
        places += [(int(record["tile_table"]), layout.TILE) for record in records if record["tiles"]]
        x, refused = torch.zeros(1, 3, 12, 9), 0
        for start, kind in places:
            for dtype, offset in kind.fields.values():
                damaged = self.packed.clone()
                end = start + offset + dtype.base.itemsize
                value = np.array(number).astype(dtype.base).tobytes()
                damaged[start + offset : end] = torch.frombuffer(bytearray(value), dtype=torch.uint8)
                try:
                    ops.convnet(damaged, x, self.values)
                except RuntimeError as error:
                    assert "network" in str(error), error
                    refused += 1
        assert refused > 100

    def test_sums_that_could_overflow(self):
        b = Builder(66400)
        b.conv(0, 1)
        b.weights["conv1"].q.fill_(127)
        with pytest.raises(ValueError, match="conv1.*could overflow int32"):
            pack.pack(b.graph(1))

    @pytest.mark.parametrize(
        "settings,message",
        [
            (dict(kernel=(65, 64)), "65 x 64 pixels; 4096 pixels are allowed"),
            (dict(padding=(0, 0, 1025, 0)), "a padding or dilation of more than 1024 pixels"),
            (dict(dilation=(1, 1025)), "a padding or dilation of more than 1024 pixels"),
            (dict(out=Range(1e-9, 0)), "steps of its range, which is more than kernels take"),
        ],
    )
    def test_convolutions_that_kernels_do_not_have(self, settings, message):
        b = Builder(3)
        b.conv(0, 2, **settings)
        with pytest.raises(ValueError, match=message):
            pack.pack(b.graph(1))

    def test_max_pooling_with_a_dilation(self):
        b = Builder(3)
        b.other(Pool, [0], kind="max", kernel=(2, 2), dilation=(2, 1), out=PICTURE)
        with pytest.raises(ValueError, match="max pooling has no kernel with a dilation"):
            pack.pack(b.graph(1))
