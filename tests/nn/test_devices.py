"""Modules that move: their weights are laid out again for the device where they go, or the move is refused in words."""

import copy
import importlib.util
import pickle
import warnings

import pytest
import torch
from torch import nn

from kdnative.formats import Scheme, dense
from kdnative.formats.layouts import Dense
from kdnative.nn import Embedding, EncoderLayer, Linear, MultiheadAttention, laid_out
from kdnative.ops import backends
from kdnative.ops.backends import CPU, Backend, backend_for

SCHEMES = ("w8a8", "w4a8-g32-asym", "w4a8-g64-int", "w2a16-g32", "w8a8+mask")


class Shifted(Dense):
    """A toy layout: the bytes of the dense one, each with all bits turned over."""

    def pack(self, weight, bias):
        return ~super().pack(weight, bias)

    def unpack(self, packed):
        return super().unpack(~packed)

    def bias(self, packed):
        return super().bias(~packed)


class Toy(Backend):
    def layout(self, scheme, shape=None, bias=True):
        return Shifted()

    def operator(self, scheme):
        return f"toy_{scheme}"


TOY = Toy("toy", ["w8a8", "w4a8-g32-asym", "w4a8-g64-int"], fused=False)


def move(module, backend):
    """What ``module.to(device)`` does where torch knows a device of this backend; tensors stay where they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(laid_out, "target_of", lambda fn, tensor: torch.device("xpu"))
        for kind in ("xpu", "cpu"):
            patch.setitem(backends._BACKENDS, kind, backend)
        return module._apply(lambda tensor: tensor)


def float_linear(scheme="w8a8"):
    torch.manual_seed(0)
    linear = nn.Linear(128, 33)
    if "+" in scheme:
        with torch.no_grad():
            linear.weight[:, ::3] = 0
    return linear


@pytest.mark.parametrize("scheme", SCHEMES)
def test_meta_and_back(scheme):
    """Values do not survive the meta device, so the way back is refused; a state dict fills the module again."""
    module = Linear.from_float(float_linear(scheme), scheme)
    state, packed = {k: v.clone() for k, v in module.state_dict().items()}, module.packed.clone()
    assert module.to("cpu") is module and torch.equal(module.packed, packed)
    module.to("meta")
    assert module.is_empty and {k: v.shape for k, v in module.state_dict().items()} == {
        k: v.shape for k, v in state.items()
    }
    for move in (lambda: module.to("cpu"), module.cpu, lambda: nn.Sequential(module).to("cpu")):
        with pytest.raises(NotImplementedError, match=r"kdnative\.nn\.Linear is empty.*Load a state dict"):
            move()
    module.load_state_dict(state)
    assert torch.equal(module.packed, packed) and module.packed.device.type == "cpu"


@pytest.mark.parametrize("scheme", ["w8a8", "w4a8-g32-asym", "w4a8-g64-int"])
def test_another_layout_is_another_form_of_the_same_weight(scheme):
    module, x = Linear.from_float(float_linear(), scheme), torch.randn(3, 128)
    before, state = module.packed.clone(), {k: v.clone() for k, v in module.state_dict().items()}
    operator, expected = module._operator, module(x)
    assert move(module, TOY) is module
    assert module.layout == Shifted() and module._operator == f"toy_{scheme}" and torch.equal(~module.packed, before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backends._BACKENDS, "cpu", TOY)
        twins = module, copy.deepcopy(module)
    for twin in twins:
        assert twin.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[key]) for key, value in twin.state_dict().items())
        move(twin, CPU)
        assert (twin.layout, twin._operator) == (Dense(), operator) and torch.equal(twin.packed, before)
        assert torch.equal(twin(x), expected)


def test_where_memory_runs_out_the_module_keeps_its_layout(monkeypatch):
    """It moved as it was: a move back needs no memory, and another try lays it out."""
    module, x = Linear.from_float(float_linear()), torch.randn(3, 128)
    expected, packed = module(x), module.packed.clone()

    def full(self, weight, bias):
        raise torch.OutOfMemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(Shifted, "pack", full)
        with pytest.raises(torch.OutOfMemoryError):
            move(module, TOY)
    assert module.layout == Dense() and torch.equal(module.packed, packed)
    assert torch.equal(move(copy.deepcopy(module), CPU)(x), expected)
    assert torch.equal(~move(module, TOY).packed, packed)


def test_a_pickle_is_laid_out_where_it_is_loaded():
    """As torch.load(map_location="cpu") does it with what was saved from another device."""
    module, x = Linear.from_float(float_linear()), torch.randn(3, 128)
    expected, packed = module(x), module.packed.clone()
    twin = pickle.loads(pickle.dumps(move(module, TOY)))
    assert twin.layout == Dense() and torch.equal(twin.packed, packed) and torch.equal(twin(x), expected)
    assert torch.equal(module.to("cpu").packed, packed), "advice of errors: .cpu()"


def test_a_scheme_that_the_other_device_lacks_is_refused():
    """Before the module moves, but not before those that come earlier in its model."""
    model = nn.Sequential(*(Linear.from_float(float_linear(), scheme) for scheme in ("w8a8", "w2a16-g32")))
    before = [module.packed.clone() for module in model]
    words = r"Linear can't move to xpu: unknown scheme 'w2a16-g32'.*Allowed: w8a8, w4.*Call \.cpu\(\) on the model to"
    with pytest.raises(RuntimeError, match=words):
        move(model, TOY)
    assert [module.layout for module in model] == [Shifted(), Dense()] and torch.equal(model[1].packed, before[1])
    move(model, CPU)
    assert all(torch.equal(module.packed, packed) for module, packed in zip(model, before, strict=True))


def test_devices_without_kernels_are_named():
    module = Linear.from_float(float_linear())
    with pytest.warns(UserWarning, match="no kernels of w8a8 for xpu:1: its linears run in plain torch there"):
        module._refuse(torch.device("xpu:1"))
    with pytest.warns(UserWarning, match="no kernels of w2a16-g32 for cuda:1: its linears run in plain torch there"):
        Linear.from_float(float_linear(), "w2a16-g32")._refuse(torch.device("cuda:1"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module._refuse(torch.device("cuda:1"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("scheme", ["w8a8", "w4a8-g64-int", "w8a8+mask", "w8a8+4x1"])
def test_on_a_gpu_int8_linears_give_the_bits_of_the_cpu(scheme):
    module = Linear.from_float(float_linear(scheme), scheme)
    x, packed = torch.randn(20, 128), module.packed.clone()
    want = module(x)
    module.cuda()
    assert module.packed.is_cuda and torch.equal(module(x.cuda()).cpu(), want)
    assert torch.equal(Linear.from_float(float_linear(scheme).cuda(), scheme).packed, module.packed)
    with pytest.raises(RuntimeError, match="weights on cuda:0, but its input is on cpu"):
        module(x)
    assert torch.equal(module.cpu().packed, packed) and torch.equal(module(x), want)


def test_a_gpu_that_is_too_old_is_refused_at_the_move(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    module = Linear.from_float(float_linear())
    words = r"can't move to cuda:1: Tesla T4 has compute capability 7\.5.*need 8\.0: set KDNATIVE_GPU_KERNELS=reference"
    with pytest.raises(RuntimeError, match=words):
        module._refuse(torch.device("cuda:1"))
    if importlib.util.find_spec("triton"):
        from kdnative.ops.backends.triton.backend import TRITON

        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match=words):
            patch.setitem(backends._BACKENDS, "cuda", TRITON)
            module._refuse(torch.device("cuda:1"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    module._refuse(torch.device("cuda:1"))


def test_encoders_stay_where_fused_kernels_are(monkeypatch):
    layer = {"heads": 4, "head_dim": 8, "ffn": 64, "scaling": 0.35}
    layer |= dict.fromkeys(("qkv", "output", "ffn_in", "ffn_out"), "w8a8")
    spec = {"embeddings": False, "hidden_size": 32, "activation": "gelu", "eps": 1e-5, "layers": [layer]}
    encoder = EncoderLayer.from_spec(spec)
    state = {name: torch.ones(t.shape, dtype=t.dtype) for name, t in encoder.state_dict().items()}
    encoder.load_state_dict(state)
    packed = encoder.packed

    def to_cuda(tensor):  # as Module.to gives it, on a machine that has one
        return type("There", (), {"device": torch.device("cuda:0")})()

    with pytest.raises(
        RuntimeError, match=r"EncoderLayer can't move to cuda:0: kdnative has no fused kernels.*Call \.cpu\(\)"
    ):
        encoder._apply(to_cuda)
    assert encoder.packed is packed
    assert encoder.to("meta").is_empty
    with pytest.raises(NotImplementedError, match=r"kdnative\.nn\.EncoderLayer is empty"):
        encoder.to("cpu")


def test_embeddings_and_attentions_move_like_their_parts():
    table = Embedding.from_float(nn.Embedding(9, 8))
    state = {k: v.clone() for k, v in table.state_dict().items()}
    assert table.to("meta").is_empty
    table.load_state_dict(state)
    assert torch.equal(table.qweight, state["qweight"])
    attention = MultiheadAttention(32, 4)
    with pytest.raises(NotImplementedError, match="is empty"):
        attention.to("cpu")


def test_pickles_keep_the_layout():
    module = Linear.from_float(float_linear("w8a8+mask"), "w8a8+mask")
    twin = pickle.loads(pickle.dumps(module))
    assert twin.layout == module.layout == backend_for("cpu").layout(Scheme.parse("w8a8+mask"))
    assert torch.equal(twin.packed, module.packed) and twin.scheme == module.scheme


def test_a_weight_is_laid_out_where_it_is():
    """Packing happens on the device of the weight; a module that has one stays where it is."""
    plain = Linear.from_float(float_linear()).quantized()
    assert dense.pack(plain).device == plain.qweight.device
    on_meta = plain.to("meta")
    assert on_meta.qweight.is_meta and on_meta.bits == 8
