"""ConvNet as a torch module: outputs, state, copies, dtypes, devices, compile, export."""

from __future__ import annotations

import copy
import io
import json
import pickle

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from kdnative.formats.convnet.graph import Pool, Range, Resize
from kdnative.nn import ConvNet
from kdnative.ops import reference_convnet as reference
from tests.convnets import Builder, every_kind


@pytest.fixture(scope="module")
def net():
    return ConvNet.from_graph(every_kind())


def classifier(channels=3, classes=5):
    """Any size of image in, one row of numbers out."""
    b = Builder(channels)
    x = b.conv(0, 8, kernel=(3, 3), stride=(2, 2), padding="same", name="stem.0")
    mean = b.other(Pool, [x], kind="average", kernel=(1, 1), adaptive=True, out=Range(0.02, 60))
    b.conv(mean, classes, out=None, name="fc")
    return ConvNet.from_graph(b.graph(3, flat=(True,)))


def assert_same(got, want):
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype and torch.equal(a.nan_to_num(nan=9e9), b.nan_to_num(nan=9e9))


@pytest.mark.parametrize("channels", [1, 3, 7])
def test_outputs_are_those_of_the_oracle(isa, channels):
    graph = every_kind(channels)
    net = ConvNet.from_graph(graph)
    for n, h, w in ((2, 17, 23), (1, 1, 1), (0, 9, 9), (3, 64, 33)):
        x = torch.randn(n, channels, h, w)
        assert_same(net(x), reference.run(graph, x))
    x[1, 0, 5, 5], x[2, 0, 1, 1] = torch.nan, torch.inf
    assert_same(net(x), reference.run(graph, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_types_and_strides(net, dtype, layout):
    x = torch.randn(2, 3, 12, 15).to(dtype)
    want = reference.run(every_kind(), x.float())
    got = net(x.to(memory_format=layout))
    assert_same(got, [y.to(dtype) for y in want])
    assert got[0].stride(1) == 1  # channels last
    flipped = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert_same(net(flipped), got)


def test_one_output_is_no_tuple():
    net = classifier()
    y = net(torch.randn(4, 3, 20, 20))
    assert isinstance(y, torch.Tensor) and y.shape == (4, 5) and y.is_contiguous()


def test_state_dict_round_trip(net):
    graph, state = every_kind(), net.state_dict()
    assert set(state) == {f"{name}.{part}" for name in graph.weights for part in ("qweight", "scale", "bias")}
    for name, weight in graph.weights.items():
        assert torch.equal(state[f"{name}.qweight"], weight.q)
        assert torch.equal(state[f"{name}.scale"], weight.scale) and torch.equal(state[f"{name}.bias"], weight.bias)
    fresh = ConvNet.from_spec(json.loads(json.dumps(net.spec)))
    assert fresh.is_empty and not net.is_empty
    with pytest.raises(RuntimeError, match="meta"):
        fresh(torch.randn(1, 3, 9, 9))
    with pytest.raises(RuntimeError, match="empty"):
        fresh.plain()
    fresh.load_state_dict(state)
    assert torch.equal(fresh.packed, net.packed)
    assert fresh.graph == net.graph and net.graph.weights == {}


def test_load_state_dict_is_strict(net):
    net = copy.deepcopy(net)
    state, before = net.state_dict(), net.packed.clone()
    fewer = {name: tensor for name, tensor in state.items() if name != "gate.scale"}
    with pytest.raises(RuntimeError, match='Missing key.*"gate.scale"'):
        net.load_state_dict(fewer)
    with pytest.raises(RuntimeError, match='Unexpected key.*"gate.more"'):
        net.load_state_dict(state | {"gate.more": state["gate.scale"]})
    with pytest.raises(RuntimeError, match="fc.qweight must be torch.int8 of shape"):
        net.load_state_dict(state | {"fc.qweight": torch.zeros(3, 3, dtype=torch.int8)})
    with pytest.raises(RuntimeError, match="gate.bias holds NaN"):
        net.load_state_dict(state | {"gate.bias": torch.full_like(state["gate.bias"], torch.nan)})
    assert torch.equal(net.packed, before)
    some = {"gate.bias": state["gate.bias"] + 1}
    result = net.load_state_dict(some, strict=False)
    assert "gate.scale" in result.missing_keys and not torch.equal(net.packed, before)
    assert torch.equal(net.state_dict()["gate.bias"], some["gate.bias"])
    assert torch.equal(net.state_dict()["fc.bias"], state["fc.bias"])
    with pytest.raises(RuntimeError, match="it is empty, so all of its tensors are needed"):
        ConvNet.from_spec(net.spec).load_state_dict(some, strict=False)


def test_below_a_parent(net):
    parent = torch.nn.Sequential(torch.nn.Identity(), copy.deepcopy(net))
    other = torch.nn.Sequential(torch.nn.Identity(), ConvNet.from_spec(net.spec))
    other.load_state_dict(parent.state_dict())
    assert torch.equal(other[1].packed, net.packed)
    assert list(parent.parameters()) == []


def test_copies_pickles_and_shared_memory(net):
    x = torch.randn(2, 3, 9, 9)
    want = net(x)
    saved = io.BytesIO()
    torch.save(net, saved)
    saved.seek(0)
    copies = copy.deepcopy(net), pickle.loads(pickle.dumps(net)), torch.load(saved, weights_only=False)
    for other in (*copies, copy.deepcopy(net).share_memory()):
        assert_same(other(x), want)
        assert other.spec == net.spec and torch.equal(other.state_dict()["fc.scale"], net.state_dict()["fc.scale"])


def test_other_types_and_devices_for_the_module(net):
    net = copy.deepcopy(net)
    state = net.state_dict()
    net.half().bfloat16().double().to(torch.float16)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    with pytest.raises(RuntimeError, match=r"can't move to cuda.*kernels of convolutions for the CPU alone"):
        net._apply(lambda t: FakeCuda())
    net.to("meta")
    assert net.is_empty and net.state_dict()["fc.qweight"].is_meta
    with pytest.raises(NotImplementedError, match="is empty"):
        net.to("cpu")
    net.load_state_dict(state)
    assert not net.is_empty


class FakeCuda:
    device = torch.device("cuda")


def test_whatever_the_default_device_is(net):
    with torch.device("meta"):
        other = ConvNet.from_graph(net.plain())
        empty = ConvNet.from_spec(net.spec)
        empty.load_state_dict(other.state_dict())
    assert torch.equal(other.packed, net.packed) and torch.equal(empty.packed, net.packed)


def test_gradients_are_refused(net):
    x = torch.randn(1, 3, 9, 9, requires_grad=True)
    with pytest.raises(RuntimeError, match="ConvNet is for inference and its input requires grad"):
        net(x)
    with torch.no_grad():
        assert not net(x)[0].requires_grad


def test_bad_images(net):
    with pytest.raises(RuntimeError, match=r"takes images \[N, C, H, W\] of floats, got torch.uint8 of \[1, 3, 9, 9\]"):
        net(torch.zeros(1, 3, 9, 9, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match=r"got torch.float32 of \[3, 9, 9\]"):
        net(torch.zeros(3, 9, 9))
    with pytest.raises(RuntimeError, match="channels"):
        net(torch.zeros(1, 4, 9, 9))
    b = Builder()
    b.conv(0, 4, kernel=(5, 5))
    small = ConvNet.from_graph(b.graph(1))
    with pytest.raises(ValueError, match="images of 4 x 9 pixels are too small: conv1 is given 4 x 9 pixels"):
        small(torch.randn(1, 3, 4, 9))


def test_many_sizes(net):
    """Sizes are remembered, and not without bound."""
    net = copy.deepcopy(net)
    for width in range(1, 80):
        x = torch.randn(1, 3, 3, width)
        assert_same(net(x), reference.run(every_kind(), x)) if width % 20 == 0 else net(x)
    assert len(net._places_of) <= 64


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_breaks(net, dynamic):
    """Once for each size, or once for all."""
    torch._dynamo.reset()
    frames = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(net, fullgraph=True, dynamic=dynamic, backend=frames)
    for n, h, w in ((2, 17, 23), (3, 20, 9)):
        x = torch.randn(n, 3, h, w)
        with torch.no_grad():
            assert_same(compiled(x), net(x))
    assert frames.frame_count == (1 if dynamic else 2)


def head():
    """A linear layer over a flattened map of one size, 8 x 8."""
    b = Builder()
    return ConvNet.from_graph(b.graph(b.conv(0, 5, kernel=(8, 8), out=None, name="fc"), flat=(True,)))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("height,width", [(10, 10), (8, 9), (16, 8)])
def test_images_that_do_not_fit_are_none_compiled_either(dynamic, height, width):
    net = head()
    torch._dynamo.reset()
    compiled = torch.compile(net, dynamic=dynamic, backend="aot_eager")
    x, fits = torch.randn(2, 3, height, width), torch.randn(2, 3, 8, 8)
    for run in (net, compiled):
        with torch.no_grad(), pytest.raises(ValueError, match="fc has .* pixels where its linear layer needs one"):
            run(x)
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(fits), net(fits))
    with torch.no_grad(), pytest.raises(Exception, match="ValueError"):  # dynamo's own, from a whole graph
        compiled(x)


def test_one_size_is_exported():
    net, dims = head(), {2: torch.export.Dim("h", min=4), 3: torch.export.Dim("w", min=4)}
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(torch.export.export(net, (x,)).module()(x), net(x))
    with pytest.raises(Exception, match="h == 8|specialized it to be a constant \\(8\\)"):
        torch.export.export(net, (x,), dynamic_shapes={"x": dims})


def test_what_is_returned_twice():
    """A map as it is and flat, and real numbers."""
    b = Builder()
    x = b.other(Pool, [b.conv(0, 4)], kind="average", kernel=(1, 1), adaptive=True)
    y = b.conv(x, 5, out=None)
    graph = b.graph(y, x, y, x, flat=(True, False, True, True))
    net, images = ConvNet.from_graph(graph), torch.randn(2, 3, 6, 7)
    assert_same(net(images), reference.run(graph, images))
    first, map_, second, row = net(images)
    assert torch.equal(first, second) and map_.shape == (2, 4, 1, 1) and torch.equal(map_.flatten(1), row)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert_same(compiled(images), net(images))
    assert ConvNet.from_spec(net.spec).load_state_dict(net.state_dict())


def test_real_numbers_that_nobody_gets_are_refused():
    b = Builder()
    b.conv(0, 4, out=None, name="unused")
    with pytest.raises(ValueError, match="unused gives real numbers and is no output"):
        ConvNet.from_graph(b.graph(b.conv(0, 4)))


def test_exports():
    net = classifier()
    x = torch.randn(2, 3, 20, 24)
    assert torch.equal(torch.export.export(net, (x,)).module()(x), net(x))
    dims = {0: torch.export.Dim("n"), 2: torch.export.Dim("h", min=2), 3: torch.export.Dim("w", min=2)}
    program = torch.export.export(net, (x,), dynamic_shapes={"x": dims})
    other = torch.randn(5, 3, 33, 21)
    assert torch.equal(program.module()(other), net(other))


def test_exports_maps_of_symbolic_sizes():
    b = Builder()
    b.other(Resize, [b.conv(0, 4, kernel=(3, 3), stride=(2, 2), padding="same")], factor=(2.0, 2.0))
    net = ConvNet.from_graph(b.graph(2))
    dims = {2: torch.export.Dim("h", min=4), 3: torch.export.Dim("w", min=4)}
    program = torch.export.export(net, (torch.randn(2, 3, 16, 20),), dynamic_shapes={"x": dims})
    x = torch.randn(2, 3, 31, 17)
    assert torch.equal(program.module()(x), net(x))


def test_bad_specs(net):
    with pytest.raises(ValueError, match="entry 'graph' alone"):
        ConvNet.from_spec({**net.spec, "more": 1})
    spec = json.loads(json.dumps(net.spec))
    spec["graph"]["nodes"][1]["channels"] = 23
    with pytest.raises(ValueError, match="channels"):
        ConvNet.from_spec(spec)
    assert "convolutions" in repr(net)
