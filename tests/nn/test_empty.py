"""Native modules without weights: made from shapes, filled later, and never packed from zeros."""

import copy
import pickle

import pytest
import torch
from torch import nn

from kdnative.formats import Scheme, dense
from kdnative.nn import Embedding, EncoderLayer, Linear, MultiheadAttention, TransformerEncoder, encoder_format
from kdnative.nn.encoder_parts import EncoderParts
from kdnative.quantize import quantize_weight

SCHEMES = ("w8a8", "w8a16", "w4a8-g32", "w4a16-g64-asym", "w4a8-g128-int", "w2a8-g32-asym", "w8a8+mask", "w8a8+4x1")
DENSE = tuple(scheme for scheme in SCHEMES if "+" not in scheme)


def float_linear(k=128, n=33, bias=True):
    torch.manual_seed(0)
    return nn.Linear(k, n, bias)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_linear(scheme):
    source, empty = float_linear(), Linear(128, 33, scheme)
    assert empty.is_empty and empty.packed.is_meta
    for twin in (empty, copy.deepcopy(empty), pickle.loads(pickle.dumps(empty)), Linear(128, 33, scheme).half()):
        with pytest.raises(RuntimeError, match=r"kdnative\.nn\.Linear is empty: it has shapes and no weights"):
            twin(torch.randn(2, 128))
        for values in (twin.quantized, twin.plain_state, lambda twin=twin: twin.weight.clone()):
            with pytest.raises(RuntimeError, match="is empty"):
                values()
        assert twin.weight.shape == (33, 128) and twin.bias.shape == (33,)
        assert twin(torch.randn(2, 128, device="meta")).shape == (2, 33)
        full = Linear.from_float(source, scheme)
        shapes = {key: (value.shape, value.dtype) for key, value in full.state_dict().items()}
        assert {key: (value.shape, value.dtype) for key, value in twin.state_dict().items()} == shapes
        assert all(value.is_meta for value in twin.state_dict().values())
        twin.load_state_dict(full.state_dict())
        assert not twin.is_empty and torch.equal(twin.packed, full.packed)


@pytest.mark.parametrize("scheme", DENSE)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 128), (33, 384), (64, 1152)])
def test_the_size_of_packed_weights_is_known_before_them(scheme, bias, shape):
    n, k = shape
    full = Linear.from_float(float_linear(k, n, bias), scheme)
    assert Linear(k, n, scheme, bias).packed.numel() == full.packed.numel()


def test_the_size_for_inputs_that_are_no_multiple_of_a_tile():
    for k in (1, 31, 65, 96):
        full = Linear.from_float(float_linear(k, 5))
        assert Linear(k, 5).packed.numel() == full.packed.numel()
    assert Linear(96, 5, "w4a8-g32").packed.numel() == Linear.from_float(float_linear(96, 5), "w4a8-g32").packed.numel()


def test_a_part_of_the_tensors_is_not_enough():
    state = Linear.from_float(float_linear()).state_dict()
    empty = Linear(128, 33)
    with pytest.raises(RuntimeError, match="it is empty, so all of its tensors are needed; missing: scale"):
        empty.load_state_dict({key: value for key, value in state.items() if key != "scale"}, strict=False)
    with pytest.raises(RuntimeError, match="missing: bias"):
        empty.load_state_dict({"weight": float_linear().weight}, strict=False)
    assert empty.is_empty


def test_moving_an_empty_module_moves_nothing():
    for module, words in ((Linear(64, 8), "Linear"), (Embedding(9, 8), "Embedding")):
        assert module.to("meta").half().is_empty and module.to_empty(device="cpu").is_empty
        with pytest.raises(NotImplementedError, match=rf"kdnative\.nn\.{words} is empty.*then move it"):
            module.to("cpu")
        with pytest.raises(NotImplementedError, match="is empty"):
            nn.Sequential(module).cpu()


