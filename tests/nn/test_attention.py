"""kdnative.nn.MultiheadAttention: against torch's, in decoders and cross-attention, and through checkpoints."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from kdnative import convert_, load, save
from kdnative.formats import QuantizedWeight
from kdnative.formats.scheme import Scheme
from kdnative.nn import Linear, MultiheadAttention
from kdnative.quantize import quantize_weight
from tests.small_models import rows

E, HEADS = 96, 4


def attention(**options):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(E, HEADS, **{"batch_first": True, **options}).eval()
    for bias in (module.in_proj_bias, module.out_proj.bias):
        if bias is not None:
            nn.init.normal_(bias, std=0.3)
    return module


def dequantized(module, native):
    """The float attention with the weights that the native one has."""
    other = copy.deepcopy(module)
    parts = (native.q_proj, native.k_proj, native.v_proj)
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.cat([part.weight.clone() for part in parts]))
        other.out_proj.weight.copy_(native.out_proj.weight.clone())
    return other


def exact(module):
    """Our attention around float linears: nothing is rounded."""
    linears = []
    for weight, bias in zip(module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True):
        linears.append(nn.Linear(E, E))
        linears[-1].weight, linears[-1].bias = nn.Parameter(weight), nn.Parameter(bias)
    return MultiheadAttention.from_parts([*linears, module.out_proj], HEADS, module.batch_first)


def tokens(*shape):
    return torch.randn(*shape, E, generator=torch.Generator().manual_seed(sum(shape)))


def check(native, module, *inputs, tolerance=2e-5, **options):
    with torch.no_grad():
        (want, want_weights), (got, weights) = module(*inputs, **options), native(*inputs, **options)
    assert got.shape == want.shape and got.dtype == want.dtype
    assert torch.equal(got.isnan(), want.isnan())
    assert (got - want).nan_to_num().norm() <= tolerance * want.nan_to_num().norm()
    assert (weights is None) == (want_weights is None)
    if weights is not None:
        assert weights.shape == want_weights.shape and torch.allclose(weights, want_weights, atol=tolerance)


@pytest.mark.parametrize("scheme", ["w8a8", "w8a16", "w4a8-g32", "w4a16-g32-asym", "w4a8-g32-int", "w2a16-g32"])
@pytest.mark.parametrize("bias", [False, True])
def test_matches_torch(scheme, bias):
    module = attention(bias=bias)
    native = convert_(copy.deepcopy(module), scheme, method="rtn").model
    assert type(native) is MultiheadAttention and str(native.q_proj.scheme) == str(native.out_proj.scheme) == scheme
    module = dequantized(module, native)
    x, y = tokens(2, 7), tokens(2, 5)
    tolerance = 0.03 if "a8" in scheme else 0.006  # activations of 8 bits; factors that some instruction sets round
    for weights in (True, False):
        options = {"need_weights": weights, "tolerance": tolerance}
        check(native, module, x, x, x, **options)
        check(native, module, x, y, y, **options)
        check(native, module, x, y, y + 1, average_attn_weights=False, **options)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_masks(batch_first, need_weights):
    module = attention(batch_first=batch_first)
    native = exact(module)
    x, y = tokens(2, 7), tokens(2, 5)
    if not batch_first:
        x, y = x.transpose(0, 1), y.transpose(0, 1)
    g = torch.Generator().manual_seed(0)
    pairs, heads = torch.rand(7, 5, generator=g) < 0.3, torch.rand(2 * HEADS, 7, 5, generator=g) < 0.3
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    pairs[:, 0], heads[..., 0] = False, False
    for mask in (None, pairs, heads, pairs * -2.5, heads * -torch.tensor(1.5)):
        for left_out in (None, padding, padding * torch.tensor(-3.0)):
            if mask is not None and left_out is not None and mask.dtype != left_out.dtype:
                continue  # torch warns of these
            check(native, module, x, y, y, key_padding_mask=left_out, attn_mask=mask, need_weights=need_weights)
    causal = nn.Transformer.generate_square_subsequent_mask(7)
    check(native, module, x, x, x, attn_mask=causal, is_causal=True, need_weights=need_weights)


def test_shapes_and_dtypes():
    module = attention()
    native = exact(module)
    x, y = tokens(7), tokens(5)
    for weights in (True, False):
        check(native, module, x, y, y, need_weights=weights)
        check(native, module, x, y, y, key_padding_mask=torch.arange(5) > 3, need_weights=weights)
        check(native, module, tokens(0, 7), tokens(0, 5), tokens(0, 5), need_weights=weights)
        check(native, module, tokens(1, 1), tokens(1, 1), tokens(1, 1), need_weights=weights)
    native = convert_(module).model
    wide = torch.zeros(2, 14, 2 * E)
    wide[:, ::2, ::2] = tokens(2, 7)
    strided = wide[:, ::2, ::2]
    assert torch.equal(native(strided, strided, strided)[0], native(*3 * [tokens(2, 7)])[0])
    for dtype in (torch.bfloat16, torch.float16):
        half = tokens(2, 7).to(dtype)
        out, weights = native(half, half, half)
        assert out.dtype == weights.dtype == dtype
        in_float = native(*3 * [half.float()])[0]
        assert (out.float() - in_float).norm() < 0.02 * in_float.norm()


def test_bad_calls():
    native, x = convert_(attention()).model, tokens(2, 7)
    for name, shape, allowed in (
        ("attn_mask", (6, 7), r"\[7, 7\] or \[8, 7, 7\], got \[6, 7\]"),
        ("attn_mask", (2, 7, 7), r"\[7, 7\] or \[8, 7, 7\], got \[2, 7, 7\]"),
        ("key_padding_mask", (2, 6), r"\[2, 7\], got \[2, 6\]"),
    ):
        with pytest.raises(RuntimeError, match=rf"{name} of shape {allowed}"):
            native(x, x, x, **{name: torch.zeros(shape, dtype=torch.bool)})
    with pytest.raises(RuntimeError, match="is_causal=True needs the attn_mask"):
        native(x, x, x, is_causal=True)
    with pytest.raises(RuntimeError, match=str(E)):
        native(x[..., 1:], x, x)
    with pytest.raises(RuntimeError, match="requires grad"):
        native(x.requires_grad_(), x, x)
    with pytest.raises(ValueError, match="num_heads must divide embed_dim, got 5 and 96"):
        MultiheadAttention(E, 5)


# -- conversion ------------------------------------------------------------------------------------------------------


def test_a_decoder(tmp_path):
    torch.manual_seed(0)
    model = nn.TransformerDecoder(nn.TransformerDecoderLayer(E, HEADS, 128, batch_first=True), 2).eval()
    x, memory, causal = tokens(2, 7), tokens(2, 5), nn.Transformer.generate_square_subsequent_mask(7)
    other = copy.deepcopy(model)

    def run(model):
        return model(
            x, memory, tgt_mask=causal, tgt_is_causal=True, memory_key_padding_mask=torch.arange(10).view(2, 5) > 7
        )

    with torch.no_grad():
        expected = run(model)
        report = convert_(model)
        actual = run(model)
        assert torch.cosine_similarity(actual, expected, dim=-1).min() > 0.995
        save(model, tmp_path / "m")
        assert load(tmp_path / "m", into=other) is other and torch.equal(run(other), actual)
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(MultiheadAttention) == 4 and kinds.count(Linear) == 2 * (4 + 4 + 2)
    found = rows(report)
    for name in ("layers.1.self_attn", "layers.1.multihead_attn", "layers.1.multihead_attn.out_proj"):
        assert (found[name].action, found[name].scheme) == ("converted", "w8a8")
    assert found["layers.0.self_attn"].shape == [3 * E, E]
    tensors = {id(t): t for t in (*model.parameters(), *model.buffers())}.values()
    assert report.totals["bytes_after"] == sum(t.numel() * t.element_size() for t in tensors)


def test_in_a_model_that_is_built_from_a_file(tmp_path):
    model = nn.ModuleDict({"attention": attention(), "head": nn.Linear(E, 3)})
    x = tokens(2, 7)
    convert_(model, "w4a8-g32")
    want = model["attention"](x, x, x)[0]
    save(model, tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert type(loaded["attention"]) is MultiheadAttention and loaded["attention"].batch_first
    assert torch.equal(loaded["attention"](x, x, x)[0], want)


def test_an_attention_alone(tmp_path):
    ours, other, x = attention(bias=False), attention(bias=False), tokens(2, 7)
    convert_(ours)
    want = ours(x, x, x)[0]
    save(ours, tmp_path / "m")
    assert torch.equal(load(tmp_path / "m")(x, x, x)[0], want)
    assert load(tmp_path / "m", into=other) is other and torch.equal(other(x, x, x)[0], want)
    for same in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(same(x, x, x)[0], want)
    fresh = MultiheadAttention(**ours.spec)
    fresh.load_state_dict(ours.state_dict())
    assert torch.equal(fresh(x, x, x)[0], want)


def test_sparse_weights():
    module = attention()
    with torch.no_grad():
        for weight in (module.in_proj_weight, module.out_proj.weight):
            weight[torch.rand(weight.shape[0] // 4, E).repeat_interleave(4, 0) < 0.9] = 0
    dense, sparse = (convert_(copy.deepcopy(module), {"": scheme}).model for scheme in ("w8a8", "w8a8+4x1"))
    assert sparse.k_proj.scheme == Scheme.parse("w8a8+4x1")
    x = tokens(3, 11)
    assert torch.equal(sparse(x, x, x)[0], dense(x, x, x)[0])


def test_compiles_to_one_graph_and_exports():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention()

        def forward(self, x, y):
            return self.attention(x, y, y, key_padding_mask=torch.arange(5) > 3, need_weights=False)[0]

    model, x, y = convert_(Model()).model, tokens(1, 7), tokens(1, 5)
    with torch.inference_mode():
        want = model(x, y)
        assert torch.equal(torch.compile(model, fullgraph=True, backend="aot_eager")(x, y), want)
    assert torch.equal(torch.export.export(model, (x, y)).module()(x, y), want)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kdim": 48}, "it has a kdim or vdim of its own"),
        ({"add_bias_kv": True}, "it has add_bias_kv or add_zero_attn"),
    ],
)
def test_attention_that_stays_in_float(options, words):
    model = nn.Sequential(attention(**options), nn.Linear(E, E))
    found = rows(convert_(model))
    assert type(model[0]) is nn.MultiheadAttention and type(model[0].out_proj) is not Linear
    assert found["0"].action == found["0.out_proj"].action == "kept"
    assert f"nn.MultiheadAttention reads this weight itself, and stays in float ({words})" == found["0.out_proj"].reason


def test_parts_in_float(tmp_path):
    model, other, x = nn.Sequential(attention()), nn.Sequential(attention()), tokens(2, 7)
    found = rows(convert_(model, keep=["0.out_proj"]))
    with torch.no_grad():
        other[0].out_proj.weight.zero_()
        save(model, tmp_path / "m")
        load(tmp_path / "m", into=other)
        assert torch.equal(other[0](x, x, x)[0], model[0](x, x, x)[0])
    assert type(model[0]) is MultiheadAttention and isinstance(model[0].out_proj, nn.Linear)
    assert found["0.out_proj"].action == "kept"
    model = nn.Sequential(attention())
    with pytest.raises(ValueError, match=r"0.out_proj: nn.MultiheadAttention reads this weight itself"):
        convert_(model, {"0.out_proj": "w8a8"})
    assert type(model[0]) is nn.MultiheadAttention
    model = nn.Sequential(attention())
    with torch.no_grad():
        model[0].in_proj_weight[3, 4] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite values: its weight has 1 of them"):
        convert_(model)


def test_given_weights_are_not_checked_again(monkeypatch):
    model = nn.ModuleDict({"a": attention()})
    scheme = Scheme.parse("w4a8-g32-asym")
    given = {
        name: quantize_weight(weight.detach(), scheme)
        for name, weight in (("a", model["a"].in_proj_weight), ("a.out_proj", model["a"].out_proj.weight))
    }
    monkeypatch.setattr(QuantizedWeight, "__post_init__", lambda self: pytest.fail("checked again"))
    convert_(model, scheme, weights=given)
    for place, part in enumerate((model["a"].q_proj, model["a"].k_proj, model["a"].v_proj)):
        assert torch.equal(part.quantized().dequantize(), given["a"].dequantize()[place * E : (place + 1) * E])