def test_pack_checks_what_it_is_given():
    weight, bias = quantize_weight(float_linear().weight, "w8a8"), torch.zeros(33)
    module = Linear(128, 33)
    module.pack_(weight, bias)
    assert torch.equal(module.quantized().qweight, weight.qweight)
    before = module.packed
    grouped = quantize_weight(float_linear().weight, Scheme.parse("w4a8-g32-asym"))
    for kind, arguments, words in (
        (module, (weight,), "has a bias, and was given none"),
        (Linear(128, 33, bias=False), (weight, bias), "has no bias, and was given one"),
        (Linear(64, 33), (weight, bias), r"have shape \[33, 128\], the layer needs \[33, 64\]"),
        (module, (grouped, bias), "4 bits and group size 32, which is not scheme w8a8"),
        (Linear(128, 33, "w4a8-g32"), (grouped, bias), "is symmetric: use w4a8-g32-asym"),
        (Linear(128, 33, "w4a8-g32-int"), (grouped, bias), "no integer group scales"),
        (module, (weight, torch.full((33,), torch.nan)), "NaN or infinite"),
        (module, (weight, torch.zeros(32)), r"shape \[32\], the layer needs \[33\]"),
    ):
        with pytest.raises(ValueError, match=words):
            kind.pack_(*arguments)
    assert module.packed is before


def test_embedding():
    source, empty = nn.Embedding(20, 12), Embedding(20, 12, padding_idx=3)
    assert empty.is_empty and empty.weight.shape == (20, 12)
    for values in (empty.quantized, lambda: empty.weight.clone(), lambda: empty(torch.tensor([1]))):
        with pytest.raises(RuntimeError, match=r"kdnative\.nn\.Embedding is empty"):
            values()
    full = Embedding.from_float(source)
    state = full.state_dict()
    empty.load_state_dict(state)
    state["qweight"].zero_()
    state["scale"].zero_()
    other = Embedding(20, 12)
    other.load_state_dict(source.state_dict())
    for filled in (empty, other):
        assert torch.equal(filled.quantized().qweight, other.qweight) and bool((filled.scale > 0).all())
    with pytest.raises(RuntimeError, match="size mismatch for qweight"):
        Embedding(21, 12).load_state_dict(other.state_dict())
    with pytest.raises(RuntimeError, match="Missing.*scale"):
        Embedding(20, 12).load_state_dict({"qweight": other.qweight})


def test_attention():
    attention = MultiheadAttention(32, 4).eval()
    x = torch.randn(5, 2, 32)
    with torch.no_grad(), pytest.raises(RuntimeError, match="is empty"):
        attention(x, x, x)


def layer_spec(kind, **settings):
    layer = {"heads": 4, "head_dim": 8, "ffn": 64, "scaling": 0.35}
    layer |= dict.fromkeys(("qkv", "output", "ffn_in", "ffn_out"), "w8a8")
    spec = {"embeddings": False, "hidden_size": 32, "activation": "gelu", "eps": 1e-5, "layers": [layer], **settings}
    return kind.from_spec(spec)


@pytest.mark.parametrize(
    ("kind", "settings"), [(EncoderLayer, {}), (TransformerEncoder, {"batch_first": True, "final_norm": None})]
)
def test_layers(kind, settings):
    empty = layer_spec(kind, **settings)
    x = torch.randn(2, 5, 32)
    with torch.no_grad(), pytest.raises(RuntimeError, match="packed weights are on meta.*empty"):
        empty(x)
    with torch.no_grad():
        assert empty(x.to("meta")).shape == x.shape
    with pytest.raises(RuntimeError, match=f"{kind.__name__} is empty"):
        empty.parts()
    state = empty.state_dict()
    assert state and all(value.is_meta for value in state.values())
    some = {"layers.0.output_norm.weight": torch.ones(32)}
    with pytest.raises(RuntimeError, match="it is empty, so all of its tensors are needed; missing: layers.0.qkv"):
        empty.load_state_dict(some, strict=False)
    with pytest.raises(NotImplementedError, match="is empty"):
        empty.to("cpu")
    assert empty.half().is_empty


def test_an_encoder_with_an_empty_part_is_not_packed():
    parts = EncoderParts(layer_spec(EncoderLayer).spec)
    with pytest.raises(ValueError, match="can't be packed, as it has an empty part: Linear"):
        encoder_format.pack(parts)


def test_a_conversion_packs_every_linear_once(monkeypatch):
    from kdnative import convert_

    packed = []
    real = dense.pack
    monkeypatch.setattr(dense, "pack", lambda weight, bias=None: packed.append(weight) or real(weight, bias))
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 3).eval()
    convert_(encoder)
    assert len(packed) == 12
